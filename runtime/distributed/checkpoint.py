"""Checkpointing that never runs an expensive attention twice: ``attnspec.checkpoint_policy``.

What a checkpointed layer recomputes in backward is cheap beside attention to many keys, whose output is as small as its
input: saving it is the rematerialisation-aware checkpointing of DISTFLASHATTN (Li et al., 2024, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attnspec.runtime.core.request import Call
from attnspec.runtime.pairs import possible

if TYPE_CHECKING:
    from torch.utils.checkpoint import CheckpointPolicy

_VECTORS = ("attend", "attend_bare")
_TENSORS = ("attend_linear", "attend_from", "part", "attend_parallel")


def checkpoint_policy(windows: bool = False) -> Callable[..., CheckpointPolicy]:
    """A policy for selective checkpointing that saves the results of attnspec's operators, on one device or many.

    >>> import functools, torch, attnspec
    >>> from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
    >>> attend = attnspec.compile("causal")
    >>> contexts = functools.partial(create_selective_checkpoint_contexts, attnspec.checkpoint_policy())
    >>> q = torch.randn(1, 2, 300, 16, requires_grad=True)
    >>> checkpoint(lambda q: attend(q, q, q).sin(), q, use_reentrant=False, context_fn=contexts).sum().backward()

    Backward of such a layer recomputes all else, and runs no forward pass of attention (nor sends anything for one).
    What is saved is the output and the log-sum-exp, as large as the queries. Cheap patterns are recomputed as well,
    unless ``windows``: those that take no more operations, counted exactly, than the projections of q, k and v before
    them, which are recomputed too (taken as heads * dim wide). Where inputs decide which pairs there are, all that are
    possible count.
    """
    from torch.utils.checkpoint import CheckpointPolicy

    def policy(context: Any, operator: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
        namespace, _, name = str(getattr(operator, "name", str)()).partition("::")
        if namespace != "attnspec" or name.partition(".")[0] not in (*_VECTORS, *_TENSORS):
            return CheckpointPolicy.PREFER_RECOMPUTE
        if windows or not _cheap(name.partition(".")[0], arguments):
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return policy


def _cheap(name: str, arguments: Sequence[Any]) -> bool:
    """Whether a call takes no more operations than the projections before it."""
    q, k, v = arguments[:3] if name in _VECTORS else arguments[0][:3]
    shapes = [*q.shape, *k.shape, *v.shape]
    if not all(type(size) is int for size in shapes):  # symbols: of any length
        return False
    batch, heads, rows, dim = q.shape
    width = heads * dim
    projections = 2 * batch * rows * width * (width + k.shape[1] * (k.shape[3] + v.shape[3]))
    return _operations(name, arguments, q, v) <= float(projections)


def _operations(name: str, arguments: Sequence[Any], q: Tensor, v: Tensor) -> float:
    """Those of a call; infinity where they are not known."""
    if name == "attend_parallel":
        from attnspec.runtime.distributed.operator import share_of_pairs

        pairs: float = share_of_pairs(*arguments[3:5]) * q.shape[0]
    elif name in _VECTORS:
        fields = [*arguments[:3], (), *arguments[3:]] if name == "attend_bare" else list(arguments)
        found = possible(Call(*fields[: len(Call._fields) - len(Call._field_defaults)]))
        pairs = math.inf if found is None else found
    else:
        pairs = 0.0 if name in ("attend_linear", "attend_from") else math.inf
    return 2 * pairs * (q.shape[3] + v.shape[3])
