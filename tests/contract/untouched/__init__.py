"""Training goes on as if nobody watched: what a script does with its own objects and with its process."""
