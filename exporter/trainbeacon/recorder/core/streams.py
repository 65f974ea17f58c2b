"""Standard streams that are closed: nothing of ours may come to lie in their place."""

from __future__ import annotations

import os


def occupy_standard_streams() -> None:
    """Open /dev/null wherever descriptors 0 to 2 are closed, as in a daemon.

    A file of ours would get the number else, and be written to by whoever prints. They stay open: by the
    end of the run the script may have put something in their place.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # the lowest number that is free
            if opened != number:  # somebody was faster
                os.close(opened)
