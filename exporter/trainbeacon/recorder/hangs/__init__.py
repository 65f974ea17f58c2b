"""Evidence of a hang: what a rank was doing when it made no progress, kept in a file."""
