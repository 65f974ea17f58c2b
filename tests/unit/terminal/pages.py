"""Exporters that serve what a test says, and a terminal that keeps what a program draws."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE = 120.0


def page(
    states: Sequence[str] = ("running",) * 4,
    *,
    run: str = "gpt",
    step: float = 100.0,
    loss: float = 2.5,
    first: int = 0,
) -> str:
    """What an exporter serves of a run whose ranks have those states."""
    now = time.time()
    lines = []
    for rank, state in enumerate(states, first):
        labels = f'rank="{rank}",run="{run}"'
        values: Mapping[str, float] = {
            "training_start_timestamp_seconds": now - 600,
            "training_heartbeat_timestamp_seconds": now,
            "training_last_step_timestamp_seconds": now,
            "training_step": step,
            "training_steps_total": step,
            "training_world_size": len(states),
        }
        lines += [f"{name}{{{labels}}} {value}" for name, value in values.items()]
        lines += [
            f'training_state{{{labels},state="{state}"}} 1.0',
            f'training_phase{{phase="forward",{labels}}} 1.0',
        ]
        lines += [f'training_loss{{{labels},split="train"}} {loss}']
        place = f'gpu="{rank}",gpu_uuid="",hostname="node-a",local_rank="{rank}"'
        lines.append(f"training_rank_info{{{place},{labels}}} 1.0")
    return "\n".join(lines) + "\n"


class Exporter:
    """A server on loopback; `text` is its page, None refuses to answer."""

    def __init__(self, text: str) -> None:
        self.text: str | None = text
        self.served = 0
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.served += 1
                if owner.text is None:
                    self.close_connection = True
                    return
                body = owner.text.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and drop those that are open."""
        self.text = None
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def exporter(text: str) -> Iterator[Exporter]:
    """An exporter for one test."""
    server = Exporter(text)
    try:
        yield server
    finally:
        server.stop()


_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_].*?\x1b\\|[@-Z\\-_])", re.DOTALL
)


class Terminal:
    """A program in a pseudo-terminal of that size."""

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24, **variables: str) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        clean = {
            name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")
        }
        environ = {**clean, "TERM": "xterm", "LANG": "C.UTF-8", "PYTHONUTF8": "1", **variables}
        environ.pop("COLORTERM", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainbeacon", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.raw = b""

    def resize(self, columns: int, lines: int) -> None:
        """Change the size; the program gets SIGWINCH."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def read(self, seconds: float = 0.2) -> None:
        """Take what was drawn within that time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._ours], [], [], left)
            if ready:
                try:
                    self.raw += os.read(self._ours, 65536)
                except OSError:
                    return

    def text(self, since: int = 0) -> str:
        """What was drawn, without escape sequences."""
        return _ESCAPE.sub("\n", self.raw[since:].decode(errors="replace"))

    def wait_for(self, wanted: str, since: int = 0) -> int:
        """Wait until that text is drawn; returns how much was drawn until then."""
        end = time.monotonic() + PATIENCE
        while wanted not in self.text(since):
            assert time.monotonic() < end, f"{wanted!r} was not drawn: {self.text(since)[-3000:]}"
            self.read()
        return len(self.raw)

    def end(self) -> int:
        """Wait for the program to end, reading all that it draws; returns its exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text()[-3000:]
            self.read()
        self.read()
        return self.process.returncode

    @property
    def is_restored(self) -> bool:
        """Whether the terminal's modes are as before, the other screen is left, and the cursor is there."""
        shown = self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l")
        left = self.raw.rfind(b"\x1b[?1049l") > self.raw.rfind(b"\x1b[?1049h")
        return shown and left and termios.tcgetattr(self._theirs) == self.before

    def close(self) -> None:
        """End the program if it lives, and close the terminal."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._theirs)
        os.close(self._ours)


@contextmanager
def terminal(*arguments: str, columns: int = 80, lines: int = 24, **variables: str) -> Iterator[Terminal]:
    """A program in a terminal for one test."""
    screen = Terminal(*arguments, columns=columns, lines=lines, **variables)
    try:
        yield screen
    finally:
        screen.close()
