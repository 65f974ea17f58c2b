"""Profiles of ranks that run: asking for one, and what a trace says."""
