"""How much a linear attention has to remember: keys with the same future are one state together.

Two live keys have the same future after so many tokens if every query that comes later sees both or neither. What
they weigh is then only ever asked for together: the sum of ``phi(k) v^T`` over them is all that has to be kept. A key
that is alone in its class is better kept as it is. This is the sibling of :mod:`attnspec.analysis.retention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt, lcm

import numpy as np

from attnspec.analysis.live import groups
from attnspec.errors.relations import counted_anew
from attnspec.relation.count import Piece, row_counts, runs
from attnspec.relation.effort import stage
from attnspec.relation.presburger import SCALARS, Pairs, budget
from attnspec.relation.relation import DependsOnInputs, NoAnswer, Part, Relation, inputs_of
from attnspec.relation.sizes import Sizes
from attnspec.spec import expr as e

_LONGEST_PERIOD = 1 << 14
_LATE = 1 << 20
"""After how many tokens it is looked how many keys are to be kept apart: then all are that ever will be."""


@dataclass(frozen=True, eq=False)
class Futures:
    """The classes of keys with the same future, each by its first key.

    ``sees`` are the pairs of a query and a key in sequences of any length, ``first`` the pairs ``(t, k)`` of a number
    of tokens and the first key of a class, ``alone`` those whose class has no other key. With ``documents`` all is said
    of the document that the last token is in: no other one is seen again.
    """

    sees: Pairs
    first: Pairs
    alone: Pairs
    documents: bool = False

    @cached_property
    def _pieces(self) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        with budget(self.first, patient=True):
            return self.first.pieces(), self.alone.pieces()

    def kept(self, tokens: int) -> tuple[int, int]:
        """How many states, and how many keys beside them, are to be kept after so many tokens."""
        at = np.array([tokens], dtype=np.int64)
        classes, alone = (int(row_counts(pieces, at)[0]) for pieces in self._pieces)
        return classes - alone, alone

    @cached_property
    def single(self) -> int | None:
        """The smallest period at whose multiples one class is all there is (1: always); None if there is no such one.

        Proven for every number of tokens.
        """
        with budget(self.first, patient=True):
            further = self.first.intersection(self.first.then(Pairs.read("x < y")))
            several = further.left()
            seen = several.intersection(Pairs.read(f"0 <= x < {2 * _LONGEST_PERIOD}")).transpose()
            found = np.zeros(2 * _LONGEST_PERIOD, dtype=bool)
            for run in runs(seen.pieces(), 1):
                for low, high in zip(run.low.tolist(), run.high.tolist(), strict=True):
                    found[low : high + 1 : run.step] = True
            for period in range(1, _LONGEST_PERIOD):
                if not found[period::period].any():
                    at = Pairs.read(f"x mod {period} = 0")
                    return period if several.intersection(at).is_empty() else None
        return None

    @cached_property
    def cut(self) -> int | None:
        """The smallest period at whose multiples a sequence may be cut, and what follows be counted from 0 again.

        One class is all there is there, and the pattern is the same when it is moved by the period. None if there is
        no such one, as where the first keys of the sequence stay in sight.
        """
        if self.single is None:
            return None
        with budget(self.sees, patient=True):
            return self._period(lcm(self.single, self._whole), self.single)

    @cached_property
    def waits(self) -> tuple[int, int] | None:
        """A period, and how many of the last keys are to be kept apart at its multiples: all others are one class.

        The pattern is the same when it is moved by the period. None if there are no such two.
        """
        with budget(self.first, patient=True):
            period = None if self._whole > _LONGEST_PERIOD else self._period(self._whole)
            if period is None:
                return None
            further = self.first.intersection(self.first.then(Pairs.read("x < y")))
            at = Pairs.read(f"x = {_LATE // period * period}")
            firsts = (of.intersection(at).first() for of in (further, self.alone))  # (that of a class alone is a key)
            last = max(-(-(x - y) // period) * period for x, y in (found or (0, 0) for found in firsts))
            more = further.intersection(Pairs.read(f"x mod {period} = 0 and x - y > {last}"))
            return (period, last) if more.is_empty() else None

    @property
    def _whole(self) -> int:
        """A common multiple of all periods of the pattern."""
        return lcm(*(piece.period(axis)[0] for piece in self.sees.pieces() for axis in (1, 2)))

    def _period(self, whole: int, of: int = 1) -> int | None:
        """The smallest divisor of ``whole`` that is a multiple of ``of`` and a period; None if there is none."""
        divisors = sorted({d for i in range(1, isqrt(whole) + 1) if whole % i == 0 for d in (i, whole // i)})
        return next((d for d in divisors if d % of == 0 and self._repeats(d)), None)

    def _repeats(self, period: int) -> bool:
        """Whether the pattern is the same when it is moved by so many positions."""
        moved = self.sees.intersection(Pairs.read(f"x >= {period} and y >= {period}"))
        return moved.image(f"x - {period}", f"y - {period}").equals(self.sees)


@dataclass(frozen=True)
class Remembered:
    """The classes of the keys of some heads (None for all), of a batch entry (None for all)."""

    heads: tuple[int, ...] | None
    b: int | None
    futures: Futures


@stage()
def states(relation: Relation, sizes: Sizes) -> tuple[Remembered, ...]:
    """What is to be remembered of a pattern without branches, for each class of heads (and batch entry).

    >>> from attnspec.check.check import check_text
    >>> from attnspec.relation.lower import lower
    >>> chunks = lower(check_text("attention a { attend causal and k // 256 >= q // 256 - 1 }"))
    >>> futures = states(chunks, Sizes(1, 1))[0].futures
    >>> futures.kept(1500), futures.kept(1536), futures.single
    ((2, 0), (1, 0), 256)

    Of ``sizes`` only heads and batch matter: it holds for every length. Raises NoAnswer where a computed order, axes or
    the length in the pattern leave no such question to ask, DependsOnInputs where inputs decide that do not say which
    document a position is in, TooHard and TooIrregular.
    """
    spec, found = relation.spec, []
    for item, (heads, b), h, entry in groups(relation, sizes):
        (part,) = item.parts
        if not part.exact and not _of_documents(part):
            raise DependsOnInputs(spec, inputs_of(part.unknown), part.unknown)
        if spec.align == "start":
            raise NoAnswer([counted_anew(spec.span, spec.name)])
        futures = _futures(part, relation.parameters(sizes, h, entry))
        found.append(Remembered(heads, b, futures))
    return tuple(found)


def _of_documents(part: Part) -> bool:
    """Whether all that inputs decide is that a query and a key are in one document, which every pair must be."""
    within = part.pred.args if isinstance(part.pred, e.And) else (part.pred,)
    return all(atom in within and same_document(atom) for atom in part.unknown)


def same_document(atom: e.Node) -> bool:
    """``doc[b, q] == doc[b, k]``, where equal values stand side by side."""
    match atom:
        case e.Cmp("==", e.Read(a, [*before, e.Var(x)]), e.Read(b, [*other, e.Var(y)])):
            return a == b and before == other and {x, y} == {"q", "k"}
    return False


def _futures(part: Part, values: dict[str, int]) -> Futures:
    sizes = {name: value for name, value in values.items() if name not in ("n", "n_q", "m", *SCALARS)}
    with budget(part.pairs, patient=True):
        sees = part.pairs.intersection(Pairs.read("x >= 0 and 0 <= y < n and x < n")).fix(**sizes)
        for name in ("n", "n_q", *SCALARS):
            sees = sees.without(name) if sees.depends_on(name) else sees
        later = sees.intersection(Pairs.read("x >= m and y < m and m >= 1"))
        live = later.transpose().left().transpose()  # (0, k), with the parameter m: how many tokens there were
        queries = later.left()
        missed = queries.then(live).difference(later)
        differ = later.transpose().then(missed)
        pairs = live.transpose().then(live)
        alike = pairs.difference(differ).difference(differ.transpose())
        first = live.difference(alike.intersection(Pairs.read("x < y")).transpose().left().transpose())
        alone = first.difference(alike.intersection(Pairs.read("x < y")).left().transpose())
        first, alone = (Pairs.read("x = m and y = 0").then(found).without("m") for found in (first, alone))
    return Futures(sees, first, alone, not part.exact)
