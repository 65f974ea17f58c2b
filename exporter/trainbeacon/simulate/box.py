"""The black box of a simulated rank: the real writer and the real form, filled by the model's clock."""

from __future__ import annotations

from trainbeacon import catalogue
from trainbeacon._version import __version__
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.machine import boot_id, pid_namespace
from trainbeacon.blackbox.reader import Box, BoxDirectory, BoxFile
from trainbeacon.blackbox.writer import Writer


class SimulatedBox:
    """One rank's box, in a directory or, with `directory` None, in memory of this process.

    `held` says whether the simulated process lives: a box in memory has no lock that could be free.
    """

    def __init__(self, directory: str | None, run: str, rank: int, attempt: int, start: float) -> None:
        identity = {
            "run": run,
            "rank": rank,
            "attempt": attempt,
            "start": start,
            "pid": 0,  # the simulator's own process is no training process
            "pid_namespace": pid_namespace(),
            "boot_id": boot_id(),
            "version": __version__,
        }
        self.run, self.rank = run, rank
        self.in_memory = directory is None
        self.held = True
        self.name = f"{run}.{rank}.{attempt}"
        self.file = BoxFile(self.name)
        self._writer = Writer.private(identity) if directory is None else Writer.create(directory, identity)
        self._slots: dict[tuple[str, tuple[str, ...]], int] = {}
        for place in catalogue.RANK_PLACES:
            self.set("trainbeacon_errors_total", 0.0, place)
        self.set("trainbeacon_series_dropped_total", 0.0)

    def set(self, metric: str, value: float, *labels: str) -> None:
        """Give a series its number; those of a step are seen after `commit`."""
        slot = self._slots.get((metric, labels))
        if slot is None:
            slot = self._slots[metric, labels] = self._writer.declare(metric, labels)
        if metric in layout.STEP_METRICS:
            self._writer.step[slot] = value
        else:
            self._writer.slots[slot] = value

    def info(self, metric: str, *labels: str, key: str = "") -> None:
        """Set the text of an info series; a later one with the same metric and key replaces it."""
        self._writer.info(metric, labels, key)

    def commit(self) -> None:
        """Publish the numbers of the step."""
        self._writer.commit()

    def end(self, state: str | None) -> None:
        """The process ends in this state or, with None, without reporting one."""
        if not self.held:
            return
        if state is not None:
            self._writer.end(state)
        self.held = False
        if not self.in_memory:
            self._writer.close()  # frees the lock; the file stays for the exporter

    # Source, for the reader

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of a box in memory."""
        return self._writer.read(offset, length)

    def lock_held(self) -> bool:
        """Whether the simulated process lives."""
        return self.held


class MemoryBoxes(BoxDirectory):
    """Boxes in memory, read by the same reader as files; `folder` is an empty directory in their place."""

    def __init__(self, folder: int) -> None:
        super().__init__(folder)
        self.boxes: list[SimulatedBox] = []
        self._seen: list[Box] | None = None

    def scan(self, *, ring: bool = False) -> list[Box]:
        """Look at every box, once between two changes: several collectors ask in each scrape."""
        if self._seen is None:
            self._seen = [box.file.read(box, ring=ring) for box in self.boxes]
        return self._seen

    def changed(self) -> None:
        """The boxes hold other numbers now."""
        self._seen = None

    def take(self, box: SimulatedBox) -> None:
        """Hold a new box; one of the same rank before it that is dead goes, as an exporter removes it."""
        kept = [old for old in self.boxes if old.held or (old.run, old.rank) != (box.run, box.rank)]
        self.boxes = [*kept, box]
