"""Along which dimensions a call may be cut, or calls joined: where batch entries, or heads, know nothing of each other.

>>> from attnspec.check.check import check_text
>>> packed = check_text("attention a { input doc: int[batch, n]  attend doc[q] == doc[k] }")
>>> apart(packed, "b"), own_dims(packed, "b"), apart(packed, "h")
(True, {'doc': 0}, True)
>>> apart(check_text("attention a { attend q - k <= b }"), "b")
False
"""

from __future__ import annotations

from collections.abc import Collection

from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.real import RealRead
from attnspec.spec.spec import Spec
from attnspec.spec.weights import MASS

_SIZES = {"b": ("batch",), "h": ("heads", "kv_heads")}
"""What a part of a call has fewer of; the first is how inputs that have a value for each are declared."""


def own_dims(spec: Spec, by: str) -> dict[str, int | None]:
    """The dimension of each input in which every batch entry (``by`` is ``"b"``) or head (``"h"``) has its own part.

    None for inputs that are the same for all. Buckets that a call gives for an order are among the inputs.
    """
    size = e.Var(_SIZES[by][0])
    found = {item.name: item.sizes.index(size) if size in item.sizes else None for item in spec.inputs}
    return found if spec.order is None else {**found, "buckets": 0 if by == "b" else 1}


def apart(spec: Spec, by: str, given: Collection[str] | None = None) -> bool:
    """Whether each batch entry (``by`` is ``"b"``) or head (``"h"``) depends on its own part of the tensors only.

    Then a call may be cut along that dimension, of q, k, v, and of each input along its :func:`own_dims`, without a
    change in what any part computes. ``given`` are the inputs of the call, all if not said: those that are drawn
    instead are drawn for the whole of it.
    """
    dims, names = own_dims(spec, by), {by, *_SIZES[by]}
    if spec.order is not None and by == "h":
        return False  # every head hashes in directions of its own
    for item in spec.inputs:
        ends = () if item.random is None else (item.random.low, item.random.high)
        others = [size for d, size in enumerate(item.sizes) if d != dims[item.name]]
        if any(contents.free(part) & names for part in (*others, *ends)):
            return False
        if item.random is not None and dims[item.name] is not None and given is not None and item.name not in given:
            return False
    return all(_own(root, by, names, dims) for root in spec.roots)


def _own(root: e.Node, by: str, names: Collection[str], dims: dict[str, int | None]) -> bool:
    """Whether an expression reads the number of the entry only to find the entry's own part of an input."""
    work = [root]
    while work:
        node = work.pop()
        if node == MASS:
            continue  # of the row itself
        if isinstance(node, e.Var) and node.name in names:
            return False
        parts = list(node.children())
        if isinstance(node, (e.Read, e.Flag, e.Among, RealRead)):
            if node.name == "alibi.slope" and by == "h":
                return False  # slopes follow from the number of heads
            dim = 0 if node.name == "order.bucket" and by == "b" else dims.get(node.name.partition(".")[0])
            if dim is not None:
                if dim >= len(node.indices) or node.indices[dim] != e.Var(by):
                    return False
                parts.remove(e.Var(by))
        work += parts
    return True
