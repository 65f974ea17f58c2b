"""The black boxes of a folder on this machine: no exporter, no network, and the past of the loss at once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from trainbeacon.terminal.sources.base import FactSource
from trainbeacon.terminal.table import Look
from trainbeacon.verdict.facts import RunKey

#: How long a run that has ended is shown: as long as its boxes are kept by default.
ENDED_SECONDS = 3600.0


class BoxSource(FactSource):
    """One folder of black boxes, read by what the exporter reads them with."""

    def __init__(self, directory: str, *, gpu: bool = True, may_be_absent: bool = False) -> None:
        super().__init__(directory)
        self._may_be_absent = may_be_absent
        self._directory = directory
        self._gpu = gpu
        self._descriptor = -1
        self._inode: tuple[int, int] = (0, 0)
        self._losses: dict[RunKey, Sequence[float]] = {}

    def losses(self) -> Mapping[RunKey, Sequence[float]]:
        """The losses in the rings of rank 0, or of the first rank that is there."""
        return self._losses

    def close(self) -> None:
        """Close the folder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        """Open the folder, anew if another has taken its place."""
        from trainbeacon.blackbox.reader import BoxDirectory
        from trainbeacon.exporter.health import Health
        from trainbeacon.exporter.registry import collectors

        status = os.stat(self._directory)
        if self._descriptor >= 0 and (status.st_dev, status.st_ino) == self._inode:
            return
        self.close()
        self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._inode = (status.st_dev, status.st_ino)
        self._boxes = BoxDirectory(self._descriptor)
        listed = collectors(self._boxes, Health(), linger_seconds=ENDED_SECONDS, gpu=self._gpu, mode="top")
        self._collectors = [each for each in listed if each.name in ("ranks", "gpu", "host")]

    def _take(self) -> Look:
        from trainbeacon.exporter.collectors.base import Families

        look = self._table.new_look(self._clock())
        try:
            self._open()
        except FileNotFoundError:
            if self._may_be_absent:  # nobody has trained yet
                return look
            raise
        for collector in self._collectors:
            families = Families()
            try:
                collector.collect(families)
            except Exception as error:
                if collector.name == "ranks":
                    raise OSError(str(error)) from error
            for family in families:
                for sample in family.samples:
                    key = (sample.name, *sample.labels.values())
                    self._table.add(look, key, sample.name, sample.labels, float(sample.value))
        self._read_rings()
        return look

    def _read_rings(self) -> None:
        first: dict[str, tuple[int, float, Sequence[float]]] = {}
        for box in self._boxes.scan(ring=True):
            losses = [
                entry.loss for entry in box.ring if entry.loss is not None and math.isfinite(entry.loss)
            ]
            order = (box.identity.rank, -box.identity.start)
            run = box.identity.run
            if losses and (run not in first or order < first[run][:2]):
                first[run] = (*order, losses)
        self._losses = {("", "", run): losses for run, (_, _, losses) in first.items()}
