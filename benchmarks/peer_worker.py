"""A process that runs one logger or one trainer, and times it when told to; see `benchmarks.workers`.

A line on the socket is a request, one line of JSON answers it; the process ends with the connection. It is
a script as well as a module, since TraceML's launcher wants a script.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

Answer = Callable[[int], Any]


def main() -> None:
    path, kind, name, folder = sys.argv[1:5]
    logging.getLogger("trainbeacon").setLevel(logging.ERROR)
    answer, close = {"log": _log, "train": _train, "footprint": _footprint}[kind](name, folder)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with connection.makefile("rw", encoding="utf-8") as stream:
            print(json.dumps("ready"), file=stream, flush=True)
            for line in stream:
                print(json.dumps(answer(int(line))), file=stream, flush=True)
    close()


def _log(name: str, folder: str) -> tuple[Answer, Callable[[], None]]:
    """Times so many steps' worth of logging; answers processor and wall time."""
    from benchmarks.peers import close_quietly, start

    logger = start(name, folder)
    logger.log()

    def answer(count: int) -> list[float]:
        times = _timed(logger.log, count)
        logger.settle()
        return times

    return answer, lambda: close_quietly(logger)


def _timed(work: Callable[[], None], count: int) -> list[float]:
    processor, clock = time.thread_time(), time.perf_counter()
    for _ in range(count):
        work()
    return [time.thread_time() - processor, time.perf_counter() - clock]


def _footprint(name: str, folder: str) -> tuple[Answer, Callable[[], None]]:
    """Starts the logger on request, in a process that has torch loaded already, as training has."""
    import psutil
    import torch  # noqa: F401 - loaded before the first reading

    from benchmarks.peers import close_quietly, start

    process = psutil.Process()
    started: list[Any] = []

    def answer(count: int) -> dict[str, float]:
        before = process.memory_info().rss, process.num_threads()
        processor, clock = time.process_time(), time.perf_counter()
        logger = start(name, folder)
        logger.log()
        told = {
            "wall": (time.perf_counter() - clock) * 1e3,
            "processor": (time.process_time() - processor) * 1e3,
        }
        started.append(logger)
        logger.settle()
        memory = process.memory_info().rss - before[0]
        others = [child.memory_info().rss for child in process.children(recursive=True)]
        return {
            **told,
            "mebibytes": memory / 2**20,
            "threads": process.num_threads() - before[1],
            "mebibytes_of_processes_started": sum(others) / 2**20,
        }

    def close() -> None:
        for logger in started:
            close_quietly(logger)

    return answer, close


def _train(name: str, folder: str) -> tuple[Answer, Callable[[], None]]:
    """Trains one pass over the data; answers processor and wall time."""
    import torch

    from benchmarks.hooked_step import Trainer, made_data

    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = Trainer(made_data())
    loop, close = _LOOPS[name](trainer, folder)
    return lambda count: _timed(loop, 1), close


def _plain(trainer: Any, folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    return lambda: trainer.train(_as_it_is, _ignore), _nothing


def _item(trainer: Any, folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """The usual loop: `loss.item()` into a gauge and a list at each step."""
    from prometheus_client import Gauge

    gauge, losses = Gauge("loss", "Loss."), []

    def log(loss: Any) -> None:
        value = loss.item()
        losses.append(value)
        gauge.set(value)

    return lambda: trainer.train(_as_it_is, log), _nothing


def _trainbeacon(trainer: Any, folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    import trainbeacon

    beacon = trainbeacon.start(run="benchmark", directory=folder, serve="off")
    beacon.watch(trainer.model, trainer.optimizer)
    return (
        lambda: trainer.train(beacon.batches, lambda loss: beacon.log(loss=loss)),
        beacon.finish,
    )


def _traceml_auto(trainer: Any, folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    import traceml_ai

    _check(traceml_ai.init(mode="auto"))
    return lambda: trainer.train_inside(_as_it_is, traceml_ai.trace_step, _as_it_is), _nothing


def _traceml_manual(trainer: Any, folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    import traceml_ai

    _check(traceml_ai.init(mode="manual"))
    trainer.model = traceml_ai.wrap_forward(trainer.model)
    trainer.optimizer = traceml_ai.wrap_optimizer(trainer.optimizer)
    wraps = traceml_ai.wrap_dataloader_fetch, traceml_ai.trace_step, traceml_ai.wrap_backward
    return lambda: trainer.train_inside(*wraps), _nothing


def _check(config: Any) -> None:
    """TraceML goes on without tracing when it cannot start; that would be timed as if it cost nothing."""
    from traceml_ai.runtime.lifecycle import get_active_runtime_handle

    handle = get_active_runtime_handle()
    if handle is None or type(handle.runtime).__name__ != "TraceMLRuntime":
        raise RuntimeError(f"TraceML does not trace: {config}, {handle}")


_LOOPS = {
    "plain": _plain,
    "loss.item() to a gauge": _item,
    "trainbeacon": _trainbeacon,
    "TraceML, automatic": _traceml_auto,
    "TraceML, manual": _traceml_manual,
}


def _as_it_is(data: Any) -> Any:
    return data


def _ignore(loss: Any) -> None:
    pass


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
