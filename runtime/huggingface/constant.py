"""What torch.compile does not trace but calls: functions of constants, which it takes the results of for constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch._dynamo import assume_constant_result

P = ParamSpec("P")
T = TypeVar("T", int, str)


def constant(function: Callable[P, T]) -> Callable[P, T]:
    """A function of numbers, texts and tuples of them that is called once for all while a graph is made.

    (Not of dataclasses: torch.compile takes them for empty ones.)
    """
    marked: Callable[P, T] = assume_constant_result(function)  # type: ignore[no-untyped-call]
    return marked
