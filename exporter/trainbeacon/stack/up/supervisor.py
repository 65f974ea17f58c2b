"""The process behind `up`: it starts the servers, finds runs, sees children die, and ends everything."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from trainbeacon._version import __version__
from trainbeacon.stack import processes, tether
from trainbeacon.stack.binaries import Binaries, find
from trainbeacon.stack.bundle import bundle_dir
from trainbeacon.stack.ports import free_port, port_is_free
from trainbeacon.stack.receiver import Notification, Receiver
from trainbeacon.stack.stack import Stack, StackError
from trainbeacon.stack.up import grafana
from trainbeacon.stack.up.state import Note, State
from trainbeacon.stack.up.targets import Targets

#: Ports that people expect the servers on; where one is taken, another is.
PORTS = {"prometheus": 9090, "alertmanager": 9093, "grafana": 3000}
#: What a person wants to know of a run whatever its severity.
ENDS = ("TrainingRunFinished", "TrainingRunFailed")
_TURN_SECONDS = 1.0
_MOST_LOG_BYTES = 4 * 1024 * 1024
_MOST_EVENTS = 50
#: A child that dies more often than this within the time is left alone.
_MOST_RESTARTS, _RESTART_SECONDS = 5, 600.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Options:
    """What `up` was asked for."""

    interval: float = 5.0
    """Seconds between scrapes and between evaluations."""
    keep: str = "15d"
    """For how long Prometheus keeps data."""
    keep_size: str = "2GB"
    """How much of it at most."""
    ports: tuple[tuple[str, int], ...] = ()
    """Ports that were asked for, by server."""
    finished: bool = False
    """Whether the end of a run is a message as well."""


class Supervisor:
    """Runs in the foreground of its process until SIGTERM or SIGINT; SIGHUP reads the addresses again."""

    def __init__(self, state: State, options: Options, say: Callable[[str], None]) -> None:
        self._state = state
        self._options = options
        self._say_aloud = say
        self._tools: Binaries = find()
        self._note = Note(os.getpid(), time.time(), __version__, interval=options.interval)
        self._children: dict[str, subprocess.Popen[str]] = {}
        self._starts: dict[str, Callable[[], subprocess.Popen[str]]] = {}
        self._deaths: dict[str, list[float]] = {}
        # Not an Event: setting one in a signal handler can wait for ever for the thread it interrupted.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._notify_port = 0

    def run(self) -> int:
        """Run until a signal; returns the exit status. Whatever ends it, nothing that it started is left.

        Raises StackError if a server does not start, OSError if the folder cannot be used.
        """
        self._state.make()
        lock = self._state.take_lock()
        if lock is None:
            self._say_aloud("another `trainbeacon up` of yours runs already")
            return 3
        tether.adopt_orphans()
        with self._handlers(), ExitStack() as closing:
            closing.callback(os.close, lock)
            closing.callback(self._state.remove_note)
            closing.callback(processes.stop_descendants)
            self._serve(closing)
        self._say_aloud("ended")
        return 0

    def _serve(self, closing: ExitStack) -> None:
        targets = Targets(self._state.folder, self._event)
        receiver = Receiver(self._received)
        stack = closing.enter_context(self._stack(targets.file, receiver))
        self._watch_stack(stack)
        closing.callback(lambda: processes.stop(self._children.values()))
        self._start_notify()
        self._start_grafana(stack)
        self._publish(stack)
        while self._turn(stack, targets):
            pass
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the end takes seconds, and must not be left half done

    def _stack(self, targets: Path, receiver: Receiver) -> Stack:
        options = self._options
        self._notify_port = free_port()
        return Stack(
            targets,
            interval=options.interval,
            longest_wait=None,
            prometheus_port=self._port("prometheus"),
            alertmanager_port=self._port("alertmanager"),
            receiver=receiver,
            tools=self._tools,
            folder=self._state.folder,
            prometheus_flags=(
                f"--storage.tsdb.retention.time={options.keep}",
                f"--storage.tsdb.retention.size={options.keep_size}",
            ),
            people=f"http://127.0.0.1:{self._notify_port}/alerts/people" if self._state.addresses() else "",
            also=ENDS if options.finished else (),
        )

    def _port(self, name: str) -> int:
        """The port that was asked for, the usual one, or another where that is taken."""
        asked = dict(self._options.ports).get(name)
        if asked is not None and not port_is_free(asked):
            raise StackError(f"port {asked} of 127.0.0.1, which {name} was to have, is taken")
        usual = asked or PORTS[name]
        return usual if port_is_free(usual) else free_port()

    # Its children

    def _watch_stack(self, stack: Stack) -> None:
        for name in stack.children:
            self._children[name] = stack.children[name]

            def again(name: str = name) -> subprocess.Popen[str]:
                stack.start(name)
                return stack.children[name]

            self._starts[name] = again

    def _start_notify(self) -> None:
        """The bridge from Alertmanager to the addresses, if there are any."""
        addresses = self._state.addresses()
        self._note = replace(self._note, addresses=len(addresses))
        if not addresses:
            return
        config = self._state.folder / "notify.yml"
        receivers = {"people": {"urls_file": str(self._state.addresses_file)}}
        config.write_text(yaml.safe_dump({"receivers": receivers}))
        line = [sys.executable, "-m", "trainbeacon", "notify", f"--config={config}"]
        self._add("notify", [*line, f"--port={self._notify_port}"])

    def _start_grafana(self, stack: Stack) -> None:
        command = grafana.find()
        if command is None:
            return
        home = grafana.home_of(command[0])
        if home is None:
            self._event(f"grafana: {command[0]} is there, but not its files (conf/defaults.ini)")
            return
        folder = self._state.folder / "grafana"
        folder.mkdir(exist_ok=True)
        port = self._port("grafana")
        more = grafana.options(folder, bundle_dir(), port, stack.prometheus_url, self._options.interval)
        self._add("grafana", [*command, f"--homepath={home}", *more])
        self._note.urls["grafana"] = f"http://127.0.0.1:{port}"

    def _add(self, name: str, line: list[str]) -> None:
        def start() -> subprocess.Popen[str]:
            return processes.start(line, self._state.folder / f"{name}.log")

        self._starts[name] = start
        self._children[name] = start()

    def _see_the_dead(self) -> None:
        """Say which children have died, and start them again unless they do nothing but die."""
        for name, child in list(self._children.items()):
            status = child.poll()
            if status is None:
                continue
            del self._children[name]
            now = time.time()
            recent = [at for at in self._deaths.get(name, []) if now - at < _RESTART_SECONDS]
            self._deaths[name] = [*recent, now]
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            last = processes.last_lines(self._state.folder / f"{name}.log", 1)
            if len(recent) >= _MOST_RESTARTS:
                self._event(f"{name} has died again ({how}: {last}); it is left alone")
                continue
            self._event(f"{name} has died ({how}); starting it again")
            try:
                self._children[name] = self._starts[name]()
            except StackError as error:
                self._event(f"{name} does not start: {error}")

    # Its life

    def _turn(self, stack: Stack, targets: Targets) -> bool:
        """Look after everything; returns whether to go on."""
        try:
            number = self._signals.get(timeout=_TURN_SECONDS)
        except queue.Empty:
            number = 0
        if number in _SIGNALS:
            return False
        if number == signal.SIGHUP:
            self._new_addresses(stack)
        self._see_the_dead()
        targets.turn()
        for log in self._state.folder.glob("*.log"):
            bound(log)
        bound(self._state.folder / "messages.jsonl")
        return True

    def _new_addresses(self, stack: Stack) -> None:
        old = self._children.pop("notify", None)
        self._starts.pop("notify", None)
        if old is not None:
            processes.stop([old])
        self._start_notify()
        addresses = self._note.addresses
        stack.people = f"http://127.0.0.1:{self._notify_port}/alerts/people" if addresses else ""
        stack.configure_alertmanager()
        stack.children["alertmanager"].send_signal(signal.SIGHUP)
        self._event(f"messages go to {addresses} address(es) now")
        self._publish(stack)

    def _publish(self, stack: Stack) -> None:
        urls = {
            **self._note.urls,
            "prometheus": stack.prometheus_url,
            "alertmanager": stack.alertmanager_url,
        }
        self._note = replace(self._note, urls=urls)
        self._state.write_note(self._note)

    def _event(self, text: str) -> None:
        self._say_aloud(text)
        events = [*self._note.events, (time.time(), text)][-_MOST_EVENTS:]
        self._note = replace(self._note, events=events)
        if self._note.urls.get("prometheus"):
            self._state.write_note(self._note)

    def _received(self, notification: Notification) -> None:
        """Keep a notification, in the receiver's thread."""
        kept = {
            "time": time.time(),
            "alert": notification.alert,
            "status": notification.status,
            "labels": dict(notification.labels),
            "annotations": dict(notification.annotations),
        }
        with (self._state.folder / "messages.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")

    @contextmanager
    def _handlers(self) -> Iterator[None]:
        """Signals are noted and obeyed in the next turn. A terminal that goes away is no reason to end.

        Afterwards they are ignored: a second Ctrl-C must not make a failure of an orderly end.
        """
        taken = (*_SIGNALS, signal.SIGHUP)
        for number in taken:
            signal.signal(number, lambda number, _frame: self._signals.put(number))
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, signal.SIG_IGN)


def bound(log: Path, most: int = _MOST_LOG_BYTES) -> None:
    """Cut a log that has grown too long down to its end. Writers append, so they go on behind it."""
    try:
        size = log.stat().st_size
        if size <= most:
            return
        with log.open("r+b") as file:
            file.seek(size - most // 2)
            kept = file.read().partition(b"\n")[2]
            file.seek(0)
            file.write(kept)
            file.truncate()
    except OSError:
        return
