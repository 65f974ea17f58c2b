"""Types of arguments that several commands take; what is wrong is an argparse.ArgumentTypeError."""

from __future__ import annotations

import argparse


def at_least_one(text: str) -> int:
    """A whole number of things."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def positive(text: str) -> float:
    """A number of seconds, minutes or times."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return float(text)


def port(text: str) -> int:
    """A TCP port to listen on."""
    if not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError("must be between 1 and 65535")
    return int(text)


def port_or_any(text: str) -> int:
    """The same, or 0 for one that is free."""
    return 0 if int(text) == 0 else port(text)
