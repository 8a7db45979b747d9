"""Processes that work through a list of tasks within a time: one that dies or hangs costs its own task only.

Kernels are compiled on all processors at once this way, and an illegal memory access, after which a process can do
nothing more on a GPU, does not end the rest.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

Task = Callable[[], Any]
"""What can be sent to another process: a function of a module, or a partial of one."""
POISON = ("CUDA error", "HIP error", "an illegal memory access", "device-side assert")


class Lost(Exception):
    """A task has no result: its process died or was stopped; the message says which."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: int | None = None
    since: float = 0.0


def _serve(pipe: Connection) -> None:
    """What a worker does: tasks until there are none, or until the device is lost to this process."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            task = pipe.recv()
            if task is None:
                return
            try:
                result = task()
            except Exception as error:
                result = Lost(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            lost = any(word in str(result) for word in POISON)
            pipe.send((result, lost))
            if lost:
                return


def work(
    tasks: Sequence[Task],
    until: float,
    workers: int,
    longest: float = 120.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[int, Any]]:
    """Yields the number of each task with its result, or a Lost, as they come; those not begun at ``until`` are left.

    ``until`` is a time of ``clock``; tasks that are running then may go on for some seconds. None runs for more than
    ``longest`` seconds. With 0 ``workers`` tasks run in this process, one after another.
    """
    if not workers:
        for number, task in enumerate(tasks):
            if clock() >= until:
                return
            yield number, task()
        return
    context, waiting = mp.get_context("spawn"), list(range(len(tasks)))[::-1]
    crew: list[_Worker] = []
    try:
        while True:
            while waiting and len(crew) < min(workers, len(tasks)) and clock() < until:
                crew.append(_start(context))
            for worker in crew:
                if worker.task is None and waiting and clock() < until:
                    worker.task, worker.since = waiting.pop(), clock()
                    with contextlib.suppress(OSError):  # a worker that died is seen below
                        worker.pipe.send(tasks[worker.task])
            busy = [worker for worker in crew if worker.task is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy], timeout=0.5)
            for worker in busy:
                at = worker.task
                assert at is not None
                if worker.pipe in ready:
                    try:
                        result, lost = worker.pipe.recv()
                    except (EOFError, OSError):
                        result, lost = Lost("its process died"), True
                    worker.task = None
                    if lost:
                        crew.remove(worker)
                    yield at, result
                elif clock() - worker.since > longest or clock() > until + 15.0:
                    worker.process.kill()
                    crew.remove(worker)
                    yield at, Lost(f"stopped after {clock() - worker.since:.0f} s")
    finally:
        for worker in crew:
            with contextlib.suppress(OSError):
                worker.pipe.send(None) if worker.task is None else worker.process.kill()
        for worker in crew:
            worker.process.join(10.0)
            if worker.process.is_alive():
                worker.process.kill()


def _start(context: Any) -> _Worker:
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, mine)
