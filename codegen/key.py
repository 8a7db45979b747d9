"""What a kernel is specialised for, beside its plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KernelKey:
    """The direction and types of a kernel.

    ``direction`` is ``"forward"`` or ``"backward"``; ``dtype`` float32, bfloat16 or float16; ``dim`` and ``dim_v`` the
    head sizes of query and value; ``wide`` asks for positions in 64 bits (beyond ``NARROW_LENGTH``). A forward kernel
    turns ``turn`` elements of each query (0: none) by its position when it loads it; ``pairs`` is that of ``rotate``.
    """

    direction: str
    dtype: str
    dim: int
    dim_v: int
    wide: bool = False
    turn: int = 0
    pairs: bool = False
