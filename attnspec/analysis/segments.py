"""What a sequence comes to that is run segment by segment: positions, pairs, and what is kept between segments.

>>> from attnspec.check.check import check_text
>>> from attnspec.relation.lower import lower
>>> rmt = lower(check_text('''attention rmt(slots = 2, segment = 4) {
...     axis read[slots]
...     axis token[n]
...     axis written[slots]
...     token -> read: true
...     token -> token: causal
...     written -> token: true
...     recur token by segment
...     carry written -> read, written
... }'''))
>>> found = segmented(rmt, 10, Sizes(1, 1))
>>> found.segments, found.positions, found.pairs
(3, 22, 63)
>>> [(run.times, run.tokens, run.positions, run.pairs) for run in found.runs]
[(2, 4, 8, 26), (1, 2, 6, 11)]
>>> [(str(kept.carry), kept.positions) for kept in found.kept]
[('carry written -> read, written', 2)]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from attnspec.relation.count import count
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes, resized
from attnspec.spec.axes import sizes as sizes_of_axes
from attnspec.spec.axes import slices
from attnspec.spec.recurrence import Carry, Recurrence
from attnspec.spec.spec import Spec

_MOST_STEPS = 64
"""Segments that are told apart while memories fill: where they take longer to, those after have all of them."""


@dataclass(frozen=True)
class Run:
    """Segments that are run alike, ``times`` of them, each with so many ``tokens``.

    ``positions`` go through the model, ``summary`` of them before the segment itself, to ask a store. ``memory`` are
    positions of which each layer has keys only. ``present`` is how many positions each axis has, the last ones of it.
    ``pairs`` are those that a layer attends over in one of these segments, over all heads and batch entries.
    """

    times: int
    tokens: int
    positions: int
    summary: int
    memory: int
    present: tuple[tuple[str, int], ...]
    pairs: int


@dataclass(frozen=True)
class Kept:
    """What a carry keeps when all of it is there: positions of the model's width, or keys and values of each layer."""

    carry: Carry
    positions: int


@dataclass(frozen=True)
class Segmented:
    """A sequence of ``n`` tokens, segment by segment, in the order of ``runs``.

    ``exact`` is False where positions and pairs are upper bounds: where memories take more than 64 segments to fill, or
    inputs decide which pairs there are.
    """

    n: int
    runs: tuple[Run, ...]
    kept: tuple[Kept, ...]
    exact: bool = True

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return sum(run.times for run in self.runs)

    @property
    def positions(self) -> int:
        """How many positions go through the model, over all segments and their summaries."""
        return sum(run.times * run.positions for run in self.runs)

    @property
    def pairs(self) -> int:
        """How many pairs a layer attends over, over all segments, heads and batch entries."""
        return sum(run.times * run.pairs for run in self.runs)


def segmented(relation: Relation, n: int, sizes: Sizes) -> Segmented:
    """What ``n`` tokens come to; of ``sizes`` heads, batch and scalar inputs matter.

    Raises DependsOnInputs where a scalar input matters that ``sizes`` do not give, TooHard and TooIrregular where pairs
    cannot be counted.
    """
    spec = relation.spec
    recurrence = spec.recurrence
    assert recurrence is not None
    kept = tuple(Kept(carry, _most(recurrence, spec, carry)) for carry in recurrence.carries)
    counted: dict[_Step, Run] = {}
    runs = []
    exact = relation.exact
    for times, step, bound in _steps(recurrence, spec, n):
        exact = exact and not bound
        if step not in counted:
            counted[step] = _run(relation, step, sizes)
        runs.append(replace(counted[step], times=times))
    return Segmented(n, tuple(runs), kept, exact)


@dataclass(frozen=True)
class _Step:
    """A segment's tokens, the positions of its axes, and those of the summary before it (None without one)."""

    tokens: int
    present: tuple[tuple[str, int], ...]
    asks: tuple[tuple[str, int], ...] | None


def _steps(recurrence: Recurrence, spec: Spec, n: int) -> Iterator[tuple[int, _Step, bool]]:
    """The segments of n tokens: how many are alike, and whether what they have is an upper bound."""
    size = recurrence.recur.size
    whole, rest = divmod(n, size)
    first = recurrence.recur.ragged == "first"
    before = index = 0
    if first and rest:
        yield 1, _step(recurrence, spec, rest, 0, 0), False
        before, index = rest, 1
    left, steady = whole, _step(recurrence, spec, size, n + _far(recurrence, spec), 2 + _far(recurrence, spec))
    while left:
        step = _step(recurrence, spec, size, before, index)
        bound = step != steady and index >= _MOST_STEPS
        times = left if bound or step == steady else 1
        yield times, steady if bound else step, bound
        left, before, index = left - times, before + times * size, index + times
    if rest and not first:
        yield 1, _step(recurrence, spec, rest, before, index), False


