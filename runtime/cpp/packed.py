"""Structures for C of which few fields differ from call to call: the others are written down once.

>>> pair = Packed(_Pair(1, 2, 0.5), [(_Pair.second.offset, "q")])
>>> _Pair.from_buffer_copy(pair(7)).second, _Pair.from_buffer_copy(pair(7)).third
(7, 0.5)
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any


class Packed:
    """A structure as bytes; those of some fields come with each call."""

    def __init__(self, structure: ctypes.Structure | ctypes.Array[Any], fields: Sequence[tuple[int, str]]) -> None:
        """``fields`` are the offsets of what comes with a call, ascending, and what is there in codes of ``struct``."""
        whole, at, codes, pieces = bytes(structure), 0, "=", list[Any]()
        for offset, code in fields:
            pieces += [whole[at:offset], 0]
            codes += f"{offset - at}s{code}"
            at = offset + struct.calcsize(f"={code}")
        self._pieces = [*pieces, whole[at:]]
        self._pack = struct.Struct(f"{codes}{len(whole) - at}s").pack

    def __call__(self, *values: float) -> bytes:
        """The bytes of the structure with these values in its fields, in their order."""
        pieces = self._pieces.copy()
        pieces[1::2] = values
        return self._pack(*pieces)


class _Pair(ctypes.Structure):
    """For the example."""

    _fields_ = [("first", ctypes.c_int64), ("second", ctypes.c_int64), ("third", ctypes.c_double)]
