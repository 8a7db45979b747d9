"""Predicates and scores of a pattern as expressions of Python over the indices of FlexAttention.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a(width = 4) { attend 0 <= q - k < width  attend k % 8 == 0 }")
>>> print(Printer(POSITIONS, spec).holds(spec.pred))
(q - k >= 0) & (q - k < 4) | (k % 8 == 0)
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnspec.codegen.flex.text import Text, Value, call, least, most, where, written
from attnspec.relation.sizes import MOST
from attnspec.spec import bounds
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.evaluate import FUNCTIONS, Evaluator
from attnspec.spec.parts import ANY_SIZE, Input
from attnspec.spec.spec import Spec

POSITIONS: Mapping[str, Text] = {name: Text(name, tensor=True) for name in ("b", "h", "q", "k")}
"""What a mask is asked about: a batch entry, a head, the position of a query and that of a key."""
SIZES: Mapping[str, Text] = {name: Text(name) for name in ("n", "n_q", "m", "heads", "kv_heads", "batch")}
_TAKEN = frozenset({"b", "h", "q", "k", "i", "j", "q_idx", "kv_idx", "score", "offset", "device", "torch", "functools"})
_OWN = _TAKEN | SIZES.keys() | {"full", "touched", "found", "rows", "columns", "mask_mod", "score_mod", "block_mask"}
_OWN_ENDS = ("_first", "_last", "_flags", "_document")
_LONG = 16
"""Entries from which on a list is a tensor, and not a choice written out."""
_IN_TORCH = {"elu": "torch.nn.functional.elu", "softplus": "torch.nn.functional.softplus"}


def argument(name: str) -> str:
    """The name of an input in Python."""
    own = name in _OWN or keyword.iskeyword(name) or name.endswith(_OWN_ENDS) or name in ("abs", "bool", "min", "max")
    return f"{name}_" if own else name


def read_as(declared: Input) -> str:
    """The name of the tensor that is read for an input: where offsets are given, the number of the document."""
    return f"{argument(declared.name)}_document" if declared.form == "offsets" else argument(declared.name)


@dataclass(frozen=True)
class Table:
    """A tensor that is read: its name, and its sizes; an integer of Python is known."""

    name: str
    sizes: tuple[e.IntExpr | int, ...]

    def size(self, axis: int) -> Any:
        """The size of a dimension."""
        size = self.sizes[axis]
        return size if isinstance(size, int) else Text(f"{self.name}.shape[{axis}]")


@dataclass
class Used:
    """What expressions turned out to read: inputs and what is derived from them, by name, and lists."""

    tables: dict[str, Table] = field(default_factory=dict)
    lists: dict[tuple[Any, ...], str] = field(default_factory=dict)


class Printer(Evaluator):
    """Values are text. Variables are those that are given; sizes are plain names."""

    def __init__(self, variables: Mapping[str, Any], spec: Spec, used: Used | None = None) -> None:
        super().__init__({**SIZES, **variables}, Text("score", tensor=True))
        self.spec, self.used = spec, Used() if used is None else used

    def read(self, array: Any, indices: tuple[e.IntExpr, ...]) -> tuple[Value, Value]:
        """Entries of a tensor, and where the indices are inside it."""
        within: Value = np.bool_(True)
        places: list[Any] = []
        for axis, index in enumerate(indices):
            at, ok = self.integer(index)
            if not inside(index, array.sizes[axis], self.spec.align == "end"):
                ok = (at >= 0) & (at < array.size(axis)) & ok
            within = within & ok
            places.append(where(ok, at, 0))
        text = f"{array.name}[{', '.join(written(place).text for place in places)}]" if places else array.name
        return Text(text, tensor=True), within

    def integer(self, node: e.IntExpr) -> tuple[Value, Value]:
        """The value of an integer, and where it has one."""
        match node:
            case e.Read(name, indices):
                return self.read(self._table(name), indices)
            case e.Index(items, indices) if _entries(items) > _LONG:
                return self.read(self._list(items), indices)
            case e.Index(items, (index,)):
                return self._entry(items, index)
        return super().integer(node)

    def _entry(self, items: tuple[Any, ...], index: e.IntExpr) -> tuple[Value, Value]:
        """An entry of a list, written out; a list that is read at the head covers all of them."""
        at, ok = self.integer(index)
        if not inside(index, len(items), self.spec.align == "end"):
            ok = (at >= 0) & (at < len(items)) & ok
        value = items[-1]
        for place in range(len(items) - 1, 0, -1):
            if items[place - 1] != items[place]:
                value = where(at < place, items[place - 1], value)
        return value, ok

    def holds(self, pred: e.Pred) -> Value:
        """Where a predicate holds."""
        match pred:
            case e.Flag(name, indices):
                value, ok = self.read(self._table(name), indices)
                return value & ok
        return super().holds(pred)

    def real(self, node: r.RealExpr) -> Any:
        """A real."""
        match node:
            case r.RealRead(name, indices):
                return self.cast(*self.read(self._table(name), indices))
            case r.Cast(e.Int(value)):
                return float(value)
        return super().real(node)

    where = staticmethod(where)
    minimum, maximum = staticmethod(least), staticmethod(most)

    def every(self, value: Any) -> bool:
        """Whether it is known to hold."""
        return not isinstance(value, Text) and bool(value)

    def truth(self, value: Any) -> Any:
        """Truth."""
        return value if isinstance(value, Text) else np.bool_(value)

    def divisor(self, value: Any, known: Any) -> Any:
        """A divisor, 1 where it has no value."""
        return self.where(known, value, 1)

    def among(self, item: e.IntExpr, name: str, indices: tuple[e.IntExpr, ...]) -> Value:
        """Which values stand in which list is a table of flags."""
        flags = self._derived(f"{name}.flags", (*self._sizes(name)[:-1], ANY_SIZE))
        value, inside = self.read(flags, (*indices, item))
        return value & inside

    def list_of(self, items: tuple[r.Reals, ...]) -> Table:
        """A list of reals, as a tensor."""
        return self._list(items)

    def constant(self, value: float) -> float:
        """A constant."""
        return value

    def cast(self, value: Any, known: Any) -> Any:
        """An integer, or an entry, as a real; 0 where it has no value."""
        return self.where(known, value, 0)

    def apply(self, function: str, value: Any) -> Any:
        """One of the functions of a real."""
        if not isinstance(value, Text):
            return float(FUNCTIONS[function](np.float64(value)))
        return call(_IN_TORCH.get(function, f"torch.{function}"), value)

    def choose(self, where: Any, node: r.Choose) -> Any:
        """One of two reals."""
        return self.where(where, self.real(node.then), self.real(node.other))

    def _input(self, name: str) -> Input:
        return next(declared for declared in self.spec.inputs if declared.name == name)

    def _sizes(self, name: str) -> tuple[e.IntExpr, ...]:
        return self._input(name).sizes

    def _table(self, name: str) -> Table:
        """What stands under a name: an input, or what is derived from one."""
        if name == "alibi.slope":
            return self._derived(name, (e.Var("heads"),))
        if "." in name:
            return self._derived(name, self._sizes(name.split(".")[0]))
        return self.used.tables.setdefault(name, Table(read_as(self._input(name)), self._sizes(name)))

    def _derived(self, name: str, sizes: tuple[e.IntExpr, ...]) -> Table:
        return self.used.tables.setdefault(name, Table(name.replace(".", "_"), sizes))

    def _list(self, items: Any) -> Table:
        name = self.used.lists.setdefault(items, f"list_{len(self.used.lists)}")
        sizes: list[int] = []
        while isinstance(items, tuple):
            sizes.append(len(items))
            items = items[0]
        return Table(name, tuple(sizes))


_RANGES = {"q": (0, MOST), "k": (0, MOST), "n": (0, MOST), "n_q": (0, MOST), "m": (0, MOST)}


def inside(index: e.IntExpr, size: e.IntExpr | int, aligned_end: bool) -> bool:
    """Whether an index is seen to be inside a dimension, whatever the call.

    >>> q, n = e.Var("q"), e.Var("n")
    >>> inside(e.FloorDiv(q, e.Int(64)), e.FloorDiv(e.Add((n, e.Int(63))), e.Int(64)), True)
    True
    """
    match index, size:
        case (
            (e.Var("b"), e.Var("batch")) | (e.Var("h"), e.Var("heads")) | (e.Var("k"), e.Var("n")) | (e.Var("h"), int())
        ):
            return True
        case e.Var("q" | "q_first" | "q_last"), e.Var("n"):
            return aligned_end
        case e.Var("k_first" | "k_last"), e.Var("n"):
            return True
        case e.Max((e.Min((_, e.Add((e.Var("n"), e.Int(-1))))), e.Int(0))), e.Var("n"):
            return True
        case e.FloorDiv(e.Var("q" | "k" as name), e.Int(by)), e.FloorDiv(e.Add((e.Var("n"), e.Int(more))), e.Int(also)):
            return by == also == more + 1 and (aligned_end or name == "k")
        case e.Add(terms), e.Var("n_q"):
            return aligned_end and set(terms) == {e.Var("q"), e.Mul(e.Int(-1), e.Var("n")), e.Var("n_q")}
        case _, e.Int(value) | int(value):
            with suppress(bounds.Unbounded, KeyError):
                low, high = bounds.interval(index, _RANGES)
                return low >= 0 and high < value
    return False


def _entries(items: Any) -> int:
    return sum(map(_entries, items)) if isinstance(items, tuple) else 1
