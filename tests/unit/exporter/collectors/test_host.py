"""The host collector: real processes and this machine; psutil is replaced only where a case cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from trainbeacon.exporter.collectors.base import Families, RankProcess
from trainbeacon.exporter.collectors.host import HostCollector

Scrape = dict[str, dict[tuple[str, ...], float]]
DiskIO = namedtuple("DiskIO", "read_bytes write_bytes")
NetIO = namedtuple(
    "NetIO",
    "bytes_recv bytes_sent packets_recv packets_sent errin errout dropin dropout",
    defaults=(0,) * 6,
)


def scrape(collector: HostCollector) -> Scrape:
    families = Families()
    collector.collect(families)
    return {
        sample.name: {tuple(s.labels.values()): s.value for s in family.samples if s.name == sample.name}
        for family in families
        for sample in family.samples
    }


def node_value(collector: HostCollector, name: str) -> float | None:
    return scrape(collector).get(name, {}).get(())


def no_ranks() -> Sequence[RankProcess]:
    return ()


def rank_of(pid: int, rank: str = "0") -> RankProcess:
    return RankProcess("demo", rank, pid)


@pytest.fixture
def child() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a Python process and waits for its first line, `ready`; ends it after the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


WAIT = "print('ready', flush=True); import sys; sys.stdin.read()"


# The processes of the ranks


def test_open_files_and_threads_of_a_rank(child: Callable[[str], subprocess.Popen[str]]) -> None:
    """20 files that a process opens and 3 threads that it starts are served as that many more."""
    plain = child(WAIT)
    busy = child(
        "import threading\n"
        "files = [open('/dev/null') for _ in range(20)]\n"
        "stop = threading.Event()\n"
        "for _ in range(3): threading.Thread(target=stop.wait, daemon=True).start()\n" + WAIT
    )
    values = scrape(HostCollector(lambda: [rank_of(plain.pid, "0"), rank_of(busy.pid, "1")]))
    files, threads = values["training_process_open_files"], values["training_process_threads"]
    assert files["demo", "1"] - files["demo", "0"] == 20
    assert (threads["demo", "0"], threads["demo", "1"]) == (1.0, 4.0)


def test_processor_time_of_a_rank(child: Callable[[str], subprocess.Popen[str]]) -> None:
    """Processor time of a process is what it spent itself and in the kernel for it, together."""
    process = child(
        "import os\n"
        "while os.times().user < 0.4: sum(range(10_000))\n"
        "source = open('/dev/urandom', 'rb', buffering=0)\n"
        "while os.times().system < 0.4: source.read(1 << 20)\n" + WAIT
    )
    seconds = scrape(HostCollector(lambda: [rank_of(process.pid)]))["training_process_cpu_seconds_total"]
    assert 0.8 <= seconds["demo", "0"] < 1.2


def test_memory_of_a_rank(child: Callable[[str], subprocess.Popen[str]]) -> None:
    """64 MiB that a process writes to are 64 MiB more of its resident memory."""
    plain = child(WAIT)
    large = child("block = bytearray(b'x') * (64 << 20)\n" + WAIT)
    values = scrape(HostCollector(lambda: [rank_of(plain.pid, "0"), rank_of(large.pid, "1")]))
    resident = values["training_process_resident_memory_bytes"]
    assert resident["demo", "1"] - resident["demo", "0"] == pytest.approx(64 << 20, rel=0.1)


@pytest.mark.parametrize("reaped", [True, False])
def test_process_that_ended(child: Callable[[str], subprocess.Popen[str]], reaped: bool) -> None:
    """A rank that ended between listing and reading costs only its own series, also while it is a zombie."""
    gone, here = child(WAIT), child(WAIT)
    gone.kill()
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    if reaped:
        gone.wait()
    values = scrape(HostCollector(lambda: [rank_of(gone.pid, "0"), rank_of(here.pid, "1")]))
    process = [name for name in values if name.startswith("training_process_")]
    assert len(process) == 4
    assert all(list(values[name]) == [("demo", "1")] for name in process)


def test_process_that_ends_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that ends in the middle of being read leaves no half of its series."""

    def ended(process: psutil.Process) -> int:
        raise psutil.NoSuchProcess(process.pid)

    monkeypatch.setattr(psutil.Process, "num_threads", ended)
    values = scrape(HostCollector(lambda: [rank_of(os.getpid())]))
    assert [name for name in values if name.startswith("training_process_")] == []


