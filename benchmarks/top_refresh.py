"""What one refresh of `trainbeacon top` costs: processor time of its own process, by the size of the fleet.

    python -m benchmarks.top_refresh [--ranks 4096] [--nodes 512] [--refreshes 20] [OUT.json]

The pages are those of a simulated fleet, taken once (with the signs of life a while ahead, so that nobody
falls silent) and served from another process by a server that does nothing else: a fleet that makes them
anew would be too slow to be asked as often. The screen is the real one, of 80 x 24 cells, without a terminal
behind it: each refresh reads the exporters that are due, judges, and draws. Counted is the processor time of
all threads of this process from one look to the next, after the first three.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from textual import on

from benchmarks.measure import load
from trainbeacon.simulate.fleet import Fleet, Size
from trainbeacon.terminal.screen.app import Seen, TopApp
from trainbeacon.terminal.signs import UNICODE
from trainbeacon.terminal.sources.exporters import ExporterSource
from trainbeacon.terminal.wanted import WANTED
from trainbeacon.terminal.watch import Watch

_LEARNING = 3
_SECONDS_TO_TRAIN = 240.0
_SIGNS = re.compile(rb"^(training_(?:heartbeat|last_step)_timestamp_seconds\S+) \S+$", re.MULTILINE)


class Measured(TopApp):
    """The screen, with the processor time at each look that is to be drawn."""

    def __init__(self, watch: Watch, refreshes: int) -> None:
        super().__init__(watch, UNICODE)
        self._wanted = refreshes + _LEARNING + 1
        self.marks: list[tuple[float, float, float]] = []

    @on(Seen)
    def mark(self) -> None:
        taken = sum(source.state.taken_at or 0.0 for source in self._watch.sources)
        self.marks.append((time.process_time(), time.monotonic(), taken))
        if len(self.marks) >= self._wanted:
            self.exit(0)


def pages_of(ranks: int, nodes: int) -> list[bytes]:
    """What each node of a fleet serves to `top` after some minutes of training."""
    from prometheus_client.exposition import generate_latest

    from trainbeacon.exporter.exposition import encode

    now = [time.time() - _SECONDS_TO_TRAIN]
    fleet = Fleet(Size(ranks, nodes, 4), seed=1, clock=lambda: now[0], in_memory=True)
    pages = []
    try:
        while now[0] < time.time():
            now[0] += 10.0
            fleet.advance()
        for node in fleet.nodes:
            page = encode(_Wanted(node.source()), "text/plain; version=0.0.4", generate_latest)
            pages.append(_SIGNS.sub(rb"\1 %d" % (time.time() + 1800), page))
    finally:
        fleet.close()
    return pages


class _Wanted:
    """The families of a node that `name[]=` asks for."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def collect(self) -> Any:
        for family in self._source.collect():
            family.samples = [sample for sample in family.samples if sample.name in WANTED]
            if family.samples:
                yield family


async def serve(pages: list[bytes]) -> None:
    """Each page on a port of its own, until this process is ended; the ports go to standard output."""
    ports = []
    for page in pages:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)

        async def respond(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer
        ) -> None:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)

        server = await asyncio.start_server(respond, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await asyncio.sleep(3600)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=4096)
    parser.add_argument("--nodes", type=int, default=512)
    parser.add_argument("--refreshes", type=int, default=20)
    parser.add_argument("--interval", type=float, default=2.0)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("out", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(pickle.loads(arguments.serve.read_bytes())))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "pages"
        stored.write_bytes(pickle.dumps(pages_of(arguments.ranks, arguments.nodes)))
        line = [sys.executable, "-m", "benchmarks.top_refresh", f"--serve={stored}"]
        server = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            ports = json.loads(server.stdout.readline())
            result = measure([ExporterSource(f"127.0.0.1:{port}") for port in ports], arguments)
        finally:
            server.terminate()
            server.wait()
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    return 0


def measure(sources: list[ExporterSource], arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of processor a refresh."""
    begun = load()
    watch = Watch(sources, arguments.interval)
    watch.look(600.0)  # every exporter once: from here on only those that are due
    app = Measured(watch, arguments.refreshes)
    asyncio.run(app.run_async(headless=True, size=(80, 24)))
    watch.close()
    pairs = list(zip(app.marks, app.marks[1:], strict=False))[_LEARNING:]
    spent = [later[0] - earlier[0] for earlier, later in pairs]
    return {
        "ranks": arguments.ranks,
        "exporters": arguments.nodes,
        "ranks_seen": sum(len(run.ranks) for run in watch.sight.facts.runs),
        "verdict": watch.sight.findings[0].sentence if watch.sight.findings else "",
        "load_average": [begun, load()],
        "processor_seconds_a_refresh": {
            "median": round(statistics.median(spent), 4),
            "worst": round(max(spent), 4),
            "all": [round(each, 4) for each in spent],
        },
        "seconds_between_refreshes": round(statistics.median(b[1] - a[1] for a, b in pairs), 2),
        "oldest_data_seconds": round(time.time() - min(source.state.taken_at or 0 for source in sources), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
