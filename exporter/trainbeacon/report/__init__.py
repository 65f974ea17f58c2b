"""`trainbeacon report`: what a run was, on one page, and whether it is slower than another."""
