"""Faults injected into real training processes, and what the signals say of them."""
