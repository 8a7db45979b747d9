"""Are two patterns equal? Does one contain the other? If not, where do they first differ? For every length at once."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.relation.condition import condition
from attnspec.relation.effort import stage
from attnspec.relation.presburger import SCALARS, Pairs, budget
from attnspec.relation.relation import DependsOnInputs, Relation, inputs_of, scalar_names
from attnspec.spec import expr as e
from attnspec.spec.rewrite import replace
from attnspec.spec.spec import Spec


@dataclass(frozen=True)
class Witness:
    """A pair that one pattern allows and the other does not, in a call of the named sizes.

    ``row`` is the query row (from 0), ``k`` the key; ``allowed_by`` is ``"first"``, ``"second"`` or ``"both"``.
    ``inputs`` are values of integer inputs, for this head and batch entry, with which it holds; other inputs may hold
    anything.
    """

    row: int
    k: int
    h: int
    b: int
    n: int
    n_q: int
    heads: int
    batch: int
    allowed_by: str
    inputs: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """How two patterns relate: is the first within the second, and the other way round, with a witness if not."""

    first_only: Witness | None
    second_only: Witness | None

    @property
    def equal(self) -> bool:
        """Whether both allow the same pairs in every call; how often they count, :func:`compare_counts` says."""
        return self.first_only is None and self.second_only is None


@dataclass(frozen=True)
class Counted:
    """A pair that both patterns allow, and how often it counts in the branches of each."""

    at: Witness
    first: int
    second: int


@stage()
def compare(first: Relation, second: Relation, n: int | None = None) -> Comparison:
    """Compare two relations over all calls (all heads that both are defined for), or those of ``n`` queries and keys.

    Inputs that are declared alike in both are the same tensors. A difference is shown where there are as many queries
    as keys, if it is seen there. Raises TooHard where the solver's budget does not suffice, DependsOnInputs where it
    takes the contents of inputs to know.
    """
    heads, known = _calls(first, second)
    if not (first.exact and second.exact):
        if _alike(first.spec, second.spec):
            return Comparison(None, None)
        first.require_positions()
        second.require_positions()
    names = _shared_names(first.spec, second.spec)
    sides = [_Side(relation, names, known, n) for relation in (first, second)]
    witnesses: dict[str, Witness | None] = {"first": None, "second": None}
    for h in [None] if heads is None else range(heads):
        a, b = sides[0].bounds(h, heads, sides[1]), sides[1].bounds(h, heads, sides[0])
        for name, mine, other in (("first", a, b), ("second", b, a)):
            if witnesses[name] is None:
                with budget(mine.sure, other.pairs):
                    found = _sample(mine.sure.difference(other.pairs))
                if found is not None:
                    witnesses[name] = _witness(found, name, names)
                elif not (mine.exact and other.exact):
                    _require_none(mine, other)
    return Comparison(witnesses["first"], witnesses["second"])


@stage()
def compare_counts(first: Relation, second: Relation, n: int | None = None) -> Counted | None:
    """A pair that two patterns with the same pairs do not count alike; None if there is none, in any call (of ``n``).

    A softmax counts a pair once, a mixture as often as there are branches (and ``times``) that it stands in. Raises
    what :func:`compare` does.
    """
    if not (first.spec.mixture or second.spec.mixture) or _alike(first.spec, second.spec):
        return None
    heads, known = _calls(first, second)
    for relation in (first, second):
        relation.require_exact()
    names = _shared_names(first.spec, second.spec)
    sides = [_Side(relation, names, known, n) for relation in (first, second)]
    for h in [None] if heads is None else range(heads):
        a, b = (side.counts(h, heads, other) for side, other in zip(sides, sides[::-1], strict=True))
        for often, mine in a.items():
            for other_often, other in b.items():
                if often != other_often:
                    with budget(mine, other):
                        found = _sample(mine.intersection(other))
                    if found is not None:
                        return Counted(_witness(found, "both", names), often, other_often)
    return None


def _calls(first: Relation, second: Relation) -> tuple[int | None, dict[str, int]]:
    """The number of heads that two relations are defined for (None: any), and the sizes that either was built for.

    Elsewhere its set means nothing.
    """
    if first.heads is not None and second.heads is not None and first.heads != second.heads:
        raise ValueError(f"the first pattern is defined for {first.heads} heads, the second for {second.heads}")
    known = dict(first.known) | dict(second.known)
    if any(known[name] != value for name, value in (*first.known, *second.known)):
        raise ValueError(f"the patterns were lowered for different sizes: {first.known} and {second.known}")
    return first.heads if first.heads is not None else second.heads, known


def _sample(pairs: Pairs) -> dict[str, int] | None:
    """The first pair, with as many queries as keys if there is one."""
    return pairs.intersection(Pairs.read("n_q = n")).sample() or pairs.sample()


@dataclass(frozen=True, eq=False)
class _Bounds:
    """The pairs (row, key) of a head in every call: those that are possible and those that are certain."""

    spec: Spec
    pairs: Pairs
    sure: Pairs
    unknown: tuple[e.Pred, ...]

    @property
    def exact(self) -> bool:
        return self.sure is self.pairs


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two patterns, with the parameters that both agree on."""

    relation: Relation
    names: dict[_Declared, str]
    known: dict[str, int]
    length: int | None

    def bounds(self, h: int | None, heads: int | None, other: _Side) -> _Bounds:
        """The pairs of a head (of any, if None) in the calls that both patterns are defined for."""
        item = self.relation.of_head(h or 0)
        pairs = self._rows(item.pairs, h, heads, other)
        sure = pairs if item.exact else self._rows(item.sure, h, heads, other)
        return _Bounds(self.relation.spec, pairs, sure, item.unknown)

    def counts(self, h: int | None, heads: int | None, other: _Side) -> dict[int, Pairs]:
        """How often pairs of a head count, with the pairs that do."""
        item = self.relation.of_head(h or 0)
        counted = {0: self._rows(item.pairs, h, heads, other)}
        for part in item.parts:
            own, before, counted = self._rows(part.pairs, h, heads, other), counted, {}
            for often, pairs in before.items():
                with budget(pairs, own):
                    split = ((often + part.times, pairs.intersection(own)), (often, pairs.difference(own)))
                    for new, those in split:
                        if not those.is_empty():
                            counted[new] = counted[new].union(those) if new in counted else those
        return counted

    def _rows(self, pairs: Pairs, h: int | None, heads: int | None, other: _Side) -> Pairs:
        first = "n - n_q" if self.relation.spec.align == "end" else "0"
        calls = (
            f"n >= 1 and n_q >= 1 and batch >= 1 and 0 <= b < batch and kv_heads >= 1 and 0 <= h < heads "
            f"and {first} <= x < {first} + n_q and 0 <= y < n"
        )
        if h is not None:
            calls += f" and h = {h} and heads = {heads}"
        if self.length is not None:
            calls += f" and n = {self.length} and n_q = {self.length}"
        for name, value in self.known.items():
            calls += f" and {name} = {value}"
        declared = _declared(self.relation.spec)
        with budget(pairs):
            own = pairs.rename({old: self.names[item] for item, old in declared.items()})
            whole = own.intersection(Pairs.read(calls)).intersection(self.lengths())
            return whole.without("m").intersection(other.lengths().without("m")).shift_rows(first)

    def lengths(self) -> Pairs:
        """The calls that the axes admit: those for which one number gives these lengths, that of a segment at most."""
        axes = self.relation.spec.axes
        if not axes:
            return Pairs.read("true")
        keys = e.Add(tuple(axis.size for axis in axes if axis.keys))
        queries = e.Add(tuple(axis.size for axis in axes if axis.queries))
        fits = e.And((e.Cmp("==", e.Var("n"), keys), e.Cmp("==", e.Var("n_q"), queries)))
        sizes = tuple(e.Cmp(">=", axis.size, e.Int(0)) for axis in axes)
        neighbours = (replace(fits, {e.Var("m"): e.Add((e.Var("m"), e.Int(by)))}) for by in (-1, 1))
        below, above = (condition(other).text for other in neighbours)
        text = condition(e.And((fits, *sizes))).text
        recurrence = self.relation.spec.recurrence
        most = "" if recurrence is None else f" and m <= {recurrence.recur.size}"
        return Pairs.read(f"m >= 0{most} and {text} and not ({above}) and not (m >= 1 and ({below}))")


