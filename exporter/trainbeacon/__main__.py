"""`python -m trainbeacon`: the same commands as `trainbeacon`."""

from __future__ import annotations

import sys

from trainbeacon.cli import main

if __name__ == "__main__":
    sys.exit(main())
