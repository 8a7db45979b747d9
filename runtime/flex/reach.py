"""Reads of tensors where they have no entry: PyTorch refuses them, and the language reads nothing there.

Each index must lie inside, as far as bounds of its parts tell, for all positions that a call has and for what tensors
hold; or else the solver must say that it does for all pairs that are seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from attnspec.runtime.flex.facts import Limit
from attnspec.runtime.flex.tables import Call, Tables
from attnspec.runtime.flex.trace import Place, refused
from attnspec.runtime.flex.values import Ends, ends
from attnspec.runtime.flex.wrapped import never
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import real as r

_POSITIONS = (e.Var("b"), e.Var("h"), e.Var("q"), e.Var("k"))


@dataclass(frozen=True)
class Within:
    """Whether an index is from ``low`` to ``high``, by what the tables in it hold; ``given`` is known beside."""

    index: e.IntExpr
    low: int
    high: int
    given: tuple[tuple[e.IntExpr, Ends], ...]

    def of(self, tensors: Mapping[str, Tensor]) -> bool:
        """The answer, as tensors are now."""

        def held(name: str) -> Ends:
            t = tensors[name]
            return (int(t.min()), int(t.max())) if t.numel() else (0, 0)  # what has no entries is never read

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
    seen = () if mask is None else _parts(mask)
    reads = [*_reads(mask, (), tables, place)] if mask is not None else []
    reads += _reads(score, seen, tables, place) if score is not None else ()
    known = tuple(make.compare("<", at, e.Int(size)) for at, size in sizes.items() if size is not None)
    unknown = {at.name for at, size in sizes.items() if size is None}
    for read in dict.fromkeys(reads):
        for d, (index, size) in enumerate(zip(read.indices, read.shape, strict=True)):
            if not contents.free(index) & unknown:
                _require(read._replace(given=(*known, *read.given)), d, index, size, tables)


def _require(read: _Read, d: int, index: e.IntExpr, size: int, tables: Tables) -> None:
    below, low = _from_the_end(index, size)
    given = {at: (least, most) for at, least, most in _bounds(read.given)}
    asked = Within(below, low, size - 1, tuple(given.items()))
    if not contents.reads(below):
        if asked.of({}):
            return
        outside = e.Or((make.compare("<", below, e.Int(low)), make.compare(">=", below, e.Int(size))))
        facts = [part for part in read.given if not contents.reads(part)]
        names = {name for part in (*facts, outside) for name in contents.free(part)}
        if names <= {at.name for at in _POSITIONS} and never(facts, outside):
            return
        reached = ends(below, lambda name: (None, None), given)
        says = next((str(x) for x in reached[::-1] if x is not None and not low <= x < size), "what is outside")
        raise refused(
            read.place,
            f"`{read.what}` has {size} entries in dimension {d} and is read by `{below}`, which reaches {says}: a "
            "function reads its tensors for all pairs, and some of these are seen. Clamp the index, or leave the pairs "
            "out",
        )
    if not tables.facts.looks and (limit := _limit(asked, read.what)) is not None:
        tables.facts.limits.append(limit)
    elif not tables.ask(asked):
        raise refused(
            read.place,
            f"`{read.what}` has {size} entries in dimension {d} and is read by `{below}`, which "
            + (
                "has others as its tensors are"
                if tables.facts.looks
                else "may have others, as its tensors are not known"
            )
            + ": clamp the index",
        )


def _limit(asked: Within, read: str) -> Limit | None:
    """The same as limits of one table, where its entry is the index but for a constant."""
    match asked.index:
        case e.Read(name):
            return Limit(name, asked.low, asked.high, read)
        case e.Add((e.Read(name), e.Int(c))) | e.Add((e.Int(c), e.Read(name))):
            return Limit(name, asked.low - c, asked.high - c, read)
    return None


def _from_the_end(index: e.IntExpr, size: int) -> tuple[e.IntExpr, int]:
    """An index that may count from the end as it was written, and the least that it may be."""
    match index:
        case e.If(e.Cmp("<", below, e.Int(0)), e.Add(), other) if below == other:
            return below, -size
    return index, 0


def _bounds(given: Sequence[e.Pred]) -> Iterator[tuple[e.IntExpr, int | None, int | None]]:
    """What comparisons with constants say of the other side, all of them together for each."""
    found: dict[e.IntExpr, Ends] = {}
    for pred in given:
        match pred:
            case e.Cmp(op, x, e.Int(c)):
                pass
            case e.Cmp(op, e.Int(c), x):
                op = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op)
            case _:
                continue
        low, high = found.get(x, (0 if isinstance(x, e.Var) else None, None))
        if op in ("<", "<=", "=="):
            most = c - (op == "<")
            high = most if high is None else min(high, most)
        if op in (">", ">=", "=="):
            least = c + (op == ">")
            low = least if low is None else max(low, least)
        found[x] = low, high
    return ((x, low, high) for x, (low, high) in found.items())


def _parts(pred: e.Pred) -> tuple[e.Pred, ...]:
    return pred.args if isinstance(pred, e.And) else (pred,)


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
            yield from _reads(then, (*given, *_parts(cond)), tables, place)
            yield from _reads(other, (*given, *_parts(make.negation(cond))), tables, place)
            return
        case e.Any(var, e.Range(low, high)) | e.All(var, e.Range(low, high)) | e.Sum(var, e.Range(low, high)):
            at = e.Var(var)
            given = (*given, make.compare(">=", at, low), make.compare("<", at, high))
        case e.Read(name, indices) | e.Flag(name, indices) | e.Among(_, name, indices) | r.RealRead(name, indices):
            table = tables.found[name.partition(".")[0]]
            yield _Read(table.name, table.place, indices, tuple(table.tensor.shape[: len(indices)]), given)
        case e.Index(items, indices) | r.Item(_, items, indices):
            yield _Read("a tensor", place, indices, _shape(items, len(indices)), given)
    for part in node.children():
        yield from _reads(part, given, tables, place)


def _shape(items: object, rank: int) -> tuple[int, ...]:
    shape = []
    for _ in range(rank):
        assert isinstance(items, tuple)
        shape.append(len(items))
        items = items[0] if items else ()
    return tuple(shape)
