"""What the README's figures come from: `python -m benchmarks [--quick]`. See README.md beside this file."""
