"""Gradients, parameters and layers: norms, and where a NaN comes from."""
