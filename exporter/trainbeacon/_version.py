"""The version of the package, of the metric names and of the black box's writer."""

__version__ = "0.1.0"
