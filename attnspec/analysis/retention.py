"""What a cache of keys has to keep after any number of tokens, in closed form.

A key is live while some later query may still see it. A key that is live now was live ever since it came: so each key
stays for ever, or for so many tokens, and the set of live keys is made of fixed positions, rings over the last tokens,
and residues of which every key stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import gcd, lcm

import numpy as np

from attnspec.analysis.live import groups, live
from attnspec.relation.count import TooIrregular, runs
from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import Part, Relation
from attnspec.relation.sizes import MOST, Sizes

_MOST_RUNS = 64
"""Of fixed positions, or residues that stay: what is in more runs is kept with the gaps between them."""
_LEAST_PAGE = 8
"""Keys of a page: with fewer, a table of pages would cost what they save."""
_LONGEST_PERIOD = 1 << 16


@dataclass(frozen=True, order=True)
class Ring:
    """Of the last ``span`` positions those that leave ``residue`` when divided by ``step``.

    >>> print(Ring(1023), "|", Ring(4094, 2, 1))
    ring of 1,023 | ring of every 2nd of the last 4,094
    """

    span: int
    step: int = 1
    residue: int = 0

    @property
    def slots(self) -> int:
        """The most keys that are in it."""
        return -(-self.span // self.step)

    def holds(self, other: Ring) -> bool:
        """Whether it has all that another one has."""
        return self.span >= other.span and other.step % self.step == 0 and other.residue % self.step == self.residue

    def __str__(self) -> str:
        if self.step == 1:
            return f"ring of {self.span:,}"
        suffix = {1: "st", 2: "nd", 3: "rd"}.get(self.step % 10 if self.step // 10 % 10 != 1 else 0, "th")
        return f"ring of every {self.step}{suffix} of the last {self.span:,}"


@dataclass(frozen=True)
class Growing:
    """Of every ``period`` positions those with these residues, for ever."""

    period: int
    residues: tuple[range, ...]

    @property
    def kept(self) -> int:
        """How many of a period stay."""
        return sum(map(len, self.residues))

    def below(self, position: int) -> int:
        """How many stay of the positions below one."""
        whole, rest = divmod(position, self.period)
        return whole * self.kept + sum(len(range(run.start, min(run.stop, rest))) for run in self.residues)

    def __str__(self) -> str:
        return "grows: every key" if self.kept == self.period else f"grows: {self.kept:,} of every {self.period:,} keys"


@dataclass(frozen=True)
class Retention:
    """What a cache keeps of some heads: positions that stay, rings over the last tokens, residues that pile up.

    >>> print(Retention((range(0, 4),), (Ring(1023),)))
    ring of 1,023 + 4 fixed

    With ``growing`` nothing bounds the cache. ``exact`` is False where inputs may leave less to keep.
    """

    fixed: tuple[range, ...] = ()
    rings: tuple[Ring, ...] = ()
    growing: Growing | None = None
    exact: bool = True

    @property
    def span(self) -> int:
        """The last positions among which all rings lie."""
        return max((ring.span for ring in self.rings), default=0)

    @property
    def bound(self) -> int | None:
        """The most keys that are kept at any time; None where they grow without end."""
        return None if self.growing else sum(map(len, self.fixed)) + sum(ring.slots for ring in self.rings)

    @property
    def page(self) -> int | None:
        """The longest page, of at least 8 keys, that is kept or dropped whole as keys pile up; None if all are kept.

        >>> Retention(growing=Growing(128, (range(96, 128),))).page
        32
        """
        if self.growing is None or self.growing.kept == self.growing.period:
            return None
        size = gcd(self.growing.period, *(end for run in self.growing.residues for end in (run.start, run.stop)))
        return size if size >= _LEAST_PAGE else None

    def stored(self, tokens: int) -> int:
        """The keys that a cache holds after so many tokens: nothing is dropped from between the last ``span``."""
        if self.growing and self.page is None:
            return tokens
        low = max(0, tokens - self.span)
        fixed = sum(len(range(run.start, min(run.stop, low), run.step)) for run in self.fixed)
        return tokens - low + fixed + (self.growing.below(low) if self.growing else 0)

    def joined(self, other: Retention) -> Retention:
        """What keeps all that two keep."""
        both = [one for one in (self.growing, other.growing) if one is not None]
        return Retention(
            _merged(*self.fixed, *other.fixed),
            _fewest([*self.rings, *other.rings]),
            _all_of(both) if both else None,
            self.exact and other.exact,
        )

    def pairs(self) -> Pairs:
        """Its meaning: the pairs ``(t, k)`` of a number of tokens and a position that is kept after them."""
        kept = [f"x - {r.span} <= y and (y - {r.residue}) mod {r.step} = 0" for r in self.rings]
        kept += [f"{r.start} <= y < {r.stop} and (y - {r.start}) mod {r.step} = 0" for r in self.fixed]
        if self.growing is not None:
            period = self.growing.period
            kept += [f"{r.start} <= y mod {period} < {r.stop}" for r in self.growing.residues]
        found = " or ".join(f"({condition})" for condition in kept)
        return Pairs.read(f"0 <= y < x and ({found})" if kept else "1 = 0")

    def __str__(self) -> str:
        count = sum(map(len, self.fixed))
        said = [] if self.growing is None else [str(self.growing)]
        said += [*map(str, self.rings), *([f"{count:,} fixed"] if count else [])]
        return " + ".join(said) or "nothing: no key is seen again"


EVERY_KEY = Retention(growing=Growing(1, (range(1),)))
"""Where nothing can be dropped, or where it is not known that something can."""


@dataclass(frozen=True)
class Kept:
    """The retention of a class of heads (None for all), and of a batch entry (None for all)."""

    heads: tuple[int, ...] | None
    b: int | None
    retention: Retention


@stage()
def retention(relation: Relation, sizes: Sizes) -> tuple[Kept, ...]:
    """What has to be kept, for each class of heads (and batch entry, where they differ).

    >>> from attnspec.check.check import check_text
    >>> from attnspec.relation.lower import lower
    >>> text = "attention a { attend window(1024)  attend k < 4  within causal }"
    >>> for item in retention(lower(check_text(text)), Sizes(1, 1)):
    ...     print(item.retention)
    ring of 1,023 + 4 fixed

    Of ``sizes`` only heads and batch matter: it holds for every length, and however the queries come, one by one or
    many in a call. Where inputs decide, for all that they may hold. A pattern that is too hard for the solver keeps
    every key. Raises NoAnswer where a computed order or axes leave no such question to ask.
    """
    found = []
    for item, (heads, b), h, entry in groups(relation, sizes):
        parts = [_retention(part, sizes.parameters(h, entry), relation.spec.align == "end") for part in item.parts]
        found.append(Kept(heads, b, reduce(Retention.joined, parts)))
    return tuple(found)


def _retention(part: Part, values: dict[str, int], aligned_end: bool) -> Retention:
    """Of one part of a pattern."""
    try:
        with budget(part.pairs, patient=True):
            seen = live(part.pairs, values, aligned_end)
            dead = Pairs.read("0 <= y < x").difference(seen)
            ever = Pairs.read("x = 0 and y >= 0").difference(dead.image("0", "y"))
            trails = seen.difference(Pairs.read("y = 0").then(ever)).trails()
            fixed, growing = _for_ever(ever)
    except (TooHard, TooIrregular):
        return EVERY_KEY
    if any(span is None for span, _, _ in trails):  # each key dies, but ever later
        return replace(EVERY_KEY, exact=part.exact)
    rings = [Ring(span, step, residue) for span, step, residue in trails if span]
    return Retention(fixed, _fewest(rings), growing, part.exact)


def _for_ever(ever: Pairs) -> tuple[tuple[range, ...], Growing | None]:
    """The pairs (0, k) as the positions that are fixed, and the residues of those without end."""
    fixed, growing = [], []
    for run in runs(ever.intersection(Pairs.read(f"y < {MOST}")).pieces(), 1):
        for low, high in zip(run.low.tolist(), run.high.tolist(), strict=True):
            if high + run.step < MOST:
                fixed.append(range(low, high + 1, run.step))
            else:
                growing.append(Growing(run.step, (range(low % run.step, low % run.step + 1),)))
    return _merged(*fixed), _all_of(growing) if growing else None


def _all_of(growing: Sequence[Growing]) -> Growing:
    """What has all of several."""
    period = lcm(*(one.period for one in growing))
    if period > _LONGEST_PERIOD:
        return Growing(1, (range(1),))
    kept = np.zeros(period, dtype=bool)
    for one in growing:
        for residues in one.residues:
            for start in residues:
                kept[start :: one.period] = True
    return Growing(period, _merged(*(range(i, i + 1) for i in np.flatnonzero(kept).tolist())))


def _merged(*found: range) -> tuple[range, ...]:
    """The same positions, or some more, in few runs that do not overlap."""
    merged: list[range] = []
    for run in sorted(found, key=lambda r: (r.start, r.stop)):
        last = merged[-1] if merged else None
        touches = last and run.start <= last.stop and run.step == last.step == 1
        if last and (touches or run.start < last.stop):  # those that lie between each other become one without steps
            merged[-1] = range(last.start, max(last.stop, run.stop))
        elif len(run):
            merged.append(run)
    if len(merged) > _MOST_RUNS:
        merged = [range(merged[0].start, merged[-1].stop)]
    return tuple(merged)


def _fewest(rings: Sequence[Ring]) -> tuple[Ring, ...]:
    """Those that the others do not have; one for all, where together they would take as many slots."""
    distinct = sorted(set(rings))
    needed = [a for a in distinct if not any(b.holds(a) for b in distinct if b != a)]
    if needed and sum(ring.slots for ring in needed) >= needed[-1].span:
        return (Ring(needed[-1].span),)
    return tuple(needed)
