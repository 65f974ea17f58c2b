"""The user's own metrics in the exporter: the files are believed as little as the boxes."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainbeacon import catalogue
from trainbeacon.blackbox import files, textfile
from trainbeacon.blackbox.reader import Box, BoxIdentity
from trainbeacon.exporter.collectors import user_metrics
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.user_metrics import UserMetricsCollector
from trainbeacon.exporter.health import Health
from trainbeacon.exporter.registry import enforce_budgets

Labels = tuple[tuple[str, str], ...]


class Served:
    """A folder with side files of live ranks, collected again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.boxes: list[Box] = []
        self.health = Health()
        descriptor = os.open(folder, os.O_RDONLY)
        self.collector = UserMetricsCollector(descriptor, lambda: self.boxes, self.health)

    def rank(self, text: str | bytes, rank: int = 0, alive: bool = True) -> Path:
        box = Box(f"r.{rank}.box", BoxIdentity("r", rank, 1.0), "running", alive, {}, ())
        self.boxes = [*(each for each in self.boxes if each.name != box.name), box]
        path = self.folder / textfile.beside(box.name)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def collect(self) -> dict[tuple[str, Labels], float]:
        families = Families()
        self.collector.collect(families)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    @property
    def errors(self) -> int:
        return self.health.counts()[0]["collector"]


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def of(name: str, rank: int = 0, **labels: str) -> tuple[str, Labels]:
    return name, tuple(sorted({"run": "r", "rank": str(rank), **labels}.items()))


def test_labels_are_added_and_none_overwritten(served: Served) -> None:
    """Labels of the user's called run and rank are kept under exported_ names, as Prometheus does it."""
    served.rank('a{run="mine",rank="7",exported_rank="8",x="y"} 1\n')
    labels = {"exported_run": "mine", "exported_exported_rank": "7", "exported_rank": "8", "x": "y"}
    assert {of("a", **labels): 1.0} == served.collect()


def test_only_live_ranks_are_served(served: Served) -> None:
    """The last numbers of a dead rank would look like present ones."""
    served.rank("a 1\n", alive=False)
    served.rank("b 1\n", rank=1)
    assert {of("b", rank=1): 1.0} == served.collect()


def test_a_file_that_is_not_renewed_is_not_served(served: Served) -> None:
    """A rank whose writing is stalled shows nothing, rather than old numbers; then it comes back."""
    path = served.rank("a 1\n")
    old = time.time() - user_metrics.STALE_SECONDS - 5
    os.utime(path, (old, old))
    assert {} == served.collect()
    os.utime(path)
    assert {of("a"): 1.0} == served.collect()


def test_a_changed_file_is_read_again(served: Served) -> None:
    """Each scrape shows the file as it is now."""
    path = served.rank("a 1\n")
    assert {of("a"): 1.0} == served.collect()
    files.replace(str(path), b"a 2\n")
    assert {of("a"): 2.0} == served.collect()


@pytest.mark.parametrize(
    "name",
    ["training_loss", "trainbeacon_errors", "up", "scrape_samples_scraped", "process_cpu", "run:training:x"],
)
def test_names_of_others_are_refused_and_counted(served: Served, name: str) -> None:
    """Our names, Prometheus' own and those of recorded series cannot be taken; the rest of the file can."""
    served.rank(f"# TYPE {name} gauge\n{name} 1\nmine 2\n")
    assert {of("mine"): 2.0} == served.collect()
    assert 1 == served.health.series_dropped
    served.collect()
    assert 1 == served.health.series_dropped


