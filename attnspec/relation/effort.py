"""How much work the questions of one stage may take together: a relation, a plan, a cost, a picture.

Work is counted in operations of the solver by their price (:mod:`hardness`), and never by the clock, so that what comes
out does not depend on the machine. What a stage is refused late it does without, as where a single question is too
hard.

>>> with stage():
...     charge(STAGE)
...     exhausted()
True
>>> exhausted()
False
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import RLock

STAGE = 3_000_000
"""Units of a stage (three to four seconds); a question that was too hard counts as one that took all it may."""

ALONE = RLock()
"""Held by whoever counts: the solver has one limit, which threads would take from each other."""


@dataclass
class _Spent:
    most: int
    work: int = 0


_stage: ContextVar[_Spent | None] = ContextVar("stage", default=None)


@contextmanager
def stage(shares: float = 1) -> Iterator[None]:
    """Bound the work of a block by so many shares; a stage inside another spends what the outer one has."""
    if _stage.get() is not None:
        yield
        return
    token = _stage.set(_Spent(int(shares * STAGE)))
    try:
        with ALONE:
            yield
    finally:
        _stage.reset(token)


def charge(work: int) -> None:
    """Note that the stage has taken so many operations."""
    spent = _stage.get()
    if spent is not None:
        spent.work += work


def left() -> int:
    """How much the stage may still take; without end outside of a stage."""
    spent = _stage.get()
    return max(0, spent.most - spent.work) if spent is not None else 1 << 62


def exhausted() -> bool:
    """Whether the stage has had its share; never outside of a stage."""
    return left() == 0
