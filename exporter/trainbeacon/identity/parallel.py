"""Where a rank stands in a job that is parallel in several ways: which part of the work it has."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

#: No dimension of a job has more ranks: an index is a label value, and at most so many are possible.
MOST_INDEX = 65535


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """The rank's index in each dimension of parallelism; None where the job has no such dimension.

    Ranks of one stage, context and expert index do the same work on other data, or a slice of the same
    work each (tensor): they are each other's peers.
    """

    stage: int | None = None
    """Index in the pipeline."""
    tensor_rank: int | None = None
    """Index among the ranks that share each layer."""
    context_rank: int | None = None
    """Index among the ranks that share a sequence."""
    expert_rank: int | None = None
    """Index among the ranks that share the experts."""
    data_rank: int | None = None
    """Index among the ranks that have other data and the same part of the model."""

    def over(self, other: Coordinates) -> Coordinates:
        """These, and what is not known of them from `other`."""
        pairs = zip(DIMENSIONS, astuple(self), astuple(other), strict=True)
        return Coordinates(**{name: second if first is None else first for name, first, second in pairs})

    def labels(self) -> tuple[str, ...]:
        """As label values, in the order of `DIMENSIONS`; empty for what there is not."""
        return tuple("" if value is None else str(min(value, MOST_INDEX)) for value in astuple(self))


DIMENSIONS: tuple[str, ...] = tuple(field.name for field in fields(Coordinates))