def test_field_of_a_process_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another user's open files may not be counted, only that field is missing."""

    def denied(process: psutil.Process) -> int:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "num_fds", denied)
    values = scrape(HostCollector(lambda: [rank_of(os.getpid())]))
    assert {name for name in values if name.startswith("training_process_")} == {
        "training_process_cpu_seconds_total",
        "training_process_resident_memory_bytes",
        "training_process_threads",
    }


# The node's processors


class Processor:
    """Stands in for psutil.cpu_times and the clock: two cores, with a share in use that the test sets."""

    CpuTimes = namedtuple("CpuTimes", "user system idle iowait guest guest_nice")

    def __init__(self) -> None:
        self.now = self.busy = self.idle = 0.0

    def run(self, seconds: float, share: float) -> None:
        self.now += seconds
        self.busy += 2 * seconds * share
        self.idle += 2 * seconds * (1 - share)

    def cpu_times(self) -> CpuTimes:
        # all of the user time is a guest's: the kernel counts it twice; half of the idle time is iowait
        return self.CpuTimes(self.busy / 2, self.busy / 2, self.idle / 2, self.idle / 2, self.busy / 2, 0.0)


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Processor:
    processor = Processor()
    monkeypatch.setattr(psutil, "cpu_times", processor.cpu_times)
    return processor


def cpu_collector(processor: Processor) -> HostCollector:
    return HostCollector(no_ranks, clock=lambda: processor.now)


def test_processor_use_since_construction(processor: Processor) -> None:
    """A first scrape soon after the start reports the use since then; at the very start there is none."""
    collector = cpu_collector(processor)
    assert node_value(collector, "training_host_cpu_ratio") is None
    processor.run(2, share=0.25)
    assert node_value(collector, "training_host_cpu_ratio") == pytest.approx(0.25)


def test_two_interleaved_scrapers_agree(processor: Processor) -> None:
    """A scraper that asks right after another one gets the same answer, and so does one that asks alone."""
    shared, alone = cpu_collector(processor), cpu_collector(processor)
    shares = [0.1, 0.9, 0.5, 1.0, 0.0]
    for share in shares:
        processor.run(15, share)
        first, second, other = (
            node_value(collector, "training_host_cpu_ratio") for collector in (shared, shared, alone)
        )
        assert (first, second, other) == pytest.approx((share, share, share))


def test_frequent_scraper_does_not_shorten_the_window(processor: Processor) -> None:
    """Under ten scrapes a second the window stays between 5 and 6.2 seconds, and the history bounded."""
    collector = cpu_collector(processor)
    for _ in range(100):
        processor.run(0.1, share=0.0)
        node_value(collector, "training_host_cpu_ratio")
    for _ in range(30):  # busy for three seconds
        processor.run(0.1, share=1.0)
        ratio = node_value(collector, "training_host_cpu_ratio")
    assert ratio is not None
    assert 3 / 6.2 <= ratio <= 3 / 5
    for _ in range(300):
        processor.run(0.1, share=0.0)
        ratio = node_value(collector, "training_host_cpu_ratio")
    assert ratio == pytest.approx(0.0)
    assert collector._cpu is not None
    assert len(collector._cpu._history) < 10


def test_processor_use_of_this_machine() -> None:
    """On the real machine the reported use covers at least what this very process burnt meanwhile."""
    collector = HostCollector(no_ranks)
    started, burnt = time.monotonic(), time.process_time()
    while time.process_time() - burnt < 1.0:
        pass
    ratio = node_value(collector, "training_host_cpu_ratio")
    share = 1.0 / ((os.cpu_count() or 1) * (time.monotonic() - started))
    assert ratio is not None
    assert share * 0.9 <= ratio <= 1.0


# Memory, disks and network


def test_memory_of_this_machine() -> None:
    """Memory adds up to what the kernel says, and /dev/shm counts a file that is put there."""
    values = scrape(HostCollector(no_ranks))
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(fields["MemTotal"].split()[0]) * 1024
    available = int(fields["MemAvailable"].split()[0]) * 1024
    assert values["training_host_memory_total_bytes"] == {(): total}
    assert values["training_host_memory_used_bytes"][()] == pytest.approx(total - available, abs=total / 20)


