"""The set of pairs that a pattern allows, and the questions one may ask of it.

The sets are exact but for what depends on the contents of inputs or is not affine: there they enclose the pattern, with
the pairs that are possible (``pairs``) and those that are certain (``sure``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

from attnspec.errors.diagnostic import SpecError
from attnspec.errors.relations import depends_on_inputs
from attnspec.relation.presburger import SCALARS, Pairs, budget
from attnspec.relation.sizes import Scalar, Sizes
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.parts import Input
from attnspec.spec.spec import Spec
from attnspec.spec.writing import Shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attnspec.relation.count import Piece

_BY_CALL: Mapping[e.IntExpr, e.IntExpr] = {e.Var("batch"): e.Var("b"), e.Var("heads"): e.Var("h")}


class NoAnswer(SpecError):
    """A question that has no answer for a pattern; the message says why."""


class DependsOnInputs(NoAnswer):
    """A question about the pairs that only the contents of inputs (or a computed order) can answer."""

    def __init__(self, spec: Spec, names: Iterable[str] = (), atoms: Iterable[e.Pred] = ()) -> None:
        declared = {item.name for item in spec.inputs}
        self.names = tuple(name for name in dict.fromkeys(names) if name in declared)
        super().__init__([depends_on_inputs(spec.span, spec.name, self.names, tuple(map(str, atoms)))])


@dataclass(frozen=True, eq=False)
class Part:
    """One softmax of a mixture (or the only one): its sets, and the predicate that kernels evaluate in partial tiles.

    ``pred`` has what is known of the class bound in. ``pairs`` are the pairs that are possible, ``sure`` those that are
    certain, whatever the inputs hold: the same object where the sets are exact. ``attend`` and ``within`` are the sets
    of the single clauses (the pairs that are possible). ``unknown`` are the atoms that the sets leave open.
    """

    pred: e.Pred
    pairs: Pairs
    sure: Pairs
    attend: tuple[Pairs, ...]
    within: tuple[Pairs, ...]
    times: int = 1
    unknown: tuple[e.Pred, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether ``pairs`` are exactly the pairs of this part."""
        return self.sure is self.pairs


