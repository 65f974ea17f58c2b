"""The boxes that this very process writes, for readers in the same process.

A reader must not open such a box: closing any descriptor of a file frees the POSIX locks that the process
holds on it, the life lock of the box among them. It reads through the writer's mapping instead.
"""

from __future__ import annotations

from typing import Protocol


class OwnBox(Protocol):
    """A box of this process, as far as a reader needs it.

    Threads: may be read from any thread while the training thread writes.
    """

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the box, fewer where it ends."""


#: By device and inode: added by the writer before the file can be seen, removed once its lock is gone.
own_boxes: dict[tuple[int, int], OwnBox] = {}
