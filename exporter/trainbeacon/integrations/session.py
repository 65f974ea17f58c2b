"""The run of a framework: started where the script has not done so, and ended only by who started it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from trainbeacon.config.redaction import MOST_HYPERPARAMETERS
from trainbeacon.config.settings import Config
from trainbeacon.recorder.api.beacon import Beacon
from trainbeacon.recorder.api.start import current_beacon, start


class MissingFrameworkError(ImportError):
    """An adapter was imported whose framework is not installed."""

    def __init__(self, adapter: str, package: str) -> None:
        super().__init__(
            f"trainbeacon.integrations.{adapter} needs {package}, which is not installed: "
            f"pip install 'trainbeacon[{adapter}]'"
        )


class Session:
    """One run as an adapter sees it. For the thread that trains.

    Args:
        settings: for `trainbeacon.start`, where the adapter is who starts the run.

    Attributes:
        settings: as given.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self._beacon: Beacon | None = None
        self._own = False
        self._open: list[AbstractContextManager[Any]] = []

    @property
    def beacon(self) -> Beacon | None:
        """The run under way, None before `begin` and after the end."""
        return self._beacon if self._beacon is not None and self._beacon.recording else None

    def begin(
        self,
        *,
        run: str | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        steps_planned: int | None = None,
        resumed_at: int = 0,
    ) -> Beacon:
        """Take up the run that the script has started, or start one; again for the same run changes nothing.

        Args:
            run: the name that the framework knows, for a run that starts here and has no other.
            hyperparameters: for a run that starts here.
            steps_planned: steps of the optimizer up to the planned end, where the framework knows.
            resumed_at: the step that the framework goes on after.

        Raises:
            ConfigError: a setting of the adapter's is impossible.
        """
        if self.beacon is not None:
            return self.beacon
        found = current_beacon()
        self._own = found is None
        if found is None:
            own: dict[str, Any] = {"hyperparameters": hyperparameters or {}, **self.settings}
            if run and Config.load(own).run is None:
                own["run"] = run
            found = start(**own)
        self._beacon = found
        if steps_planned is not None and steps_planned > 0 and found.config.steps_planned is None:
            found.recorder.set_of_run("training_steps_planned", float(steps_planned))
        if resumed_at and found.timeline.resumed is None:
            found.resume(resumed_at)
        return found

    def enter(self, context: AbstractContextManager[Any]) -> None:
        """Open a context of the beacon's at an event of the framework's."""
        context.__enter__()
        self._open.append(context)

    def leave(self, error: BaseException | None = None) -> None:
        """Close the last one that is open; nothing if none is."""
        if self._open:
            context = self._open.pop()
            context.__exit__(type(error) if error is not None else None, error, None)

    @property
    def is_shared(self) -> bool:
        """Whether somebody else has started the run."""
        return self._beacon is not None and not self._own

    @property
    def depth(self) -> int:
        """How many contexts are open."""
        return len(self._open)

    def end(self, error: BaseException | None = None) -> None:
        """The framework says that training is over. A run that the script has started goes on."""
        while self._open:
            self.leave(error)
        beacon, self._beacon = self._beacon, None
        if beacon is None:
            return
        if error is not None:
            beacon.on_exception(error)
        if self._own:
            beacon.__exit__(type(error) if error is not None else None, error, None)


def chosen(found: Mapping[str, Any], important: Iterable[str]) -> dict[str, Any]:
    """The hyperparameters that a run has room for: the important ones that are set, in their order."""
    named = {name: found[name] for name in important if found.get(name) is not None}
    return dict(list(named.items())[:MOST_HYPERPARAMETERS])
