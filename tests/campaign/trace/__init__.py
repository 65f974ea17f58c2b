"""A trace of a job, a row an operation of a worker, played to the shipped rules."""
