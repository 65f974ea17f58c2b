"""`python many_ranks.py COUNT`: that many boxes of the default folder; prints how many, and bytes in use."""

from __future__ import annotations

import os
import sys
import tempfile

from trainbeacon.blackbox.directory import default_directory, open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.blackbox.writer import Writer

writers = [Writer.create(None, {"run": "r", "rank": rank, "start": 1.0}) for rank in range(int(sys.argv[1]))]
boxes = BoxDirectory(open_directory(None)).scan()
space = os.statvfs(default_directory())
assert default_directory().startswith("/dev/shm"), tempfile.gettempdir()
print(len(boxes), (space.f_blocks - space.f_bfree) * space.f_frsize)
