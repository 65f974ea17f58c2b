"""Expressions of PromQL, taken apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import promql_parser as promql


def walk(node: Any) -> Iterator[Any]:
    """The node and all below it."""
    yield node
    children = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector")]
    for child in (*children, *(getattr(node, "args", None) or ())):
        if child is not None and not isinstance(child, (str, float)):
            yield from walk(child)


def selectors(node: Any) -> list[Any]:
    """The selectors of series in it."""
    return [each for each in walk(node) if isinstance(each, promql.VectorSelector)]
