"""Processes of this machine as the ranks of a group: started and watched by torchrun's own agent."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

from attnspec.errors.diagnostic import AttnspecError

PRELOADED = ["torch", "torch.distributed", "torch.distributed.tensor", "attnspec.runtime.attention", __name__]
"""What is imported once, by the process that all ranks are forked from."""
_TIMEOUT = 300.0
_GRACE = 1.0
"""Seconds that a rank whose call failed stays, so that a rank that died before it is found first."""
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class RankError(AttnspecError, RuntimeError):
    """A rank failed, and all others were ended: the message says which one and why."""


def on_processes(ranks: int, work: Callable[..., Any], *given: Any, timeout: float = _TIMEOUT) -> list[Any]:
    """Call ``work(*given)`` in so many processes of this machine, one thread each, and return what each returns.

    They are a gloo group, the default one of torch.distributed; ``work`` is a function of a module. A message for which
    a rank waits longer than ``timeout`` seconds is an error. Where a rank fails or dies the others are ended, as they
    are by Ctrl-C. Raises RankError then, with the first rank that failed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder, _quiet(), _signals():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.05,
            start_method="forkserver",
            shutdown_timeout=5,
        )
        try:
            found = elastic_launch(config, _rank)(work, given, timeout)
        except ChildFailedError as error:
            raise RankError(_said(error, ranks)) from None
        except SignalException as stop:
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + stop.sigval)
    return [found[rank] for rank in range(ranks)]


def on_ranks(ranks: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """The same in processes that torchrun has started, if this is one of them, else in processes of this machine.

    All ranks get what each returns. Raises RankError where torchrun started another number of processes.
    """
    if not inside_torchrun():
        return on_processes(ranks, work, *given)
    started = int(os.environ["WORLD_SIZE"])
    if started != ranks:
        raise RankError(f"torchrun started {started} processes, and {ranks} ranks are asked for")
    dist.init_process_group("gloo", timeout=timedelta(seconds=_TIMEOUT))
    found: list[Any] = [None] * ranks
    dist.all_gather_object(found, work(*given))
    dist.destroy_process_group()
    return found


def inside_torchrun() -> bool:
    """Whether this process is one of those that torchrun started."""
    return dist.is_torchelastic_launched()


def speaks() -> bool:
    """Whether this process is the one that prints: the only one, or rank 0 of those that torchrun started."""
    return not inside_torchrun() or os.environ["RANK"] == "0"


def _rank(work: Callable[..., Any], given: tuple[Any, ...], timeout: float) -> Any:
    """What each process runs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a word
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    try:
        found = work(*given)
        dist.barrier()  # no one leaves while others still wait for what it sent
    except RuntimeError as error:
        if not isinstance(error, AttnspecError):
            time.sleep(_GRACE)
        raise
    dist.destroy_process_group()
    return found


def _end_with_parent() -> None:
    """End this process when the one that asked for it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _said(error: Any, ranks: int) -> str:
    """Which rank failed first, and how."""
    rank, failure = error.get_first_failure()
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return f"rank {rank} of {ranks} died ({name}), and the other processes were ended"
    if not os.path.isfile(failure.error_file):  # it wrote no account of an error
        return f"rank {rank} of {ranks} ended with status {failure.exitcode}, and the other processes were ended"
    message = failure.message
    if isinstance(message, dict):
        trace = message["extraInfo"].get("py_callstack", "")
        kind, _, text = message["message"].partition(": ")
        ours = kind in ("CallError", "RankError", "SpecError", "MemoryError") or "torchrun" in text
        message = text if ours else f"{message['message']}\n{trace}".rstrip()
    return f"rank {rank} of {ranks} failed, and the other processes were ended: {message}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the agent's own account of failures: it is in the exception too."""
    there = tuple(f"torch.{name}" for name in ("distributed.elastic", "multiprocessing"))
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith(there)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _signals() -> Iterator[None]:
    """Signal handlers and the environment as they were, after the agent has set its own."""
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in _HANDLED} if main else {}
    environment = dict(os.environ)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
