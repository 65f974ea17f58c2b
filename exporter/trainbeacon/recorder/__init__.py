"""The write side: what runs inside the training process. It knows no Prometheus and never waits."""