def test_shared_memory_of_this_machine() -> None:
    """A file of 8 MiB on /dev/shm is 8 MiB more of it in use."""
    space = os.statvfs("/dev/shm")
    collector = HostCollector(no_ranks)
    before = node_value(collector, "training_host_shared_memory_used_bytes")
    path = Path(f"/dev/shm/trainbeacon-test-{os.getpid()}")
    try:
        path.write_bytes(b"x" * (8 << 20))
        after = node_value(collector, "training_host_shared_memory_used_bytes")
    finally:
        path.unlink(missing_ok=True)
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(8 << 20, abs=4 << 20)  # others use it too
    total = node_value(collector, "training_host_shared_memory_total_bytes")
    assert total == space.f_blocks * space.f_frsize


def test_network_of_this_machine() -> None:
    """Bytes sent over loopback are not network traffic of the node."""
    collector = HostCollector(no_ranks)
    before = node_value(collector, "training_host_network_transmitted_bytes_total") or 0.0
    _send_over_loopback(32 << 20)
    after = node_value(collector, "training_host_network_transmitted_bytes_total") or 0.0
    assert 0 <= after - before < 32 << 20


def _send_over_loopback(size: int) -> None:
    import socket

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as a,
    ):
        b, _ = server.accept()
        sender = threading.Thread(target=a.sendall, args=[bytes(size)])
        sender.start()
        with b:
            while size:
                size -= len(b.recv(1 << 20))
        sender.join()


def devices(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).mkdir(parents=True)
    return str(root)


def test_disks_of_this_machine() -> None:
    """The bytes written to the disks are those that the kernel counts for them (in sectors of 512)."""
    if not _physical_disks():
        pytest.skip("this machine shows no physical disk")
    before = _sectors_written()
    written = node_value(HostCollector(no_ranks), "training_host_disk_written_bytes_total")
    assert written is not None
    assert before * 512 <= written <= _sectors_written() * 512


def _sectors_written() -> int:
    return sum(int(disk.parent.joinpath("stat").read_text().split()[6]) for disk in _physical_disks())


def _physical_disks() -> list[Path]:
    return list(Path("/sys/block").glob("*/device"))


def test_each_byte_of_a_disk_counts_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Partitions, LVM volumes, RAID and loop devices repeat bytes of the physical disks and are left out."""
    io = {name: DiskIO(1000, 100) for name in ("sda", "sda1", "nvme0n1", "nvme0n1p1", "dm-0", "md0", "loop0")}
    io["cciss/c0d0"] = DiskIO(5, 7)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda **_: io)
    sysfs = devices(
        tmp_path,
        "block/sda/device",
        "block/nvme0n1/device",
        "block/cciss!c0d0/device",
        "block/dm-0/slaves",
        "block/md0/slaves",
        "block/loop0/queue",
    )
    values = scrape(HostCollector(no_ranks, sysfs=sysfs))
    assert values["training_host_disk_read_bytes_total"] == {(): 2005.0}
    assert values["training_host_disk_written_bytes_total"] == {(): 207.0}


def test_each_byte_of_the_network_counts_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Loopback, and interfaces that stand on others (a bond on its cards), are left out."""
    io = {name: NetIO(1000, 100) for name in ("lo", "eth0", "eth1", "bond0")}
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: io)
    sysfs = devices(tmp_path, "class/net/eth0", "class/net/bond0/lower_eth0", "class/net/bond0/lower_eth1")
    values = scrape(HostCollector(no_ranks, sysfs=sysfs))
    assert values["training_host_network_received_bytes_total"] == {(): 2000.0}
    assert values["training_host_network_transmitted_bytes_total"] == {(): 200.0}


