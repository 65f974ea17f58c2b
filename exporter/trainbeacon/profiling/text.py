"""A profile as text: the verdict first, then the operations, then the time between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from trainbeacon.identity import printable
from trainbeacon.profiling.trace import Gap, Operation, Profile

_NAME = 46
#: From this share of the time on, one thing is said to be what the time goes to.
_MUCH = 0.25
_DATA = re.compile(r"DataLoader|_next_data")
_WAITS = re.compile(r"^(c10d::|nccl:|gloo:|record_param_comms)")


def verdict(profile: Profile) -> str:
    """Where the time went, in one sentence, with what to do."""
    if profile.seconds <= 0:
        return "the trace has no operation of PyTorch: nothing can be said of it"
    if profile.device_busy is not None:
        idle = 1 - profile.device_busy / profile.seconds
        if idle >= _MUCH:
            return (
                f"the GPU is idle for {idle:.0%} of the time: it waits for this process, whose operations "
                f"and gaps are below"
            )
        return f"the GPU is busy for {1 - idle:.0%} of the time, most in {_first(profile.device)}"
    waits = sum(each.seconds for each in profile.host if _WAITS.search(each.name)) / profile.seconds
    if waits >= _MUCH:
        return f"{waits:.0%} of the time the rank waits for other ranks: profile the one that they wait for"
    between = profile.between / profile.seconds
    if between >= _MUCH:
        gap = profile.gaps[0]
        return (
            f"{between:.0%} of the time no operation of PyTorch runs: the script itself, Python or data. "
            f"Most of it is between {_short(gap.after)} and {_short(gap.before)}"
        )
    return f"operations of PyTorch take {1 - between:.0%} of the time, most in {_first(profile.host)}"


def lines(profile: Profile, rows: int) -> Iterator[str]:
    """The tables below the verdict."""
    if profile.device:
        yield f"on the GPU ({profile.device_busy or 0:.4g} s of {profile.seconds:.4g} s)"
        yield from _operations(profile.device, profile.seconds, rows)
        yield ""
    yield f"operations ({profile.busy:.4g} s of {profile.seconds:.4g} s on the training thread)"
    yield from _operations(profile.host, profile.seconds, rows)
    yield ""
    yield f"between operations ({profile.between:.4g} s of {profile.seconds:.4g} s)"
    yield f"  {'AFTER':<{_NAME // 2}} {'BEFORE':<{_NAME // 2}} {'TIME':>9} {'SHARE':>6} {'TIMES':>7}"
    for gap in profile.gaps[: max(1, rows // 3)]:
        yield _gap(gap, profile.seconds)


def document(profile: Profile, rows: int) -> dict[str, Any]:
    """The same for programs."""

    def operations(found: Sequence[Operation]) -> list[dict[str, Any]]:
        return [{"name": o.name, "seconds": o.seconds, "calls": o.calls} for o in found[:rows]]

    return {
        "verdict": verdict(profile),
        "seconds": profile.seconds,
        "busy_seconds": profile.busy,
        "between_seconds": profile.between,
        "gpu_busy_seconds": profile.device_busy,
        "operations": operations(profile.host),
        "gpu_operations": operations(profile.device),
        "gaps": [
            {"after": gap.after, "before": gap.before, "seconds": gap.seconds, "times": gap.times}
            for gap in profile.gaps[:rows]
        ],
    }


def _operations(found: Sequence[Operation], seconds: float, rows: int) -> Iterator[str]:
    yield f"  {'OPERATION':<{_NAME}} {'OWN TIME':>10} {'SHARE':>6} {'CALLS':>7}"
    for each in found[:rows]:
        name = printable(each.name, _NAME)
        spent = f"{each.seconds * 1e3:>7.2f} ms {each.seconds / seconds:>6.1%}"
        yield f"  {name:<{_NAME}} {spent} {each.calls:>7}"


def _gap(gap: Gap, seconds: float) -> str:
    half = _NAME // 2
    names = f"{printable(gap.after, half):<{half}} {printable(gap.before, half):<{half}}"
    return f"  {names} {gap.seconds * 1e3:>6.2f} ms {gap.seconds / seconds:>6.1%} {gap.times:>7}"


def _first(found: Sequence[Operation]) -> str:
    return f"{_short(found[0].name)} ({found[0].calls} calls)"


def _short(name: str) -> str:
    return printable(name, 60)
