"""Checkpoints: how long they block training, how long they take to write, whether they succeed."""
