"""The tensors that a function reads, as inputs of a spec."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.language.words import BUILTINS, CLAUSES, HEADINGS, LIBRARY, RESERVED
from attnspec.runtime.flex.facts import Derived, Facts, Question, Rises, Tensors
from attnspec.runtime.flex.trace import Made, Place, refused
from attnspec.runtime.flex.values import Shape, Value, as_written, axis, bounds_of, ends
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import real as r

_TAKEN = RESERVED | BUILTINS | CLAUSES | HEADINGS | LIBRARY | {"s", "dim", "dim_v", "features", "_"}
_LITERAL = 64
"""A tensor that a function makes itself is a list in the text up to so many entries."""


class Call(NamedTuple):
    """The sizes that are known of the calls that a function is written for."""

    batch: int | None = None
    heads: int | None = None
    n_q: int | None = None
    n: int | None = None


@dataclass
class Table:
    """A tensor that is read, under its name."""

    name: str
    tensor: Tensor
    place: Place
    source: Tensor | None = None  # that it is made of

    @property
    def kind(self) -> str:
        """How the language calls its type."""
        if self.tensor.dtype == torch.bool:
            return "bool"
        return "float" if self.tensor.is_floating_point() else "int"

    def is_read(self, node: e.Node) -> bool:
        """Whether a node reads this table, or runs of its values."""
        return hasattr(node, "indices") and getattr(node, "name", "").partition(".")[0] == self.name


class Chosen(NamedTuple):
    """One of ``size`` numbers that are computed, chosen by an index. ``given`` is what is known of the places in it."""

    by: e.IntExpr
    size: int
    place: Place
    given: tuple[e.Pred, ...]


@dataclass
class Tables:
    """All tensors that are read. ``names`` are those around the functions, by identity.

    ``chosen`` are indices of what is computed: nothing in an expression tells where that ends.
    """

    names: Mapping[int, str]
    found: dict[str, Table] = field(default_factory=dict)
    reals: bool = True
    facts: Facts = field(default_factory=Facts)
    chosen: list[Chosen] = field(default_factory=list)

    def choose(self, x: Value, dim: int, index: e.IntExpr, shape: Shape, place: Place) -> e.IntExpr:
        """An index, which is noted if it may lie outside of a dimension of what is computed, in a result of a shape."""
        size, rank = x.shape[dim], len(shape)
        entry = x.node.left if isinstance(x.node, e.Cmp) else x.node
        own: Shape = ()
        if isinstance(entry, e.Read | e.Flag | r.RealRead):
            own = tuple(self.found[entry.name].tensor.shape)
        elif isinstance(entry, e.Index | r.Item):
            own = shape_of(entry.items)
        at = getattr(entry, "indices", ())
        if any(i == axis(dim, len(x.shape)) and length == size for i, length in zip(at, own, strict=False)):
            return index  # of a tensor, which is looked at as it stands in an expression
        given = tuple(make.compare("<", axis(d, rank), e.Int(length)) for d, length in enumerate(shape))
        low, high = ends(index, given=bounds_of(given))
        if low is None or high is None or low < 0 or high >= size:
            self.chosen.append(Chosen(index, size, place, given))
            self.facts.sized = True
        return index

    def read(self, t: Tensor, made: Mapping[int, Made], place: Place) -> e.IntExpr | e.Pred | r.RealExpr:
        """The entry of a tensor at its own places."""
        if id(t) in made and (same := made[id(t)].same) is not None:
            t = same
        name = self._name(t, made, place)
        if name is None:
            return _literal(t, place)
        indices = tuple(axis(d, t.dim()) for d in range(t.dim()))
        match self.found[name].kind:
            case "bool":
                return e.Flag(name, indices)
            case "int":
                return e.Read(name, indices)
        if not self.reals:
            raise refused(
                place,
                f"a mask reads no floats, and `{name}` is {t.dtype}: compare it before, and read the bool tensor",
            )
        return r.RealRead(name, indices)

    def _name(self, t: Tensor, made: Mapping[int, Made], place: Place) -> str | None:
        """The input that a tensor is; None for one that stands in the text."""
        origin = made.get(id(t), Made(t, False))
        known = self.names.get(id(origin.source))
        if known is None and t.numel() <= _LITERAL and not t.requires_grad:
            return None
        self.facts.values |= known is None  # no other tensor can take its place
        if t.is_meta and self.facts.looks:
            raise refused(place, f"`{known or 'a tensor'}` is on the device meta, and holds nothing to read")
        if t.is_complex():
            raise refused(place, f"a complex tensor cannot be read in a mask or score; this one is {t.dtype}")
        if origin.copied and origin.source.requires_grad:
            raise refused(
                place,
                f"`{known or 'a tensor'}` requires grad and is copied or changed in the function before it is read by "
                "positions: read it as it is and compute with what is read, or compute the tensor before",
            )
        for name, table in self.found.items():
            if table.tensor is t or self._is_one(table, t, origin.source):
                return name
        name = _fresh(_legal(known or "table"), self.found)
        self.found[name] = Table(name, t, place, origin.source)
        return name

    def _is_one(self, table: Table, t: Tensor, source: Tensor) -> bool:
        """Whether two tensors are views of the same numbers, with the same gradients."""
        known = table.tensor
        if (known.dtype, known.requires_grad) != (t.dtype, t.requires_grad) or not views_alike(known, t):
            return False
        if table.source is not source:  # two tensors around functions, which are two in other calls maybe
            self.facts.alike.append((known, t))
            return self.facts.looks
        return True

    def learns(self, node: e.Node) -> bool:
        """Whether a node is a score, or an entry of a tensor that requires grad."""
        requires = isinstance(node, r.RealRead) and self.found[node.name].tensor.requires_grad
        return requires or isinstance(node, r.Score)

    def ask(self, question: Question) -> bool:
        """Whether something holds of what tables hold."""
        return self.facts.ask(question, Tensors({name: table.tensor for name, table in self.found.items()}))

    def read_by(self, roots: Sequence[e.Node | None]) -> list[Table]:
        """The tables that expressions read."""
        nodes = [node for root in roots if root is not None for node in contents.walk(root)]
        return [table for table in self.found.values() if any(table.is_read(node) for node in nodes)]

    def derive(self, derived: Derived) -> str:
        """The name of a table that follows from others."""
        for name, known in self.facts.derived.items():
            if known == derived:
                return name
        name = _fresh(f"{derived.name}_at", self.found)
        of = self.found[derived.name]
        self.facts.derived[name] = derived
        self.found[name] = Table(name, derived.of({of.name: of.tensor}), of.place)
        return name

    def check_devices(self) -> None:
        """Refuse tensors that are not all on one device (a single number may be on the CPU)."""
        homes = {t.tensor.device: t for t in self.found.values() if t.tensor.dim() or t.tensor.device.type != "cpu"}
        if len(homes) > 1:
            (one, first), (other, second) = list(homes.items())[:2]
            raise refused(
                second.place, f"`{second.name}` is on {other} and `{first.name}` on {one}: move them to one device"
            )


def views_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one type look at the same memory in the same way."""
    if a.shape != b.shape or a.stride() != b.stride() or a.storage_offset() != b.storage_offset():
        return False
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)  # fake tensors have no addresses