_Declared = tuple[str, tuple[e.IntExpr, ...]]
"""A scalar input: its name and sizes."""


def _declared(spec: Spec) -> dict[_Declared, str]:
    """The scalar inputs of a pattern with the parameter that each is in its sets."""
    sizes = {item.name: item.sizes for item in spec.inputs}
    return {(name, sizes[name]): scalar for name, scalar in scalar_names(spec).items()}


def _shared_names(first: Spec, second: Spec) -> dict[_Declared, str]:
    """A parameter for each scalar input of two patterns."""
    both = list(dict.fromkeys([*_declared(first), *_declared(second)]))
    if len(both) > len(SCALARS):
        raise DependsOnInputs(second, [name for name, _ in both])
    return dict(zip(both, SCALARS, strict=False))


def _alike(first: Spec, second: Spec) -> bool:
    """Whether two patterns say the same, word by word."""
    parts = [([(b.pred, b.times) for b in s.branches], s.inputs, s.order, s.axes, s.align) for s in (first, second)]
    return parts[0] == parts[1]


def _require_none(mine: _Bounds, other: _Bounds) -> None:
    """Raise DependsOnInputs unless one pattern is within the other whatever the inputs hold."""
    with budget(mine.pairs, other.sure):
        possible = not mine.pairs.difference(other.sure).is_empty()
    if possible:
        atoms = dict.fromkeys((*mine.unknown, *other.unknown))
        raise DependsOnInputs(mine.spec if mine.unknown else other.spec, inputs_of(atoms), atoms)


def _witness(point: dict[str, int], name: str, names: dict[_Declared, str]) -> Witness:
    sizes = {key: point[key] for key in ("h", "b", "n", "n_q", "heads", "batch")}
    inputs = tuple((declared[0], point[scalar]) for declared, scalar in names.items() if scalar in point)
    return Witness(row=point["x"], k=point["y"], allowed_by=name, inputs=inputs, **sizes)
