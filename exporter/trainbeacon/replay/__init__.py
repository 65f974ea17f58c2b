"""Runs of the past: what TensorBoard's event files hold, as history for Prometheus.

events   event files under a folder, and the numbers in them
series   which series a number belongs to
store    all numbers, sorted on disk
replay   from a folder to text or blocks
"""
