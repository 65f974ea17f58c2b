"""Prometheus and Alertmanager on loopback, with the shipped rules and routes."""
