"""Prometheus and Alertmanager on loopback, with the shipped rules and routes and a local receiver."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from trainbeacon.stack import binaries, processes, rendering, web
from trainbeacon.stack.bundle import bundle_dir
from trainbeacon.stack.ports import free_port
from trainbeacon.stack.receiver import Notification, Receiver

_SECONDS_TO_READY = 30.0


class StackError(RuntimeError):
    """Prometheus or Alertmanager cannot be had or does not start; the message says why."""


class Stack:
    """Both servers and the receiver, from entering to leaving the context; nothing is left afterwards.

    `targets` are the exporters to scrape (`host:port`), or a file of them for file_sd; `interval` is that of
    scrapes and evaluations and `longest_wait` the longest that Alertmanager collects before it sends, in
    seconds (None: as shipped). Ports of 0 mean free ones. `receiver` takes the messages, in place of one that
    calls `on_change`. `bundle` is the folder with `prometheus/` and `alertmanager/`, `prometheus_flags` are
    added to that server's own. `folder` keeps configuration, data and logs beyond the end; else they go with
    it. `also` is that of `rendering.alertmanager_config`. Entering blocks until both are ready.

    Attributes:
        children: the servers, by name.
        people: webhook for what people are to read, see `rendering.alertmanager_config`.
    """

    def __init__(
        self,
        targets: Sequence[str] | Path,
        *,
        interval: float = 2.0,
        longest_wait: float | None = 2.0,
        prometheus_port: int = 0,
        alertmanager_port: int = 0,
        on_change: Callable[[Notification], None] = lambda notification: None,
        receiver: Receiver | None = None,
        bundle: Path | None = None,
        tools: binaries.Binaries | None = None,
        prometheus_flags: Sequence[str] = (),
        folder: Path | None = None,
        people: str = "",
        also: Sequence[str] = (),
    ) -> None:
        self._targets = targets
        self._kept = folder
        self.people, self._also = people, tuple(also)
        self.children: dict[str, subprocess.Popen[str]] = {}
        self._interval = interval
        self._longest_wait = longest_wait
        self._prometheus = f"127.0.0.1:{prometheus_port or free_port()}"
        self._alertmanager = f"127.0.0.1:{alertmanager_port or free_port()}"
        self._bundle = bundle or bundle_dir()
        self._tools = tools or binaries.find()
        self._prometheus_flags = tuple(prometheus_flags)
        self._closing = ExitStack()
        self.receiver = receiver or Receiver(on_change)

    def __enter__(self) -> Stack:
        with ExitStack() as closing:
            self.folder = self._kept or Path(
                closing.enter_context(tempfile.TemporaryDirectory(prefix="trainbeacon-stack-"))
            )
            closing.enter_context(self.receiver)
            closing.callback(lambda: processes.stop(self.children.values()))
            self.start("alertmanager")
            self.start("prometheus")
            self._closing = closing.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    @property
    def prometheus_url(self) -> str:
        """Address of Prometheus, without a slash at the end."""
        return f"http://{self._prometheus}"

    @property
    def alertmanager_url(self) -> str:
        """Address of Alertmanager, without a slash at the end."""
        return f"http://{self._alertmanager}"

    @property
    def notifications(self) -> list[Notification]:
        """Everything received so far, repetitions included."""
        return self.receiver.notifications

    def wait_for(self, wanted: Callable[[Notification], bool], seconds: float) -> Notification | None:
        """The first notification, received or to come within the time, that is wanted; else None."""
        return self.receiver.wait_for(wanted, seconds)

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """The present value of an expression that gives a vector: labels and value of each series."""
        answer = web.get_json(f"{self.prometheus_url}/api/v1/query", query=promql)
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    def alerts(self) -> list[dict[str, Any]]:
        """Pending and firing alerts, as Prometheus' API tells them."""
        answer = web.get_json(f"{self.prometheus_url}/api/v1/alerts")
        return list(answer["data"]["alerts"])

    def start(self, name: str) -> None:
        """Start `alertmanager` or `prometheus`, again if it has ended; blocks until it is ready.

        Raises StackError if it does not come up.
        """
        if name == "alertmanager":
            self._start(name, self._tools.alertmanager, self._alertmanager_line(), self.alertmanager_url)
        else:
            self._start(name, self._tools.prometheus, self._prometheus_line(), self.prometheus_url)

    def configure_alertmanager(self) -> None:
        """Write the configuration of Alertmanager; it reads it at its start, and on SIGHUP."""
        config = rendering.alertmanager_config(
            self._bundle, self.receiver.url, self._longest_wait, people=self.people, also=self._also
        )
        self._write("alertmanager", config)

    def _alertmanager_line(self) -> list[str]:
        self.configure_alertmanager()
        return [
            f"--config.file={self.folder / 'alertmanager.yml'}",
            f"--storage.path={self.folder / 'alertmanager'}",
            f"--web.listen-address={self._alertmanager}",
            "--cluster.listen-address=",
        ]

    def _prometheus_line(self) -> list[str]:
        config = rendering.prometheus_config(
            self._bundle, self._targets, self._interval, self._prometheus, self._alertmanager
        )
        return [
            f"--config.file={self._write('prometheus', config)}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}",
            f"--web.listen-address={self._prometheus}",
            # Alerts that fire before Alertmanager is discovered would else wait a minute for the next try.
            f"--rules.alert.resend-delay={rendering.seconds(2 * self._interval)}",
            *self._prometheus_flags,
        ]

    def _start(self, name: str, binary: Path | None, options: Sequence[str], url: str) -> None:
        if binary is None:
            raise StackError(binaries.HOW_TO_GET.format(cache=binaries.cache_dir()))
        log = self.folder / f"{name}.log"
        process = processes.start([str(binary), *options], log)
        self.children[name] = process
        if not self._ready(process, url):
            raise StackError(f"{name} is not ready at {url}:\n{processes.last_lines(log)}")

    def _ready(self, process: subprocess.Popen[str], url: str) -> bool:
        def settled() -> bool:
            return process.poll() is not None or web.answers(f"{url}/-/ready")

        return processes.wait_until(settled, _SECONDS_TO_READY) and process.poll() is None

    def _write(self, name: str, config: Mapping[str, Any]) -> Path:
        path = self.folder / f"{name}.yml"
        path.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        return path