def test_errors_of_network_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By direction and kind, over all cards; the cables of a hundred containers that come and go are none."""
    cards = {"eth0": NetIO(0, 0, 10, 20, 1, 2, 3, 4), "ib0": NetIO(0, 0, 100, 200, 10, 20, 30, 40)}
    course = [
        cards | {"lo": NetIO(0, 0, 7, 7, 7, 7, 7, 7)},
        cards | {f"veth{number}": NetIO(0, 0, 7, 7, 7, 7, 7, 7) for number in range(100)},
        {"ib0": cards["ib0"]},
        {},
    ]
    now = iter(course)
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: next(now))
    sysfs = devices(tmp_path, "class/net/eth0/device", "class/net/ib0/device", "class/net/veth1")
    collector = HostCollector(no_ranks, sysfs=sysfs)
    for _ in course:
        values = scrape(collector)
        assert values["training_host_network_packets_total"] == {("received",): 110, ("transmitted",): 220}
        assert values["training_host_network_errors_total"] == {
            ("received", "error"): 11,
            ("transmitted", "error"): 22,
            ("received", "drop"): 33,
            ("transmitted", "drop"): 44,
        }


def test_without_a_network_card_there_are_no_errors_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a pod with a network of its own nothing is known of the cards, which is not no errors."""
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: {"eth0": NetIO(1, 1, 1, 1, 1, 1, 1, 1)})
    values = scrape(HostCollector(no_ranks, sysfs=devices(tmp_path, "class/net/eth0")))
    assert values["training_host_network_received_bytes_total"] == {(): 1}
    assert not {"training_host_network_packets_total", "training_host_network_errors_total"} & values.keys()


def test_packets_of_this_machine() -> None:
    """What the cards have counted is what the kernel's own table says of them; of no card nothing is said."""
    cards = [card.parent.name for card in Path("/sys/class/net").glob("*/device")]
    before = _packets_received(cards)
    packets = scrape(HostCollector(no_ranks)).get("training_host_network_packets_total", {})
    assert bool(cards) == bool(packets)
    assert before <= packets.get(("received",), 0) <= _packets_received(cards)


def _packets_received(cards: Sequence[str]) -> int:
    files = [Path(f"/sys/class/net/{card}/statistics/rx_packets") for card in cards]
    return sum(int(file.read_text()) for file in files)


def test_counters_never_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network card that leaves, or counts from 0 again, is no burst and no restart in the sums."""
    course = [
        {"eth0": NetIO(1000, 10), "eth1": NetIO(500, 5)},
        {"eth0": NetIO(1100, 11)},  # eth1 leaves
        {"eth0": NetIO(30, 1)},  # eth0 begins anew
        {"eth0": NetIO(40, 1), "eth2": NetIO(7, 0)},  # a new one
    ]
    now = iter(course)
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: next(now))
    collector = HostCollector(no_ranks)
    received = [node_value(collector, "training_host_network_received_bytes_total") for _ in course]
    assert received == [1500.0, 1600.0, 1630.0, 1647.0]


@pytest.mark.parametrize(
    ("function", "error", "missing"),
    [
        ("cpu_times", PermissionError(13, "denied"), {"training_host_cpu_ratio"}),
        (
            "disk_io_counters",
            NotImplementedError("no /proc/diskstats"),
            {"training_host_disk_read_bytes_total", "training_host_disk_written_bytes_total"},
        ),
        (
            "virtual_memory",
            FileNotFoundError(2, "masked"),
            {"training_host_memory_used_bytes", "training_host_memory_total_bytes"},
        ),
    ],
)
def test_what_a_container_hides_is_absent(
    monkeypatch: pytest.MonkeyPatch, function: str, error: Exception, missing: set[str]
) -> None:
    """A file of /proc that may not be read leaves out its own metrics, and no others, without an error."""
    whole = set(_after_some_processor_time(HostCollector(no_ranks)))

    def hidden(**_: object) -> None:
        raise error

    monkeypatch.setattr(psutil, function, hidden)
    assert set(_after_some_processor_time(HostCollector(no_ranks))) == whole - missing


def test_concurrent_scrapes_do_not_invent_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapes in several threads at once add each byte once."""
    counted = iter(range(1, 10_000))

    def net_io_counters(**_: object) -> dict[str, NetIO]:
        received = next(counted)
        time.sleep(0.003 * (received % 3 == 0))  # an older reading is often the last to arrive
        return {"eth0": NetIO(received, 0)}

    monkeypatch.setattr(psutil, "net_io_counters", net_io_counters)
    collector = HostCollector(no_ranks)
    threads = [threading.Thread(target=lambda: [scrape(collector) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert node_value(collector, "training_host_network_received_bytes_total") == 81.0


def _after_some_processor_time(collector: HostCollector) -> Scrape:
    started = time.process_time()
    while time.process_time() - started < 0.05:  # a few ticks, so that there is a share to speak of
        pass
    return scrape(collector)
