"""What runs beside the training thread: one loop, the exporter's supervisor, the schedule of probes."""
