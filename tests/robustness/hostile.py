"""What others may put before the exporter: boxes, requests, texts."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from prometheus_client import generate_latest

from tests.robustness.check import Size, assert_flat, memory, timed
from tests.serving import OPENMETRICS, node, request, scrape
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.blackbox.writer import Writer
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.registry import collectors, new_registry
from trainbeacon.testing import read_exposition, series

BATCH = 50
TEXTS = (
    'quotes " and \\ and \\" and }',
    "line\nfeed\r\ttab",
    "nul \x00 bell \x07 escape \x1b[31m",
    "\N{RIGHT-TO-LEFT OVERRIDE}right to left \N{ZERO WIDTH SPACE}",
    "emoji \N{PILE OF POO} and \N{LATIN SMALL LETTER A WITH DIAERESIS}",
    "half a pair \ud800",
    'x"} 1\ntraining_loss{run="forged"} 0',
    "<script>alert(1)</script>",
    "x" * 200,
    "  ",
)


def mutated_boxes(folder: Path, size: Size) -> str:
    """Batches of damaged copies of a real box lie beside it while everything is scraped in both formats."""
    chance = random.Random(3)
    with node(folder / "boxes", serve="off") as made:
        made.rank(script=True, run="good")
        (box,) = made.folder.glob("*.box")
        whole = box.read_bytes()
        boxes = BoxDirectory(os.open(made.folder, os.O_RDONLY))
        health = Health()
        listed = collectors(boxes, health, linger_seconds=60, gpu=False, mode="agent")
        registry = new_registry(listed, health)
        before = worst = 0.0
        for start in range(0, size.boxes, BATCH):
            names = [made.folder / f"bad.{start + number}.box" for number in range(BATCH)]
            for name in names:
                name.write_bytes(_damaged(whole, chance))
            pages: list[bytes] = []
            worst = max(worst, timed(lambda pages=pages: pages.append(generate_latest(registry))))  # type: ignore[misc]
            served = read_exposition(pages[0].decode())
            assert served[series("training_steps_total", run="good", rank=0)] == 30.0
            for name in names:
                name.unlink()
            if start == BATCH:
                before = memory(os.getpid())
        grown = assert_flat(int(before), memory(os.getpid()))
        os.close(boxes.descriptor)
        assert health.counts()[0]["collector"] == 0
        return (
            f"{size.boxes:,} boxes, {boxes.invalid_total:,} refused and counted, the others readable; "
            f"slowest scrape of {BATCH + 1} boxes {worst:.2f} s; {grown}"
        )


def _damaged(whole: bytes, chance: random.Random) -> bytes:
    data = bytearray(whole)
    (used,) = struct.unpack_from("Q", data, layout.JOURNAL_USED * layout.WORD)
    regions = (
        (0, 64),
        (0, len(data)),
        (layout.SLOTS_AT, layout.RING_AT),
        (layout.JOURNAL_AT, layout.JOURNAL_AT + used),
        (layout.JOURNAL_AT, layout.JOURNAL_AT + 200),
    )
    start, end = chance.choice(regions)
    for _ in range(chance.choice((1, 1, 3, 30, 300))):
        data[chance.randrange(start, end)] = chance.choice((0, 0xFF, 0x22, 0x5B, 0x5C, chance.randrange(256)))
    if chance.random() < 0.1:
        del data[chance.randrange(len(data)) :]
    # Most are of a run of their own, so that what is readable is served beside the good one.
    return bytes(data).replace(b'"run":"good"', b'"run":"b%03d"' % chance.randrange(1000))


def malformed_requests(folder: Path, size: Size) -> str:
    """Each on a connection of its own, some cut off in the middle, some never answered."""
    chance = random.Random(4)
    with node(folder / "boxes", serve="off") as made:
        agent = made.agent()
        made.rank(script=True, run="good")
        url = made.url()
        address = urlsplit(url).hostname, urlsplit(url).port
        bad = _bad_requests(chance)
        statuses: dict[bytes, int] = {}
        for number in range(size.requests):
            if number == size.requests // 5:
                scrape(url)
                before = memory(agent.pid)
            status = _send(address, next(bad), wait=number % 4 == 0)
            statuses[status] = statuses.get(status, 0) + 1
        assert agent.poll() is None
        seconds = timed(lambda: scrape(url))
        served = scrape(url)
        assert served[series("training_steps_total", run="good", rank=0)] == 30.0
        assert seconds < 1.0, seconds
        assert served[series("trainbeacon_requests_refused_total", reason="malformed")] > 0
        assert b"500" not in statuses, statuses
        assert psutil.Process(agent.pid).num_threads() < 20
        return f"{size.requests:,} requests, none answered 500; {assert_flat(before, memory(agent.pid))}"


def _send(address: tuple[str | None, int | None], data: bytes, wait: bool) -> bytes:
    """The status of the answer, where one is waited for."""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as client:  # type: ignore[arg-type]
        client.sendall(data)
        if wait:
            client.shutdown(socket.SHUT_WR)
            return client.recv(64)[9:12]
        # A reset instead of an orderly end.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return b""


def _bad_requests(chance: random.Random) -> Iterator[bytes]:
    fixed = [
        b"\r\n" * 10,
        b"GET\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"G\x00T /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nX" + b"y" * 70_000 + b"\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
        b"GET /metrics?name[]=%zz&name[]=%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes.fromhex("160301010001000000fc0303") + bytes(200),
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: "
        + b"application/openmetrics-text;q=," * 400
        + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: \xff\xfe\r\nConnection: close\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n folded\r\nHost: x\r\n\r\n",
        b"DELETE /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ]
    while True:
        data = bytearray(chance.choice([*fixed, os.urandom(200), os.urandom(3000)]))
        if chance.random() < 0.5:
            for _ in range(chance.choice((1, 3, 20))):
                data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        yield bytes(data)


def hostile_texts(folder: Path, size: Size) -> str:
    """As names of runs, metrics and tags, in boxes that no setting was checked for; in both formats."""
    with node(folder / "boxes", serve="off") as made:
        made.agent()
        boxes = [_box(made.folder, number, text) for number, text in enumerate(TEXTS)]
        url = made.url()
        served, strict = scrape(url), read_exposition(request(url, accept=OPENMETRICS).text)
        runs = {key.label("run") for key in served if key.name == "training_state"}
        assert len(runs) == len(TEXTS), runs
        assert served.keys() == strict.keys()
        assert "forged" not in runs
        metrics = {key.label("name") for key in served if key.name == "training_metric"}
        assert len(metrics) == len(TEXTS)
        page = request(url.replace("/metrics", "/")).text
        assert "<script" not in page
        for box in boxes:
            box.close()
        return f"{len(TEXTS)} texts in 6 places each, all served whole in both formats, and on the page"


def _box(folder: Path, number: int, text: str) -> Writer:
    box = Writer.create(str(folder), {"run": f"{number} {text}", "rank": 0, "start": time.time()})
    box.slots[box.declare("training_metric", [text, "train"])] = 1.0
    box.slots[box.declare("training_hyperparameter", [text])] = 1.0
    box.info("training_run_tag_info", [text, text], key=text)
    box.info("training_run_info", [text, text, text, text, text])
    box.info("training_failure_info", [text, text])
    return box
