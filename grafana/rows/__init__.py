"""Rows and panels that dashboards share, and the long rows of one page."""
