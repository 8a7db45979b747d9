"""Timing without the system's share in new memory.

>>> with memory_kept():
...     pass
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``."""
_LARGEST = 32 << 20
"""Where glibc's own limits end as they adapt: larger tensors are mapped, and unmapped when they are freed."""


@contextmanager
def memory_kept() -> Iterator[None]:
    """Let the C library hand freed memory on to the next call, as far as it is glibc.

    Else the system clears the memory of an output of hundreds of megabytes anew at each call, in times that differ by a
    factor of ten from call to call on virtual machines, whose hosts take back what is free.
    """
    _set(64 * _LARGEST - 1, 64 * _LARGEST - 1)  # the largest ints
    try:
        yield
    finally:
        _set(_LARGEST, 2 * _LARGEST)


def _set(mapped: int, trimmed: int) -> None:
    with suppress(OSError, AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, mapped)
        mallopt(_TRIM_THRESHOLD, trimmed)
