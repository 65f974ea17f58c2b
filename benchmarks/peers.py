"""The other loggers: how each is started, told ten numbers of a step, and ended. None reaches the network.

None of them is needed: `pip install -e '.[bench]'` brings them, and one that is absent is told as such.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

NUMBERS = 10
NAMES = [f"number_{number}" for number in range(NUMBERS)]

#: Set before any of them is imported: nothing is sent anywhere, nothing is written outside the folder given.
OFFLINE = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "1",
}


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Logger:
    """A started logger. `settle` lets what works in the background catch up, between timings."""

    log: Callable[[], None]
    settle: Callable[[], None] = _nothing
    close: Callable[[], None] = _nothing


@dataclass(frozen=True)
class Peer:
    """What is run in a process of its own: the modules it needs, its variables, and for a logger its start.

    The values of the variables may name the process's `{folder}`.
    """

    modules: tuple[str, ...]
    start: Callable[[str], Logger] | None = None
    variables: dict[str, str] = field(default_factory=dict)

    def not_installed(self) -> list[str]:
        """Those of its modules that are absent."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]

    def environment(self, folder: str, first: str = "") -> dict[str, str]:
        """What its process is started with; `first` is a folder to import from before any other."""
        own = {name: value.format(folder=folder) for name, value in self.variables.items()}
        path = [*([first] if first else []), *map(os.path.abspath, sys.path)]
        return {**os.environ, **OFFLINE, **own, "PYTHONPATH": os.pathsep.join(path)}


def start(name: str, folder: str) -> Logger:
    """Start a logger in this process."""
    begin = LOGGERS[name].start
    assert begin is not None
    return begin(folder)


def _trainbeacon(serve: str) -> Callable[[str], Logger]:
    def start(folder: str) -> Logger:
        import trainbeacon

        beacon = trainbeacon.start(
            run="benchmark", directory=folder, serve=serve, host="127.0.0.1", port=0, linger_seconds=2
        )
        values = dict.fromkeys(NAMES, 0.5)
        settle = _nothing if serve == "off" else partial(_await_serving, folder)
        return Logger(lambda: beacon.log(**values), settle, beacon.finish)

    return start


def _await_serving(folder: str, seconds: float = 20.0) -> None:
    """Until the exporter, which the helper thread starts within a second or two, has answered a scrape."""
    from trainbeacon.blackbox.directory import open_directory
    from trainbeacon.blackbox.election import read_note

    end = time.monotonic() + seconds
    while (note := read_note(open_directory(folder))) is None and time.monotonic() < end:
        time.sleep(0.05)
    if note is None:
        raise RuntimeError("no exporter was started")
    with urllib.request.urlopen(note.url) as page:
        page.read()


def _prometheus(folder: str) -> Logger:
    """Direct: a gauge by name, its children kept, and its thread server."""
    from prometheus_client import start_http_server

    server, thread = start_http_server(0, addr="127.0.0.1")

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return Logger(_gauges(), close=close)


def _prometheus_multiprocess(folder: str) -> Logger:
    """A gauge by name, each in the file of this process; another process would serve them."""
    return Logger(_gauges())


def _gauges() -> Callable[[], None]:
    from prometheus_client import Gauge

    family = Gauge("metric", "A number.", ("run", "name"))
    children = [family.labels("benchmark", name) for name in NAMES]

    def log() -> None:
        for gauge in children:
            gauge.set(0.5)

    return log


def _tensorboard(folder: str) -> Logger:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)
    steps = itertools.count()

    def log() -> None:
        step = next(steps)
        for name in NAMES:
            writer.add_scalar(name, 0.5, step)

    return Logger(log, writer.flush, writer.close)


def _mlflow(synchronous: bool) -> Callable[[str], Logger]:
    def start(folder: str) -> Logger:
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.set_experiment("benchmark")
        mlflow.start_run()
        values, steps = dict.fromkeys(NAMES, 0.5), itertools.count()

        def log() -> None:
            mlflow.log_metrics(values, step=next(steps), synchronous=synchronous)

        settle = _nothing if synchronous else mlflow.flush_async_logging
        return Logger(log, settle, mlflow.end_run)

    return start


def _wandb(folder: str) -> Logger:
    import wandb

    run = wandb.init(mode="offline", project="benchmark", dir=folder)
    values, steps = dict.fromkeys(NAMES, 0.5), itertools.count()

    def log() -> None:
        run.log(dict(values), step=next(steps))

    return Logger(log, close=run.finish)


_MLFLOW = ("mlflow", "sqlalchemy", "alembic")
_PROMETHEUS, _BEACON = ("prometheus_client",), ("trainbeacon",)
LOGGERS: dict[str, Peer] = {
    "trainbeacon": Peer(_BEACON, _trainbeacon("off")),
    "trainbeacon, exporter process": Peer(_BEACON, _trainbeacon("process")),
    "trainbeacon, exporter thread": Peer(_BEACON, _trainbeacon("thread")),
    "prometheus-client": Peer(_PROMETHEUS, _prometheus),
    "prometheus-client multiprocess": Peer(
        _PROMETHEUS, _prometheus_multiprocess, {"PROMETHEUS_MULTIPROC_DIR": "{folder}"}
    ),
    "TensorBoard SummaryWriter": Peer(("torch", "tensorboard"), _tensorboard),
    "MLflow, sqlite": Peer(_MLFLOW, _mlflow(synchronous=True)),
    "MLflow, sqlite, asynchronous": Peer(_MLFLOW, _mlflow(synchronous=False)),
    "W&B offline": Peer(("wandb",), _wandb, {"WANDB_DIR": "{folder}", "WANDB_CACHE_DIR": "{folder}"}),
}


def close_quietly(logger: Any) -> None:
    """End a logger whose figures are in already."""
    with contextlib.suppress(Exception):
        logger.close()
