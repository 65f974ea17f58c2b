"""The dashboards: `panels.py` builds them, `sources/` says what is on them, `dashboards/` holds the JSON."""
