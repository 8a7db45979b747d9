"""What the heap of the C library keeps of segments that were run."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from contextlib import suppress

EVERY = 64
"""Segments after which it is asked for what it does not need: it then holds some tens of megabytes too much."""


@functools.cache
def _trim() -> Callable[[int], int] | None:
    with suppress(OSError, AttributeError, TypeError):
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        return found
    return None  # another C library, which has no such function


def trim(segments: int) -> None:
    """Hand back what is free, now and then.

    The graph of a segment stays until the backward pass, in small pieces that lie among its activations, which went.
    What is free between them is too small for the activations of the next segment, so that the heap grows by most of
    those of each segment, although next to nothing of it is used.
    """
    if segments % EVERY == 0 and (function := _trim()) is not None:
        function(0)
