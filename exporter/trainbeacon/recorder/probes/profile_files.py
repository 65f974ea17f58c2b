"""How a profile is asked for and answered: files in a private folder beside the black boxes.

Only the user that the training process runs as can ask: the folder and the request must be that user's, and
closed to the writing of others. A request names one process by its black box, so that another attempt never
answers it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainbeacon.blackbox import files

MOST_STEPS, MOST_SECONDS = 100, 120.0
#: A request that nobody took is forgotten after so long.
REQUEST_SECONDS = 300.0
#: Traces of a rank that are kept, and the size beyond which one is thrown away.
MOST_TRACES, MOST_TRACE_BYTES = 3, 64 * 1024 * 1024
TRACE_SUFFIX = ".pt.trace.json.gz"
TOOLS = ("torch", "nsys")
_MOST_BYTES = 16 * 1024


@dataclass(frozen=True)
class Request:
    """What is asked of a rank.

    Attributes:
        id: tells answers apart.
        steps: steps to record.
        seconds: the recording ends with the first step after so long, however few steps it has.
        tool: `torch`, or `nsys` to mark a range for Nsight Systems.
        time: Unix time of the request.
    """

    id: str
    steps: int
    seconds: float
    tool: str
    time: float

    @classmethod
    def make(cls, steps: int = 5, seconds: float = 30.0, tool: str = "torch") -> Request:
        """A new one, now."""
        return cls(secrets.token_hex(8), steps, seconds, tool, time.time())


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        id: of the request.
        state: waiting (for the end of a step), recording, writing, done or refused.
        text: why it was refused, or what else is to be said.
        trace: name of the trace in the folder, once it is done.
        first_step, last_step: the steps of the run that it holds.
    """

    id: str
    state: str
    text: str = ""
    trace: str = ""
    first_step: int = 0
    last_step: int = 0


class Folder:
    """The folder of requests, answers and traces, beside one folder of black boxes.

    Threads: may be used from any.
    """

    def __init__(self, boxes: str) -> None:
        self._boxes = boxes
        self.path = os.path.join(boxes, f"profile-{os.geteuid()}")

    def ask(self, box: str, request: Request) -> None:
        """Ask the process of that box, whose last answer is forgotten. Raises OSError."""
        with self.opened() as folder:
            files.remove(folder, _answer(box))
            files.replace_in(folder, _request(box), json.dumps(asdict(request)).encode(), mode=0o600)

    def take(self, box: str) -> Request | None:
        """The request to that process, which is removed; None without one. One `stat` a call.

        Raises:
            OSError, ValueError: what lies there is no request of this user's.
        """
        if not os.path.lexists(os.path.join(self.path, _request(box))):
            return None
        with self.opened() as folder:
            try:
                found = _read(folder, _request(box))
            finally:
                files.remove(folder, _request(box))
        request = _checked(found)
        return request if 0 <= time.time() - request.time <= REQUEST_SECONDS else None

    def withdraw(self, box: str) -> None:
        """Forget the request to that process."""
        with contextlib.suppress(OSError), self.opened() as folder:
            files.remove(folder, _request(box))

    def answer(self, box: str, answer: Answer) -> None:
        """Say what became of a request. Raises OSError."""
        with self.opened() as folder:
            files.replace_in(folder, _answer(box), json.dumps(asdict(answer)).encode(), mode=0o600)

    def answered(self, box: str, id: str) -> Answer | None:
        """The answer to that request, if there is one by now."""
        with contextlib.suppress(OSError, ValueError, TypeError), self.opened() as folder:
            answer = Answer(**_read(folder, _answer(box)))
            return answer if answer.id == id else None
        return None

    def prune(self, prefix: str) -> None:
        """Remove the oldest traces of a rank beyond the bound. Raises OSError."""
        with self.opened() as folder:
            own = sorted(n for n in files.names(folder) if n.startswith(prefix) and n.endswith(TRACE_SUFFIX))
            for name in own[:-MOST_TRACES]:
                files.remove(folder, name)

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Its descriptor; made (0700) if absent. Raises OSError where it is another user's."""
        boxes = os.open(self._boxes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            folder = files.open_folder(boxes, os.path.basename(self.path))
        finally:
            os.close(boxes)
        try:
            yield folder
        finally:
            os.close(folder)


def _request(box: str) -> str:
    return f"{box}.request.json"


def _answer(box: str) -> str:
    return f"{box}.answer.json"


def _read(folder: int, name: str) -> Mapping[str, Any]:
    with open(files.open_regular(folder, name, owner=os.geteuid()), "rb") as file:
        document = json.loads(file.read(_MOST_BYTES))
    if not isinstance(document, dict):
        raise ValueError(f"{name} is no object of JSON")
    return document


def _checked(found: Mapping[str, Any]) -> Request:
    try:
        request = Request(**found)
        known = request.tool in TOOLS and 1 <= request.steps <= MOST_STEPS
        if known and 0 < request.seconds <= MOST_SECONDS and request.time > 0:
            return request
    except TypeError as error:
        raise ValueError(f"no request for a profile: {error}") from None
    raise ValueError(f"no request for a profile that can be met: {request}")
