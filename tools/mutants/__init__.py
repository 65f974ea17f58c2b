"""Mutants of the alert rules, and which tests find them."""
