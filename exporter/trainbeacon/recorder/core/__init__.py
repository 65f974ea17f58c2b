"""What all of the write side stands on: recorder, timeline, steps, metrics."""
