"""Numbers and times of a device, read without making the training thread wait."""
