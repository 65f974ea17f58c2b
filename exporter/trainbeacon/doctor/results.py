"""What a check finds, and the table of codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainbeacon.doctor.context import Context

#: In the order of their weight.
STATUSES = ("fail", "warn", "unknown", "skip", "ok")


@dataclass(frozen=True)
class Result:
    """The outcome of one code for one subject."""

    code: str
    status: str
    """One of `STATUSES`."""
    evidence: str = ""
    fix: str = ""
    """The command that mends it, or one sentence where no command can."""


class SkippedError(Exception):
    """A check does not apply here; the text says why."""


class UnknownError(Exception):
    """A check could not look; the text says why."""


@dataclass(frozen=True)
class Check:
    """One function with the codes that it decides."""

    area: str
    codes: dict[str, str]
    """Code: what is wrong when it is not ok."""
    look: Callable[[Context], Iterable[Result]]

    def run(self, context: Context) -> Iterator[Result]:
        """A result for every code, more than one where several subjects are amiss."""
        found: list[Result] = []
        rest, why = "ok", ""
        try:
            for result in self.look(context):
                found.append(result)  # noqa: PERF402 - what was found before an error stays
        except SkippedError as reason:
            rest, why = "skip", str(reason)
        except UnknownError as reason:
            rest, why = "unknown", str(reason)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            # What answers is not what it should be, or a file has another form: that is not knowing.
            rest, why = "unknown", f"{type(error).__name__}: {error}"
        named = {each.code for each in found}
        yield from found
        yield from (Result(code, rest, why) for code in self.codes if code not in named)


def fail(code: str, evidence: str, fix: str) -> Result:
    """No number or no message comes through until this is mended."""
    return Result(code, "fail", evidence, fix)


def warn(code: str, evidence: str, fix: str) -> Result:
    """It works, but something is lost, late or unsafe."""
    return Result(code, "warn", evidence, fix)
