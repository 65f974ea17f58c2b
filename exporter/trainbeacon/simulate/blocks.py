"""Blocks of Prometheus' data folder from lines of text, by promtool."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TextIO

#: Prometheus cuts its blocks at whole multiples of this.
BLOCK_SECONDS = 7200


class BlockMaker:
    """Hands the text of each block to promtool, which works while the next one is written.

    `seconds` is how long a block is: as it is first cut, or of what Prometheus has merged later.
    """

    def __init__(self, scratch: Path, folder: str, promtool: str, seconds: int = BLOCK_SECONDS) -> None:
        self._scratch, self._folder, self._promtool = scratch, folder, promtool
        self._seconds = seconds
        self._number = -1
        self._file: TextIO | None = None
        self._running: tuple[subprocess.Popen[str], Path] | None = None

    def add(self, timestamp: float, lines: list[str]) -> None:
        """Take the lines of one moment; times only grow."""
        block = int(timestamp // self._seconds)
        if block != self._number:
            self._close()
            self._number = block
            self._file = (self._scratch / f"{block}.om").open("w")
        assert self._file is not None
        self._file.writelines(lines)

    def finish(self) -> None:
        """Wait for the last block. Raises subprocess.CalledProcessError as `add` does."""
        self._close()
        self._wait()

    def _close(self) -> None:
        if self._file is None:
            return
        self._file.write("# EOF\n")
        self._file.close()
        path = Path(self._file.name)
        self._wait()
        command = [self._promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
        command.append(f"--max-block-duration={self._seconds}s")
        command += [str(path), self._folder]
        process = subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self._running = (process, path)
        self._file = None

    def _wait(self) -> None:
        if self._running is None:
            return
        process, path = self._running
        _, errors = process.communicate()
        path.unlink()
        self._running = None
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args, stderr=errors)
