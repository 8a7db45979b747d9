"""Messages between processes, by torch.distributed: gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from attnspec.runtime.distributed.transport import Expected, Sent

_TAGS = 1 << 20


class _Posted:
    """Messages on their way, whose tensors live until they are through."""

    def __init__(self, works: list[dist.Work], sent: Sequence[Sent], expected: Sequence[Expected]) -> None:
        self._works, self._held = works, (sent, expected)
        self._others = [one.target for one in sent] + [one.source for one in expected]

    def wait(self) -> None:
        """Until messages are through. Raises RuntimeError where a rank is gone or the group's time is over."""
        for number, work in enumerate(self._works):
            try:
                work.wait()
            except RuntimeError as error:
                of_each = len(self._works) == len(self._others)  # NCCL has one work for all
                ranks = [self._others[number]] if of_each else sorted(set(self._others))
                raise RuntimeError(
                    f"attention over ranks waited in vain for rank {', '.join(map(str, ranks))}, which is gone, or "
                    "does not do the same as this rank: all ranks call it together and differentiate together, so the "
                    f"loss must depend on its output on each of them ({error})"
                ) from error
        self._works, self._held = [], ((), ())


class Processes:
    """The processes of a group, which have a group of their own for these messages: made where all of them are.

    NCCL matches messages of a pair by their order, gloo by tags too: both are the same on both sides.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.parent = group
        self.name = str(group.group_name)
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        members = dist.get_process_group_ranks(group)
        self.backend = backend = str(dist.get_backend(group))
        timeout = _timeout(group)
        self._own = dist.new_group(members, backend=backend, timeout=timeout, use_local_synchronization=True)
        self._sent: Counter[int] = Counter()
        self._expected: Counter[int] = Counter()

    def post(self, sent: Sequence[Sent], expected: Sequence[Expected]) -> _Posted:
        """Begin with the messages of one step."""
        operations = [self._operation(dist.isend, self._sent, one.target, one.tensor) for one in sent]
        operations += [self._operation(dist.irecv, self._expected, one.source, one.tensor) for one in expected]
        return _Posted(dist.batch_isend_irecv(operations) if operations else [], sent, expected)

    def _operation(self, what: object, counter: Counter[int], peer: int, t: Tensor) -> dist.P2POp:
        tag = counter[peer] % _TAGS
        counter[peer] += 1
        return dist.P2POp(what, t, group=self._own, tag=tag, group_peer=peer)  # type: ignore[arg-type]


_MADE: dict[str, Processes] = {}


def of_group(group: dist.ProcessGroup) -> Processes:
    """Those of a group: made once, by all of its ranks at the same place of their programs."""
    found = _MADE.get(str(group.group_name))
    if found is None or found.parent is not group:  # another one of that name, after destroy_process_group
        found = _MADE[str(group.group_name)] = Processes(group)
    return found


def of_name(name: str) -> Processes:
    """Those of the group of this name. Raises RuntimeError where there is none."""
    return of_group(dist.distributed_c10d._resolve_process_group(name))  # type: ignore[attr-defined, arg-type]


def _timeout(group: dist.ProcessGroup) -> object:
    """How long a group waits; None where that is not known."""
    for kind in ("cpu", "cuda"):
        try:
            return group._get_backend(torch.device(kind)).options._timeout
        except (RuntimeError, AttributeError):
            continue
    return None