def _far(recurrence: Recurrence, spec: Spec) -> int:
    """So many tokens, or segments, that all of what is carried is there."""
    return sum(_most(recurrence, spec, carry) for carry in recurrence.carries)


def _most(recurrence: Recurrence, spec: Spec, carry: Carry) -> int:
    """How many positions a carry keeps."""
    return _source(recurrence, spec, carry) if carry.last is None else carry.last


def _source(recurrence: Recurrence, spec: Spec, carry: Carry) -> int:
    """How many positions come out of one whole segment."""
    return sizes_of_axes(spec.axes, recurrence.recur.size)[carry.source]


def _there(recurrence: Recurrence, spec: Spec, carry: Carry, before: int, index: int) -> int:
    """How many positions of a carry there are at segment ``index``, after so many tokens."""
    made = before if carry.source == recurrence.recur.axis else index * _source(recurrence, spec, carry)
    most = _most(recurrence, spec, carry)
    return min(most, made) if recurrence.grows(carry) else most


def _step(recurrence: Recurrence, spec: Spec, tokens: int, before: int, index: int) -> _Step:
    """The segment number ``index`` (from 0), of so many tokens after so many ``before`` it."""
    present = dict(sizes_of_axes(spec.axes, tokens))
    of_tokens = []
    for carry in recurrence.carries:
        for name in present.keys() & set(carry.targets):
            present[name] = _there(recurrence, spec, carry, before, index)
            of_tokens += [name] if carry.source == recurrence.recur.axis and not carry.by_layer else []
    recall, asks = recurrence.recall, None
    if recall is not None:
        (store,) = (carry for carry in recurrence.carries if recurrence.store(carry))
        if _there(recurrence, spec, store, before, index):
            read = {
                recurrence.recur.axis: min(tokens, recall.tokens(recurrence.recur.size)),
                **dict.fromkeys(of_tokens, 0),
            }
            asks = tuple({**present, **read}.items())
    return _Step(tokens, tuple(present.items()), asks)


def _run(relation: Relation, step: _Step, sizes: Sizes) -> Run:
    """One segment, its pairs counted."""
    spec = relation.spec
    queries = {axis.name for axis in spec.axes if axis.queries}

    def through(present: tuple[tuple[str, int], ...] | None) -> int:
        return sum(size for name, size in present or () if name in queries)

    summary = through(step.asks)
    positions, memory = through(step.present), sum(size for name, size in step.present if name not in queries)
    pairs = _pairs(relation, dict(step.present), sizes) + (_pairs(relation, dict(step.asks), sizes) if step.asks else 0)
    return Run(1, step.tokens, positions + summary, summary, memory, step.present, pairs)


def _pairs(relation: Relation, present: Mapping[str, int], sizes: Sizes) -> int:
    """The pairs of a call whose axes have so many positions, the last ones, over all heads and batch entries."""
    spec = relation.spec
    assert spec.recurrence is not None
    tokens = present[spec.recurrence.recur.axis]
    call = replace(resized(spec, sizes, tokens), scalars=sizes.scalars, aligned_end=False)
    cuts = []
    for name, both in slices(spec.axes, tokens).items():
        for variable, place in zip("xy", both, strict=True):
            if place is not None and (absent := place.stop - place.start - present[name]):
                cuts.append(f"not ({place.start} <= {variable} < {place.start + absent})")
    there = Pairs.read(" and ".join(cuts) or "true")
    total = 0
    for item in relation.classes:
        members = item.members(sizes.heads)
        by_head, by_entry = relation.varies(item, "h"), relation.varies(item, "b")
        with budget(item.pairs):
            pairs = item.pairs.intersection(there)
        each = [
            count(relation.at(call, h, b, pairs), call.n_q, call.first)
            for h in (members if by_head else members[:1])
            for b in (range(sizes.batch) if by_entry else (0,))
        ]
        total += sum(each) * (1 if by_head else len(members)) * (1 if by_entry else sizes.batch)
    return total
