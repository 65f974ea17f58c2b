"""Training scripts as people write them, by what is particular of each."""

from __future__ import annotations
