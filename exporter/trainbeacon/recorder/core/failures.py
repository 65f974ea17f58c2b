"""What an exception that ends a rank is of: one of `catalogue.FAILURE_KINDS`, by class and text.

Looked at once, when the run fails. Imports no framework: PyTorch's errors are known by the names of
their classes and by what they say, because most of them are a plain RuntimeError.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

#: Characters of a text that are looked at, from its start and from its end each.
_TEXT_LIMIT = 4000
#: Exceptions of a chain that are looked at.
_CHAIN_LIMIT = 20
_STORAGE_ERRNOS = {
    errno.ENOSPC,
    errno.EIO,
    errno.EDQUOT,
    errno.EROFS,
    errno.ESTALE,
    errno.EFBIG,
    errno.ENOTCONN,
    errno.EREMOTEIO,
}
#: Exit codes of a handler that turns SIGINT, SIGTERM or SIGUSR1 into an orderly exit.
_EXIT_CODES_OF_SIGNALS = {128 + 2, 128 + 10, 128 + 15, -2, -10, -15}

#: What the texts say; the first that is found counts, so what is more telling comes first.
_TEXTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (
            "cuda_oom",
            r"(?:CUDA|HIP|XPU) (?:error: )?out of memory|_STATUS_ALLOC_FAILED|failure '?out of memory",
        ),
        # A loader's worker that the kernel killed, and shared memory that is full, are memory too.
        (
            "host_oom",
            r"worker \(pid\S* [\d, ]+\) (?:is killed by signal: (?:Killed|Bus error)|exited unexpectedly)"
            r"|can't allocate memory|Cannot allocate memory|(?:insufficient|out of) shared memory"
            r"|shared memory\b.*No space left|</torch_\w+>: No space left",
        ),
        (
            "storage",
            r"No space left on device|Disk quota exceeded|Input/output error|Read-only file system"
            r"|Stale file handle|PytorchStreamWriter failed|inline_container\.cc|iostream error",
        ),
        (
            "data",
            r"in DataLoader worker process|in pin memory thread|DataLoader worker \(pid|DataLoader timed out",
        ),
        (
            "timeout",
            r"Timed out waiting \d+ ?ms|[Ww]ait timeout|[Ww]atchdog caught collective operation timeout"
            r"|failed to pass monitoredBarrier|[Ss]ocket [Tt]imeout|has timed out after|[Cc]onnect timeout"
            r"|ran for \d+ milliseconds before timing out|[Oo]peration timed out",
        ),
        (
            "peer_lost",
            r"Connection (?:closed by|reset by|was likely closed)|Connection refused|Broken pipe"
            r"|remote process exited|ncclRemoteError|communicator was aborted|received errors while waiting"
            r"|(?:recv|send), got 0 bytes|remote server shutdown",
        ),
    )
)
#: Classes whose texts need not say anything, and may say anything: user code raises them too.
_CLASSES = {
    "OutOfMemoryError": "cuda_oom",
    "MemoryError": "host_oom",
    "DistStoreError": "timeout",
    "TimeoutError": "timeout",
    "ConnectionError": "peer_lost",
    "DistNetworkError": "peer_lost",
    "DistBackendError": "peer_lost",
    "KeyboardInterrupt": "interrupted",
    "CancelledError": "interrupted",
    "SignalException": "interrupted",
}


#: Kinds that are nobody else's end.
_OWN_CAUSES = frozenset({"cuda_oom", "host_oom", "storage", "data"})


def kind_of(error: BaseException) -> str:
    """The kind of failure that an exception stands for; never raises.

    The whole chain is judged. What has a cause of its own (memory, storage, data) counts before what
    is the end of another rank or of somebody's patience. Along `raise ... from` the oldest one is the
    cause. One that was merely being handled when another was raised (`__context__`) may be long done
    with, so the newer counts.
    """
    links = [link for origin in _origins(error) for link in reversed(list(origin))]
    kinds = [kind for kind in map(_kind_of_link, links) if kind is not None]
    own = [kind for kind in kinds if kind in _OWN_CAUSES]
    if own:
        return own[0]
    if "interrupted" in kinds:
        return "interrupted"
    if any(_from_loader(link) for link in links):
        return "data"
    return kinds[0] if kinds else "other"


def _kind_of_link(link: BaseException) -> str | None:
    """The kind that one exception tells by itself. Texts are believed before classes."""
    return _by_errno(link) or _by_text(link) or _by_class(link)


def _origins(error: BaseException) -> Iterator[list[BaseException]]:
    """The chain in pieces, the newest first: within a piece each was raised from the next."""
    piece: list[BaseException] = []
    for link in _chain(error):
        if piece and not _raised_from(piece, link):
            yield piece
            piece = []
        piece.append(link)
    if piece:
        yield piece


def _raised_from(piece: list[BaseException], link: BaseException) -> bool:
    return any(above.__cause__ is link or link in getattr(above, "exceptions", ()) for above in piece)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it came of, what that came of, and so on; of a group the first ones."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting and len(seen) < _CHAIN_LIMIT:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting.append(link.__cause__ or (None if link.__suppress_context__ else link.__context__))
        waiting += list(getattr(link, "exceptions", ()))[:2]


def _by_errno(error: BaseException) -> str | None:
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.ENOMEM:
        return "host_oom"
    return "storage" if error.errno in _STORAGE_ERRNOS else None


def _by_text(error: BaseException) -> str | None:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a class of the user's may not even have a text
        return None
    if len(text) > 2 * _TEXT_LIMIT:
        text = text[:_TEXT_LIMIT] + text[-_TEXT_LIMIT:]
    return next((kind for kind, pattern in _TEXTS if pattern.search(text)), None)


def _by_class(error: BaseException) -> str | None:
    if isinstance(error, SystemExit):
        return "interrupted" if error.code in _EXIT_CODES_OF_SIGNALS else None
    return next((_CLASSES[each.__name__] for each in type(error).__mro__ if each.__name__ in _CLASSES), None)


def _from_loader(error: BaseException) -> bool:
    """Whether it was raised while PyTorch's loader fetched a batch in this very process."""
    trace = error.__traceback__
    while trace is not None:
        if "torch/utils/data/" in trace.tb_frame.f_code.co_filename.replace("\\", "/"):
            return True
        trace = trace.tb_next
    return False