@pytest.mark.parametrize("letter", ["x", "é", "模", "🙂"])
def test_long_labels_are_cut_where_prometheus_counts(served: Served, letter: str) -> None:
    """A value that fits is served whole; one more byte, and it is cut; two that begin alike stay two."""
    fits = letter * (512 // len(letter.encode()))
    served.rank(f'a{{b="{fits}"}} 1\na{{b="{fits}{letter}"}} 2\na{{b="{fits}{letter}{letter}"}} 3\n')
    found = {value: dict(labels)["b"] for (_, labels), value in served.collect().items()}
    assert fits == found[1.0]
    assert 3 == len(set(found.values()))
    for cut in (found[2.0], found[3.0]):
        kept, tail = cut[:-11], cut[-11:]
        assert fits.startswith(kept)
        assert 512 - 11 - 4 < len(kept.encode()) <= 512 - 11
        assert re.fullmatch(r"\.\.\.[0-9a-f]{8}", tail)


def test_ranks_share_a_family(served: Served) -> None:
    """One name is one family however many ranks have it, as the format demands."""
    for rank in range(3):
        served.rank(f"# HELP a Of rank {rank}.\n# TYPE a gauge\na {rank}\n", rank)
    families = Families()
    served.collector.collect(families)
    (family,) = families
    assert ("a", "gauge", 3) == (family.name, family.type, len(family.samples))


def test_contradicting_types_are_refused(served: Served) -> None:
    """The second rank that calls a gauge a counter, or uses a name of a histogram's, loses that metric."""
    served.rank('# TYPE a gauge\na 1\n# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n', 0)
    served.rank("# TYPE a_total counter\na_total 1\n# TYPE h_count gauge\nh_count 5\nb 1\n", 1)
    found = served.collect()
    assert of("b", rank=1) in found
    assert [] == [key for key in found if ("rank", "1") in key[1] and key != of("b", rank=1)]


HOSTILE = {
    "not text": b"\xff\xfe\x00",
    "no number": "a b\n",
    "unclosed": 'a{b="c} 1\n',
    "a line without end": "a" * 60_000,
    "escapes without end": 'a{b="' + '\\"' * 30_000 + '"} 1\n',
    "labels without end": "a{" + 'b="c",' * 9_000 + "} 1\n",
    "too many series": "".join(f"a{number} 1\n" for number in range(textfile.MOST_SERIES + 1)),
    "too long": b"#" * (textfile.MOST_BYTES + 1),
    "reserved label": 'a{__name="x"} 1\n',
    "double label": 'a{b="1",b="2"} 1\n',
    "type without name": "# TYPE\n# HELP\n# TYPE a\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_makes_no_sense_is_left_out_and_counted_once(served: Served, kind: str) -> None:
    """Whatever lies there, the others are served, at little cost, and the error is counted once a file."""
    served.rank("sound 1\n", rank=1)
    served.rank(HOSTILE[kind])
    begun = time.thread_time()
    assert {of("sound", rank=1): 1.0} == served.collect()
    assert time.thread_time() - begun < 2.0
    assert {of("sound", rank=1): 1.0} == served.collect()
    assert 1 == served.errors


REFUSED = {
    "bucket without bound": "# TYPE a histogram\na_bucket 1\n",
    "bound that is none": '# TYPE a histogram\na_bucket{le="much"} 1\n',
    "unknown type": "# TYPE a stateset\na 1\n",
    "long name of a label": "a{" + "x" * 129 + '="b"} 1\n',
    "twice": "# TYPE a gauge\na 1\na 2\n",
    "many labels": "a{" + ",".join(f'l{number}="x"' for number in range(20)) + "} 1\n",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_family_that_no_scraper_would_take_is_refused(served: Served, kind: str) -> None:
    """One family that would spoil the whole scrape is left out and counted; the others are served."""
    served.rank(f"sound 1\n{REFUSED[kind]}")
    assert {of("sound"): 1.0} == served.collect()
    assert served.health.series_dropped >= 1


@pytest.mark.parametrize(
    "make",
    [
        lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["link", "fifo", "folder"],
)
def test_what_is_no_file_is_neither_followed_nor_waited_for(
    served: Served, make: Callable[[Path], object]
) -> None:
    """A link, a pipe or a folder in the place of the file is left out."""
    make(served.rank("a 1\n"))
    served.rank("b 1\n", rank=1)
    assert {of("b", rank=1): 1.0} == served.collect()


def test_random_damage_never_raises(served: Served) -> None:
    """500 damaged files are served as far as they make sense; no exception comes out, and no rubbish."""
    whole = (
        b"# HELP h A \\n histogram.\n# TYPE h histogram\n"
        b'h_bucket{a="b\\"c",le="1.0"} 1\nh_bucket{a="b\\"c",le="+Inf"} 2\nh_sum{a="b"} 3\nh_count{a="b"} 2\n'
        b"# TYPE c_total counter\nc_total 5 1700000000000\n# TYPE g gauge\ng NaN\n"
    )
    chance = random.Random(7)
    odd = b'{}",=#\n\\ \x00\xff1e_:-+'
    for number in range(500):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8, 40))):
            data[chance.randrange(len(data))] = chance.choice(odd)
        path = served.rank(bytes(data))
        os.utime(path, ns=(time.time_ns(), time.time_ns() + number))
        for _, labels in served.collect():
            assert {("run", "r"), ("rank", "0")} <= set(labels)


def test_budget_of_the_run_takes_whole_ranks_of_a_family(served: Served) -> None:
    """Beyond the budget of series a run, a rank's part of a family is left out whole, and counted."""
    per_rank = 120
    for rank in range(3):
        lines = "".join(f'many{{n="{number}"}} 1\n' for number in range(per_rank))
        served.rank(f"# TYPE many gauge\n{lines}# TYPE few gauge\nfew 1\n", rank)
    families = Families()
    served.collector.collect(families)
    families.add("training_steps_planned", 10.0, "r")
    dropped = enforce_budgets(families)
    kept = [(sample.name, sample.labels["rank"]) for family in families.foreign for sample in family.samples]
    assert per_rank == dropped
    assert 2 * per_rank == sum(name == "many" for name, _ in kept)
    assert {"0", "1", "2"} == {rank for name, rank in kept if name == "few"}
    assert catalogue.BUDGETS["run"] >= len(kept) + 1
