"""The read side: black boxes, GPUs and the host, served on `/metrics`."""
