"""What is served is what was measured beside it: tables of scripts and of ends, with their true values."""
