"""The scripted job on two real ranks, served in one of the three ways."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.nvml_stub.node import EVERYTHING, as_text
from tests.serving import Node, node, request, wait_for
from trainbeacon.testing import ScriptedJob, read_exposition, series

WAYS = ("process", "thread", "agent")
GOLDEN = Path(__file__).with_name("golden") / "exposition.txt"
#: What a rank's background loop or a second scrape adds: until it is there, the scrape is not whole.
LATE = ("training_checkpoint_bytes", "training_samples_per_second", "training_tokens_per_second")
#: Likewise of the GPU, some from an event and some from two samples.
LATE_OF_GPU = ("training_gpu_xid_last", "training_gpu_sm_active_ratio")


@dataclass(frozen=True)
class Service:
    way: str
    node: Node
    url: str
    #: The first whole scrape, as text.
    text: str


@contextlib.contextmanager
def serving(way: str, folder: Path, library: Path) -> Iterator[Service]:
    """Two ranks that have recorded the scripted job and live on, and their exporter.

    `library` holds the stand-in for NVML (tests/nvml_stub).
    """
    folder.mkdir(parents=True)
    gpus = folder / "gpus"
    gpus.write_text(as_text(EVERYTHING))
    settings = {
        "run": ScriptedJob().run,
        "serve": "off" if way == "agent" else way,
        "gpu": True,
        "sd_file": str(folder / "sd" / "one.json"),
        "sd_dir": str(folder / "sd" / "all"),
    }
    with node(folder / "boxes", **settings) as made:
        made.environment = {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(gpus)}
        if way == "agent":
            made.agent(f"--sd-file={settings['sd_file']}", f"--sd-dir={settings['sd_dir']}", "--linger=3")
        ranks = [made.rank(number, 2, ready=False, script=True) for number in range(2)]
        for rank in ranks:
            rank.wait_until_ready()
        url = made.url()
        yield Service(way, made, url, wait_for(lambda: _whole(url), what="whole scrape"))


def _whole(url: str) -> str:
    text = request(url).text
    found = read_exposition(text)
    names = [series(name, run=ScriptedJob().run, rank=rank) for name in LATE for rank in range(2)]
    names += [series(name, gpu=0) for name in LATE_OF_GPU]
    late_of_run = ("training_elapsed_seconds", "training_checkpoint_disk_free_bytes")
    names += [series(name, run=ScriptedJob().run) for name in late_of_run]
    return text if all(name in found for name in [*names, series("training_host_cpu_ratio")]) else ""
