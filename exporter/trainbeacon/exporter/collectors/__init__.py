"""What the exporter reads at each scrape: one file a source, listed in `trainbeacon.exporter.registry`."""
