"""A process with one GpuCollector, for tests: obeys a command a line, answers each up to a line of a dot.

`collect` prints the exposition, or `raised: ...`; `start` does the same in a thread of its own without
waiting; `drop` gives the collector up; `threads` names the threads that run; `advance SECONDS` moves
the collector's clock; `patience SECONDS` sets how long a scrape waits.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

from prometheus_client import generate_latest

from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.gpu import GpuCollector
from trainbeacon.exporter.collectors.gpu import collector as gpu


class _Registry:
    def __init__(self, families: Families) -> None:
        self.families = families

    def collect(self) -> Iterator[object]:
        return iter(self.families)


def exposition(collector: GpuCollector) -> str:
    families = Families()
    raised = ""
    try:
        collector.collect(families)
    except Exception as error:
        raised = f"raised: {type(error).__name__}: {error}\n"
    return generate_latest(_Registry(families)).decode() + raised


def main() -> None:
    now = 1000.0
    collector = GpuCollector(clock=lambda: now)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "collect":
            print(exposition(collector), end="")
        elif command == "start":
            threading.Thread(target=exposition, args=[collector], daemon=True).start()
            while not collector._lock.locked():  # the next command must find it at work
                time.sleep(0.001)
        elif command == "advance":
            now += float(arguments[0])
        elif command == "patience":
            gpu.LOCK_TIMEOUT = float(arguments[0])
        elif command == "drop":
            del collector  # as when an exporter in a thread ends
        elif command == "threads":
            print(*sorted(thread.name for thread in threading.enumerate()), sep="\n")
        elif command == "imported":
            print("pynvml" in sys.modules)
        print(".", flush=True)


if __name__ == "__main__":
    main()
