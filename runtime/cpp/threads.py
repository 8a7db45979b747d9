"""How many threads a kernel runs on."""

from __future__ import annotations

import os
import warnings

import torch

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


def threads() -> int:
    """As many as torch's own operators: one in a process that was forked from this one.

    There the threads of OpenMP are gone while its books still list them: a region of several would wait for ever, in
    torch's operators too. So torch is set to one thread, with a warning (once).
    """
    if _forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warnings.warn(
            "attnspec: this process was forked from one that may have run threads, which do not survive a fork: torch "
            'is set to one thread here. Start processes with multiprocessing\'s "spawn" to have more',
            RuntimeWarning,
            stacklevel=2,
        )
    return torch.get_num_threads()
