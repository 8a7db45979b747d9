"""Reads of tensors where they have no entry: PyTorch refuses them, and the language reads nothing there.

Each index must lie inside, as far as bounds of its parts tell, for all positions that a call has and for what tensors
hold; or else the solver must say that it does for all pairs that are seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from attnspec.runtime.flex.facts import Limit, Tensors
from attnspec.runtime.flex.tables import Call, Tables, shape_of
from attnspec.runtime.flex.trace import Place, refused
from attnspec.runtime.flex.values import Ends, Held, as_written, bounds_of, ends, from_either_end, parts, unknown
from attnspec.runtime.flex.wrapped import never
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import real as r

_POSITIONS = (e.Var("b"), e.Var("h"), e.Var("q"), e.Var("k"))
_NAMES = {at.name for at in _POSITIONS}


@dataclass(frozen=True)
class Within:
    """Whether an index is from ``low`` to ``high``, by what the tables in it hold; ``given`` is known beside."""

    index: e.IntExpr
    low: int
    high: int
    given: tuple[tuple[e.IntExpr, Ends], ...]

    def of(self, tensors: Tensors) -> bool:
        """The answer, as tensors are now."""
        return self.known(tensors.held)

    def known(self, held: Held = unknown) -> bool:
        """The same, by bounds of what tables hold."""
        low, high = ends(self.index, held, dict(self.given))
        return low is not None and high is not None and self.low <= low and high <= self.high


class _Read(NamedTuple):
    """An entry that is read, one index after the other, and what holds wherever it counts."""

    what: str
    place: Place
    indices: tuple[e.IntExpr, ...]
    shape: tuple[int, ...]
    given: tuple[e.Pred, ...]


def require_inside(mask: e.Pred | None, score: r.RealExpr | None, tables: Tables, call: Call, place: Place) -> None:
    """Refuse an index that may lie outside its tensor for a pair that is seen. Raises CallError, with the line.

    Of positions whose number is not known nothing is asked.
    """
    sizes = dict(zip(_POSITIONS, (call.batch, call.heads, call.n_q, call.n), strict=True))
    seen = () if mask is None else parts(mask)
    reads = [*_reads(mask, (), tables, place)] if mask is not None else []
    reads += _reads(score, seen, tables, place) if score is not None else ()
    reads += (
        _Read("what is computed", at, (index,), (size,), (*seen, *given)) for index, size, at, given in tables.chosen
    )
    known = tuple(make.compare("<", at, e.Int(size)) for at, size in sizes.items() if size is not None)
    missing = {at.name for at, size in sizes.items() if size is None}
    for read in dict.fromkeys(reads):
        for d, (index, size) in enumerate(zip(read.indices, read.shape, strict=True)):
            if not contents.free(index) & missing:
                _require(read._replace(given=(*known, *read.given)), d, index, size, tables)
            else:
                tables.facts.values |= tables.facts.sized  # which must be known, then


def _require(read: _Read, d: int, index: e.IntExpr, size: int, tables: Tables) -> None:
    below, low = as_written(index), -size
    if below is None or index != from_either_end(below, size):
        below, low = index, 0
    given = bounds_of(read.given)
    asked = Within(below, low, size - 1, tuple(given.items()))
    if asked.known():
        return
    what = f"`{read.what}` has {size} entries in dimension {d} and is read by `{below}`, which"
    if not contents.reads(below):
        outside = e.Or((make.compare("<", below, e.Int(low)), make.compare(">=", below, e.Int(size))))
        facts = [part for part in read.given if contents.free(part) <= _NAMES and not contents.reads(part)]
        if contents.free(outside) <= _NAMES and never(facts, outside):
            return
        reached = ends(below, given=given)
        says = next((str(x) for x in reached[::-1] if x is not None and not low <= x < size), "what is outside")
        raise refused(
            read.place,
            f"{what} reaches {says}: a function reads its tensors for all pairs, and some of these are seen. Clamp the "
            "index, or leave the pairs out",
        )
    if not tables.facts.looks and (limit := _limit(asked, read.what)) is not None:
        tables.facts.limits.append(limit)
    elif not tables.ask(asked):
        others = (
            "has others as its tensors are" if tables.facts.looks else "may have others, as its tensors are not known"
        )
        raise refused(read.place, f"{what} {others}: clamp the index")


def _limit(asked: Within, read: str) -> Limit | None:
    """The same as limits of one table, where its entry is the index but for a constant."""
    match asked.index:
        case e.Read(name):
            return Limit(name, asked.low, asked.high, read)
        case e.Add((e.Read(name), e.Int(c))) | e.Add((e.Int(c), e.Read(name))):
            return Limit(name, asked.low - c, asked.high - c, read)
    return None


def _reads(node: e.Node, given: tuple[e.Pred, ...], tables: Tables, place: Place) -> Iterator[_Read]:
    """The entries that an expression reads, each with what holds where its value counts."""
    match node:
        case e.And(args):
            for i, arg in enumerate(args):
                yield from _reads(arg, (*given, *args[:i], *args[i + 1 :]), tables, place)
            return
        case e.Or(args):
            for i, arg in enumerate(args):
                others = map(make.negation, (*args[:i], *args[i + 1 :]))
                yield from _reads(arg, (*given, *others), tables, place)
            return
        case e.If(cond, then, other) | r.Choose(cond, then, other):
            yield from _reads(cond, given, tables, place)
            yield from _reads(then, (*given, *parts(cond)), tables, place)
            yield from _reads(other, (*given, *parts(make.negation(cond))), tables, place)
            return
        case e.Any(var, e.Range(low, high)) | e.All(var, e.Range(low, high)) | e.Sum(var, e.Range(low, high)):
            at = e.Var(var)
            given = (*given, make.compare(">=", at, low), make.compare("<", at, high))
        case e.Read(name, indices) | e.Flag(name, indices) | e.Among(_, name, indices) | r.RealRead(name, indices):
            table = tables.found[name.partition(".")[0]]
            yield _Read(table.name, table.place, indices, tuple(table.tensor.shape[: len(indices)]), given)
        case e.Index(items, indices) | r.Item(_, items, indices):
            yield _Read("a tensor", place, indices, shape_of(items)[: len(indices)], given)
    for part in node.children():
        yield from _reads(part, given, tables, place)
