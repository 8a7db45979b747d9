"""What torch.compile does not trace but calls: functions of constants, which it takes the results of for constants."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import count
from typing import Any, ParamSpec, TypeVar

from torch._dynamo import assume_constant_result

P = ParamSpec("P")
T = TypeVar("T", int, str)


def constant(function: Callable[P, T]) -> Callable[P, T]:
    """A function of numbers, texts and tuples of them that is called once for all while a graph is made.

    (Not of dataclasses: torch.compile takes them for empty ones.)
    """
    marked: Callable[P, T] = assume_constant_result(function)  # type: ignore[no-untyped-call]
    return marked


class Numbered:
    """Things that are made once, and then known by their numbers.

    Each is an attribute, as torch.compile guards attributes one by one. Threads may ask for things at the same time,
    and making one may take a compiler: so a number is taken before, and what comes second is not used.
    """

    def __init__(self, first: int = 0) -> None:
        self._next = count(first)
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable, make: Callable[[int], object]) -> int:
        """The number of what this is the key of; ``make`` is given the number of what it is to make."""
        found = self._numbers.get(key)
        if found is None:
            mine = next(self._next)
            setattr(self, _name(mine), make(mine))
            found = self._numbers.setdefault(key, mine)
        return found

    def numbered(self, number: int) -> Any:
        """The one with this number; None if there is none."""
        return getattr(self, _name(number), None)


def _name(number: int) -> str:
    return f"of{number}"
