"""The bytes that this process sends to others while plain calls of torch.distributed run.

>>> with Sent(dist.group.WORLD) as sent:  # doctest: +SKIP
...     dist.all_gather_into_tensor(whole, mine)
>>> sent.bytes == (dist.get_world_size() - 1) * mine.nbytes  # doctest: +SKIP
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

_NOTHING = ("recv_", "wait_tensor", "_wrap_tensor_autograd")


class Sent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts them. What a collective sends is what each rank must get from this one, whichever way it takes."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rank, self.others, self.bytes = dist.get_rank(group), dist.get_world_size(group) - 1, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and count it where it sends. NotImplementedError where it is not known what it sends."""
        namespace, _, name = func._schema.name.partition("::")
        if "c10d" in namespace and name not in _NOTHING:
            self.bytes += self._bytes(name, args)
        return func(*args, **(kwargs or {}))

    def _bytes(self, name: str, args: tuple[Any, ...]) -> int:
        if name == "send":
            return sum(t.nbytes for t in args[0])
        if name == "_allgather_base_":
            return self.others * int(args[1].nbytes)
        if name == "all_gather_into_tensor":
            return self.others * int(args[0].nbytes)
        if name == "all_to_all_single":
            given, _, sizes, _ = args
            return int(given.nbytes * (len(given) - sizes[self.rank]) // len(given))
        raise NotImplementedError(f"what {name} sends is not counted")
