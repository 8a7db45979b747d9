"""The most bytes of tensors that were alive at once while something ran, of those that it made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts them, of this thread.

    >>> with Live() as live:
    ...     for _ in range(3):
    ...         t = torch.zeros(1000)
    >>> live.peak
    8000
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and count what it makes beside what is there still."""
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        found = func(*args, **(kwargs or {}))
        for t in tree_leaves(found):
            if isinstance(t, Tensor) and (at := _storage(t)) not in given:
                storage = t.untyped_storage()
                self._held[at] = StorageWeakRef(storage), storage.nbytes()
        self._held = {at: held for at, held in self._held.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self._held.values()))
        return found


def _storage(t: Tensor) -> int:
    return t.untyped_storage()._cdata


def peak(f: Callable[[], Any]) -> tuple[Any, int]:
    """What it returns, and the most bytes."""
    with Live() as live, torch.no_grad():
        found = f()
    return found, live.peak
