"""Much of everything: connections, scrapes, steps."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.robustness.check import Size, assert_flat, memory, percentile, program, timed
from tests.serving import node, request, scrape
from trainbeacon.blackbox.format import STEP_METRICS
from trainbeacon.blackbox.writer import Writer
from trainbeacon.testing import series

SCRAPES_A_SECOND = 100
SCRAPE_BOUND_SECONDS = 2.0
#: What Prometheus gives a scrape unless it is set otherwise.
SCRAPE_TIMEOUT_SECONDS = 10.0
#: After which all boxes have to be served, however many other files lie there.
MOST_SCRAPES = 10
REFUSED = "trainbeacon_requests_refused_total"
#: Half a second apart: longer in all than a slow client is let be, so that they come back meanwhile.
SCRAPES_DURING_DRIP = 10


def slow_connections(folder: Path, size: Size) -> str:
    """Clients send a byte of a request twice a second and never finish, and come back when cut off."""
    with node(folder / "boxes", serve="off") as made:
        agent = made.agent()
        made.rank(script=True, run="good")
        url = made.url()
        address = urlsplit(url).hostname, urlsplit(url).port
        over = threading.Event()
        drips = [
            threading.Thread(target=_drip, args=(address, over), daemon=True)
            for _ in range(size.slow_connections)
        ]
        for drip in drips:
            drip.start()
        times = []
        while len(times) < SCRAPES_DURING_DRIP and not over.wait(0.5):
            times.append(timed(lambda: request(url, timeout=60)))
        over.set()
        for drip in drips:
            drip.join(10)
        assert agent.poll() is None
        assert max(times) < SCRAPE_BOUND_SECONDS, times
        refused = sum(value for key, value in scrape(url).items() if key.name == REFUSED)
        assert refused >= size.slow_connections / 2
        return (
            f"{size.slow_connections} slow clients, cut off {refused:.0f} times; scrapes meanwhile "
            f"{percentile(times, 0.5) * 1000:.0f} ms in the median, {max(times) * 1000:.0f} ms at worst"
        )


def missing_bodies(folder: Path, size: Size) -> str:
    """36 clients send a whole head that promises a body, and come back when they are cut off."""
    with node(folder / "boxes", serve="off") as made:
        agent = made.agent()
        made.rank(script=True, run="good")
        url = made.url()
        address = urlsplit(url).hostname, urlsplit(url).port
        over = threading.Event()
        clients = [threading.Thread(target=_promise, args=(address, over), daemon=True) for _ in range(36)]
        for client in clients:
            client.start()
        times = []
        while len(times) < SCRAPES_DURING_DRIP and not over.wait(0.5):
            times.append(timed(lambda: request(url, timeout=60)))
        over.set()
        for client in clients:
            client.join(20)
        assert agent.poll() is None
        assert max(times) < SCRAPE_BOUND_SECONDS, times
        refused = sum(value for key, value in scrape(url).items() if key.name == REFUSED)
        assert refused >= 18
        return (
            f"36 clients, cut off {refused:.0f} times; scrapes meanwhile "
            f"{percentile(times, 0.5) * 1000:.0f} ms in the median, {max(times) * 1000:.0f} ms at worst"
        )


def _promise(address: tuple[str, int], over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=10) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n")
            while client.recv(4096):
                pass


def _drip(address: tuple[str, int], over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as client:
            for byte in b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10_000:
                client.sendall(bytes([byte]))
                if over.wait(0.5):
                    break


def many_scrapes(folder: Path, size: Size) -> str:
    """Two scrapers on connections of their own ask without a pause up to 100 times a second."""
    with node(folder / "boxes", serve="off") as made:
        agent = made.agent()
        made.rank(script=True, run="good")
        url = made.url()
        _scrape_for(url, min(5.0, 0.4 * size.scrape_seconds))  # warm-up
        before = memory(agent.pid)
        times = _scrape_for(url, size.scrape_seconds)
        after = memory(agent.pid)
        assert scrape(url)[series("training_steps_total", run="good", rank=0)] == 30.0
        rate = len(times) / size.scrape_seconds
        median, slow = (percentile(times, share) * 1000 for share in (0.5, 0.99))
        return (
            f"{len(times):,} scrapes in {size.scrape_seconds:g} s ({rate:.0f} a second); {median:.1f} ms in "
            f"the median, {slow:.0f} ms at the 99th percentile; {assert_flat(before, after)}"
        )


def _scrape_for(url: str, seconds: float) -> list[float]:
    times: list[float] = []
    scrapers = [threading.Thread(target=_scraper, args=(url, seconds, times)) for _ in range(2)]
    for scraper in scrapers:
        scraper.start()
    for scraper in scrapers:
        scraper.join()
    return times


def _scraper(url: str, seconds: float, times: list[float]) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
    begun = due = time.monotonic()
    while due < begun + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        asked = time.perf_counter()
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        times.append(time.perf_counter() - asked)
        due = max(due + 2 / SCRAPES_A_SECOND, time.monotonic() - 1.0)
    connection.close()


def day_of_steps(folder: Path, size: Size) -> str:
    """Steps with phases, loss and accuracy, as fast as they go, served meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    steps, before, after, files, file_bytes, seconds = program(
        "day", folder / "boxes", size.steps, seconds=400
    ).split()
    assert int(float(steps)) == size.steps
    assert int(files) <= 4
    return (
        f"{int(float(steps)):,} steps in {float(seconds):.0f} s, counted exactly; "
        f"{int(file_bytes) >> 10} KiB of files; {assert_flat(int(before), int(after))}"
    )


def many_boxes(folder: Path, size: Size) -> str:
    """Live ranks far beyond what a node has, and files that are no boxes but are named like them."""
    with node(folder / "boxes", serve="off") as made, contextlib.ExitStack() as stack:
        for number in range(size.live_boxes):
            stack.callback(_live_box(folder / "made", made.folder, number).close)
        for number in range(size.junk_files):
            (made.folder / f"junk.{number}.box").touch()
        agent = psutil.Process(made.agent().pid)
        url = made.url()
        served, spent, walls = 0, [], []
        while not spent or served < size.live_boxes:  # new files are looked at a bounded number a scrape
            before = sum(agent.cpu_times()[:2])
            begun = time.monotonic()
            found = scrape(url)
            walls.append(time.monotonic() - begun)
            spent.append(sum(agent.cpu_times()[:2]) - before)
            assert spent[-1] < SCRAPE_TIMEOUT_SECONDS, spent
            served = sum(key.name == "training_step" for key in found)
            assert len(spent) <= MOST_SCRAPES, f"{served} of {size.live_boxes} boxes are served"
    return (
        f"{size.live_boxes:,} live boxes beside {size.junk_files:,} other files, all served by scrape "
        f"{len(spent)}; that took {spent[-1]:.1f} s of processor and {walls[-1]:.1f} s, "
        f"the dearest {max(spent):.1f} s of processor"
    )


def _live_box(workplace: Path, folder: Path, number: int) -> Writer:
    """A box whose lock is held; made elsewhere, since each that is made looks through its folder first."""
    workplace.mkdir(exist_ok=True)
    identity = {"run": "many", "rank": number, "start": time.time(), "pid": 1}
    writer = Writer.create(str(workplace), identity)
    for name in ("training_step", "training_steps_total", "training_heartbeat_timestamp_seconds"):
        index = writer.declare(name)
        (writer.step if name in STEP_METRICS else writer.slots)[index] = time.time()
    writer.commit()
    assert writer.path is not None
    os.rename(writer.path, folder / os.path.basename(writer.path))
    return writer