def _literal(t: Tensor, place: Place) -> e.IntExpr | e.Pred | r.RealExpr:
    """What a small tensor holds, as it stands."""
    if t.dim() == 0:
        value = t.item()
        if isinstance(value, bool):
            return e.Bool(value)
        return e.Int(value) if isinstance(value, int) else r.Real(float(value))
    if t.numel() == 1:
        return _literal(t.reshape(()), place)
    indices = tuple(axis(d, t.dim()) for d in range(t.dim()))
    if t.is_floating_point():
        return r.Item("", _nested(t.double().tolist()), indices)  # type: ignore[arg-type]
    entry = e.Index(_nested(t.long().tolist()), indices)  # type: ignore[arg-type]
    return e.Cmp("==", entry, e.Int(1)) if t.dtype == torch.bool else entry


def shape_of(items: object) -> Shape:
    """The shape of lists in lists."""
    return (len(items), *(shape_of(items[0]) if items else ())) if isinstance(items, tuple) else ()


def _nested(values: list[object]) -> tuple[object, ...]:
    return tuple(_nested(x) if isinstance(x, list) else x for x in values)


def _legal(name: str) -> str:
    """A name that the language lets an input have."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", name.rpartition(".")[2]).lstrip("0123456789") or "table"
    return f"{name}_" if name in _TAKEN else name


def _fresh(name: str, taken: Mapping[str, Table]) -> str:
    return next(x for x in (name, *(f"{name}_{i}" for i in range(2, 10_000))) if x not in taken)


def declared(table: Table, roots: list[e.Node], call: Call, tables: Tables) -> str:
    """The line of a spec that declares a table, whose sizes follow from how expressions read it."""
    reads = [x for root in roots for x in contents.walk(root) if table.is_read(x)]
    shape = table.tensor.shape
    at = [x.indices for x in reads]  # type: ignore[attr-defined]
    by = [{x[d] for x in at if d < len(x)} for d in range(len(shape))]
    fixed = [
        not tables.facts.again and any(as_written(i) is not None for i in indices) for indices in by
    ]  # the text has the size
    sizes = [str(size) if fixed[d] else _size(size, by[d], call) for d, size in enumerate(shape)]
    dims = f"[{', '.join(sizes)}]" if sizes else ""
    rises = (
        table.kind == "int"
        and sizes
        and sizes[-1] in ("n", "n_q")
        and _plain(reads, len(shape))
        and tables.ask(Rises(table.name))
    )
    return f"input {table.name}: {table.kind}{dims}{' sorted' if rises else ''}"


def _size(size: int, indices: set[e.IntExpr], call: Call) -> str:
    if indices == {e.Var("b")} and size == call.batch:
        return "batch"
    if indices == {e.Var("h")} and size == call.heads:
        return "heads"
    if not indices:
        return "_"  # the members of a set
    if any(contents.free(x) & {"q", "k"} and not contents.reads(x) for x in indices):
        if size == call.n:
            return "n"
        if size == call.n_q:
            return "n_q"
        return _blocks(size, indices, call) or str(size)
    if all(contents.reads(x) for x in indices):
        return "_"  # as many as the numbers that another table holds
    return str(size)


def _blocks(size: int, indices: set[e.IntExpr], call: Call) -> str | None:
    """How many blocks of positions there are, where nothing else is read."""
    if len({x.right if isinstance(x, e.FloorDiv) and isinstance(x.left, e.Var) else None for x in indices}) != 1:
        return None
    match next(iter(indices)):
        case e.FloorDiv(e.Var(), e.Int(width)):
            only_rows = all(contents.free(x) == {"q"} for x in indices)
            for name, length in (("n", call.n), ("n_q", call.n_q if only_rows else None)):
                if length is not None and size == -(-length // width):
                    return f"({name} + {width - 1}) // {width}"
    return None


def _plain(reads: list[e.Node], rank: int) -> bool:
    """Whether a table is read entry by entry: what is looked up as a set is not sorted."""
    return all(not isinstance(x, e.Among) for x in reads)
