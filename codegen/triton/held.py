"""What the tensors of a call hold, by the names that its kernels have for it: a whole pattern, or a part of one.

Patterns read positions, heads and sizes of the whole; tensors are indexed by what they hold of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeldNames:
    """Names of what :class:`attnspec.relation.sizes.Held` says.

    ``q_start`` and ``k_start`` are None where that is 0, ``q_end`` and ``k_end`` follow the last positions. ``h`` and
    ``b`` are the program's head and batch entry, counted among those that are held; ``heads``, ``kv_heads``, ``batch``,
    ``rows`` and ``keys`` say how many these are. Keys that are ``paged`` lie in pages of ``page_size``, and each batch
    entry has its own number of them, which is ``n``.
    """

    q_start: str | None
    q_end: str
    k_start: str | None
    k_end: str
    h: str
    b: str
    heads: str
    kv_heads: str
    batch: str
    rows: str
    keys: str
    paged: bool = False

    @property
    def part(self) -> bool:
        """Whether it may be less than the whole."""
        return self == PART

    @property
    def lines(self) -> str:
        """How many rows of queries there are in all."""
        return f"{self.batch} * {self.heads} * {self.rows}"

    @property
    def line(self) -> str:
        """How many stand before those of the program's head."""
        return f"({self.b} * {self.heads} + {self.h}) * {self.rows}"


PART = HeldNames(
    *("q_start", "q_start + rows", "k_start", "k_start + keys"),
    *("own_h", "own_b", "held_heads", "held_kv_heads", "held_batch", "rows", "keys"),
)


def whole(align: str, paged: bool = False) -> HeldNames:
    """All of a pattern; ``align`` says where query row 0 stands."""
    start, end = ("q_start", "n") if align == "end" else (None, "n_q")
    return HeldNames(start, end, None, "n", "h", "b", "heads", "kv_heads", "batch", "n_q", "n", paged)
