"""The dashboards: `panels.py` builds them, `sources/` says what is on them, `dashboards/` holds the JSON.

Rows and panels that stand on several pages, or that a long page has of its own, are in `rows/`.
"""