@dataclass(frozen=True, eq=False)
class HeadClass:
    """Heads that share one set of pairs, as a set with parameters.

    ``heads`` are its members, or None for all heads (the set may then depend on the parameter ``h``); there is one part
    for each branch of the spec.
    """

    heads: tuple[int, ...] | None
    parts: tuple[Part, ...]

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs that are possible in some part."""
        return union(part.pairs for part in self.parts)

    @cached_property
    def sure(self) -> Pairs:
        """The pairs that are certain in some part; ``pairs`` itself where the sets are exact."""
        return self.pairs if self.exact else union(part.sure for part in self.parts)

    @property
    def attend(self) -> tuple[Pairs, ...]:
        """The sets of the ``attend`` clauses of all parts."""
        return tuple(pairs for part in self.parts for pairs in part.attend)

    @property
    def within(self) -> tuple[Pairs, ...]:
        """The sets of the ``within`` clauses of all parts."""
        return tuple(pairs for part in self.parts for pairs in part.within)

    @property
    def unknown(self) -> tuple[e.Pred, ...]:
        """The atoms that some part leaves open."""
        return tuple(dict.fromkeys(atom for part in self.parts for atom in part.unknown))

    @property
    def exact(self) -> bool:
        """Whether all sets are exact."""
        return all(part.exact for part in self.parts)

    def members(self, heads: int) -> tuple[int, ...]:
        """The heads of this class in a call that has ``heads`` of them."""
        return tuple(range(heads)) if self.heads is None else tuple(h for h in self.heads if h < heads)


@dataclass(frozen=True, eq=False)
class Relation(Shown):
    """The pairs ``(x, y)``, ``y >= 0``, of a pattern for every length at once: one set per class of heads.

    x and y are the positions q and k. In a pattern with an order they are places in that order, ``q_slot`` and
    ``k_slot``, of which there are n in each of its rounds; what the pattern says of positions is then left open.
    """

    spec: Spec
    classes: tuple[HeadClass, ...]
    known: tuple[tuple[str, int], ...] = ()
    """Sizes that the relation was built for, because the pattern is not affine in them: heads, kv_heads, batch."""

    def of_head(self, h: int) -> HeadClass:
        """The class of a head."""
        for item in self.classes:
            if item.heads is None or h in item.heads:
                return item
        raise IndexError(f"{self.spec.name} is defined for {self.heads} heads; there is no head {h}")

    @cached_property
    def heads(self) -> int | None:
        """The number of heads the relation is defined for; None if for any."""
        members = [item.heads for item in self.classes]
        return None if None in members else sum(len(m) for m in members if m is not None)

    @property
    def exact(self) -> bool:
        """Whether all sets are exact, and over positions (not over places in a computed order)."""
        return self.spec.order is None and all(item.exact for item in self.classes)

    def require_exact(self) -> None:
        """Raise DependsOnInputs unless the sets are exact and over positions."""
        if not self.exact:
            atoms = dict.fromkeys(atom for item in self.classes for atom in item.unknown)
            raise DependsOnInputs(self.spec, inputs_of(atoms), atoms)

    def require_positions(self) -> None:
        """Raise DependsOnInputs where the sets are over places in a computed order."""
        if self.spec.order is not None:
            raise DependsOnInputs(self.spec)

    def varies(self, item: HeadClass, by: str) -> bool:
        """Whether the sets of a class differ by head (``"h"``) or by batch entry (``"b"``), scalar inputs included."""
        sets = (item.pairs, item.sure)
        if any(pairs.depends_on(by) for pairs in sets):
            return True
        reads = scalar_reads(self.spec).items()
        return any(e.Var(by) in r.indices and pairs.depends_on(s) for r, s in reads for pairs in sets)

    @property
    def reads_scalars(self) -> bool:
        """Whether the values of scalar inputs matter for some set."""
        return any(self._depends_on(scalar) for scalar in SCALARS)

    def _depends_on(self, parameter: str) -> bool:
        sets = [pairs for item in self.classes for part in item.parts for pairs in (part.pairs, part.sure)]
        return any(pairs.depends_on(parameter) for pairs in sets)

    def parameters(self, sizes: Sizes, h: int, b: int, *sets: Pairs) -> dict[str, int]:
        """The values of the parameters for a head of a batch entry.

        Raises DependsOnInputs where one of the ``sets`` depends on an input whose values ``sizes`` do not give.
        """
        values = sizes.parameters(h, b)
        names = {scalar: name for name, scalar in scalar_names(self.spec).items()}
        missing = [s for s in SCALARS if s not in values and any(pairs.depends_on(s) for pairs in sets)]
        if missing:
            raise DependsOnInputs(self.spec, [names.get(s, s) for s in missing])
        return values

    def at(self, sizes: Sizes, h: int = 0, b: int = 0, pairs: Pairs | None = None) -> tuple[Piece, ...]:
        """The pairs of one head of one call (or other ``pairs`` of that head), cut at the call's rows and keys.

        Where the class is not exact, they are those that are possible. Raises DependsOnInputs where a scalar input
        matters that ``sizes`` do not give.
        """
        chosen = self.of_head(h).pairs if pairs is None else pairs
        values = self.parameters(sizes, h, b, chosen)
        with budget(chosen):
            return chosen.intersection(box(sizes)).fix(**values).pieces()

    def mask(self, sizes: Sizes) -> NDArray[Any]:
        """The pairs, (batch, heads, n_q, n), bool; how often each counts where it is a mixture: tests and pictures.

        Raises DependsOnInputs where the sets are not exact.
        """
        self.require_exact()
        return self.bound(sizes, "pairs")

    def bound(self, sizes: Sizes, which: str) -> NDArray[Any]:
        """As :meth:`mask`, of the pairs that are possible (``"pairs"``) or certain (``"sure"``)."""
        import numpy as np

        shape = (sizes.batch, sizes.heads, sizes.n_q, sizes.n)
        out: NDArray[Any] = np.zeros(shape, dtype=np.int64 if self.spec.mixture else bool)
        for b in range(sizes.batch):
            for h in range(sizes.heads):
                for part in self.of_head(h).parts:
                    seen = self.cells(sizes, h, b, getattr(part, which))
                    out[b, h] += seen * part.times if self.spec.mixture else seen
        return out

    def cells(self, sizes: Sizes, h: int, b: int, pairs: Pairs) -> NDArray[np.bool_]:
        """Some of the pairs of a head of a batch entry as a mask, (n_q, n)."""
        import numpy as np

        from attnspec.relation.count import runs

        out = np.zeros((sizes.n_q, sizes.n), dtype=bool)
        for run in runs(self.at(sizes, h, b, pairs), sizes.n_q, sizes.first):
            for x, low, high in zip(run.x, run.low, run.high, strict=True):
                out[x - sizes.first, low : high + 1 : run.step] = True
        return out

    def __str__(self) -> str:
        lines = [f"relation {self.spec.name}"]
        lines += [
            f"    {scalar} = {name}" for name, scalar in scalar_names(self.spec).items() if self._depends_on(scalar)
        ]
        names = ("q", "k") if self.spec.order is None else ("q_slot", "k_slot")
        for item in self.classes:
            who = "all heads" if item.heads is None else f"heads {', '.join(map(str, item.heads))}"
            for number, part in enumerate(item.parts):
                branch = f", branch {number}" if self.spec.mixture else ""
                times = f" times {part.times}" if part.times > 1 else ""
                most = "" if part.exact else " at most"
                lines.append(f"    {who}{branch}{times}{most}: {part.pairs.show(*names)}")
                if not part.exact:
                    lines.append(f"        at least: {part.sure.show(*names)}")
                lines += [f"        left open: {atom}" for atom in part.unknown]
        return "\n".join(lines)


def box(sizes: Sizes) -> Pairs:
    """The pairs of rows and keys that a call has."""
    return Pairs.read(f"{sizes.first} <= x < {sizes.first + sizes.n_q} and 0 <= y < {sizes.n}")


def union(sets: Iterable[Pairs]) -> Pairs:
    """The union of one or more sets."""
    return reduce(Pairs.union, sets)


def scalar_names(spec: Spec) -> dict[str, str]:
    """The integer inputs that are parameters of the sets, by name: those with one value for a head of a batch entry."""
    names = [item.name for item in spec.inputs if _is_scalar(item)]
    return dict(zip(names, SCALARS, strict=False))


def scalar_reads(spec: Spec) -> dict[e.Read, str]:
    """The reads of the inputs that :func:`scalar_names` lists, with the parameter that each stands for."""
    sizes = {item.name: item.sizes for item in spec.inputs}
    return {
        e.Read(name, tuple(_BY_CALL[size] for size in sizes[name])): scalar
        for name, scalar in scalar_names(spec).items()
    }


def scalars(spec: Spec, inputs: Mapping[str, Any]) -> tuple[Scalar | None, ...]:
    """What :class:`Sizes` needs of a call's inputs: arrays or integers by name, with the sizes that are declared."""
    declared = {item.name: item.sizes for item in spec.inputs}
    return tuple(_scalar(inputs[name], declared[name]) if name in inputs else None for name in scalar_names(spec))


def inputs_of(atoms: Iterable[e.Node]) -> tuple[str, ...]:
    """The names of the inputs that some nodes read, in order; what is derived from an input counts as that input."""
    reads = (node for atom in atoms for node in contents.walk(atom) if isinstance(node, (e.Read, e.Flag, e.Among)))
    return tuple(dict.fromkeys(node.name.split(".")[0] for node in reads))


def _is_scalar(item: Input) -> bool:
    distinct = len(set(item.sizes)) == len(item.sizes)
    return item.kind == "int" and item.form != "offsets" and distinct and set(item.sizes) <= set(_BY_CALL)


def _scalar(value: Any, sizes: tuple[e.IntExpr, ...]) -> Scalar:
    """Of an integer, a list or lists of them, or an array."""
    rows = value.tolist() if hasattr(value, "tolist") else value
    if sizes == (e.Var("heads"), e.Var("batch")):
        rows = list(zip(*rows, strict=True))
    elif sizes == (e.Var("batch"),):
        rows = [[row] for row in rows]
    elif sizes == (e.Var("heads"),):
        rows = [rows]
    return Scalar.of(rows)
