"""How far information, and gradients, reach back from segment to segment.

>>> from attnspec.check.check import check_text
>>> from attnspec.relation.lower import lower
>>> text = '''attention a {
...     axis slot[2]
...     axis token[n]
...     token -> slot: true
...     slot -> token: true
...     recur token by 4
...     carry slot -> slot
...     horizon 3
... }'''
>>> print(segment_reach(lower(check_text(text))))
all earlier segments; gradients 2 segments back
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attnspec.relation.presburger import budget
from attnspec.relation.relation import Relation, box
from attnspec.relation.sizes import Sizes, resized
from attnspec.spec.axes import sizes as sizes_of_axes
from attnspec.spec.recurrence import Carry, Recurrence

Edges = Mapping[str, frozenset[str]]
"""Where what stands at an axis gets to within a segment, itself among them, through as many layers as it takes."""


@dataclass(frozen=True)
class Back:
    """How many segments before its own a token can know of: ``segments`` (None: all), and more with each layer."""

    segments: int | None
    by_layer: int

    def __str__(self) -> str:
        if self.segments is None:
            return "all earlier segments"
        parts = [_back(self.segments)] if self.segments or not self.by_layer else []
        parts += [f"{_back(self.by_layer)} for each layer"] if self.by_layer else []
        return " and ".join(parts)


@dataclass(frozen=True)
class SegmentReach:
    """How far tokens know of earlier ones, and how far gradients flow back."""

    information: Back
    gradients: Back

    def __str__(self) -> str:
        if self.gradients == Back(0, 0):
            flow = "" if self.information == self.gradients else "; gradients stay within a segment"
        else:
            flow = "; gradients as far" if self.information == self.gradients else f"; gradients {self.gradients}"
        return f"{self.information}{flow}"


def _back(segments: int) -> str:
    return "no earlier segment" if not segments else f"{segments:,} segment{'s' if segments > 1 else ''} back"


def segment_reach(relation: Relation) -> SegmentReach:
    """What the carries of a pattern come to, in a model of enough layers: by which axes see which at all.

    It counts whole segments with all that is carried, and what inputs may allow. Raises TooHard.
    """
    recurrence = relation.spec.recurrence
    assert recurrence is not None
    sizes = sizes_of_axes(relation.spec.axes, recurrence.recur.size)
    gets_to = _closed(sizes, _seen(relation))
    information = _reach(recurrence, recurrence.carries, sizes, gets_to)
    open_carries = [carry for carry in recurrence.carries if not carry.detached]
    gradients = _reach(recurrence, open_carries, sizes, gets_to)
    if recurrence.horizon is not None:
        most = recurrence.horizon - 1
        gradients = Back(most if gradients.segments is None or gradients.by_layer else min(most, gradients.segments), 0)
    return SegmentReach(information, gradients)


def _seen(relation: Relation) -> set[tuple[str, str]]:
    """The pairs (key axis, query axis) of which some head may see a pair in a whole segment."""
    spec = relation.spec
    assert spec.recurrence is not None
    heads = relation.heads or 1
    call = resized(spec, Sizes(1, 1, heads, heads, aligned_end=False), spec.recurrence.recur.size)
    found = set()
    for item in relation.classes:
        for clause, pairs in zip(spec.attend, item.attend, strict=True):
            assert clause.arrow is not None
            source, target, _ = clause.arrow
            with budget(pairs):  # of any head
                if not pairs.intersection(box(call)).fix(n=call.n, n_q=call.n_q, m=call.m or 0).is_empty():
                    found.add((target, source))
    return found


def _closed(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> Edges:
    """Where each axis gets to in any number of steps."""
    gets_to = {name: {name} for name in names}
    for _ in gets_to:
        for a, b in edges:
            for reached in gets_to.values():
                if a in reached:
                    reached.add(b)
    return {name: frozenset(reached) for name, reached in gets_to.items()}


def _reach(recurrence: Recurrence, carries: Sequence[Carry], sizes: Mapping[str, int], gets_to: Edges) -> Back:
    """How far back the tokens of a segment know of tokens: the longest way from tokens to tokens, if there is one.

    A way that leads round and round through states has no longest one. One through keys of layers goes round once for
    each layer. Input vectors of tokens know of themselves alone.
    """
    token = recurrence.recur.axis
    ways: list[tuple[str, str, int]] = []
    furthest = {token: 0}
    by_layer = 0
    for carry in carries:
        made = sizes[carry.source]
        steps = 1 if carry.last is None else -(-carry.last // made) if made else 0
        targets = recurrence.recall.targets if recurrence.recall and recurrence.store(carry) else carry.targets
        for target in targets if steps and carry.last != 0 else ():
            if carry.source == token and not carry.by_layer:
                furthest[target] = max(furthest.get(target, 0), steps)
            elif carry.by_layer and carry.source in gets_to[target]:
                if carry.source in gets_to[token] and token in gets_to[target]:
                    by_layer = max(by_layer, steps)
            else:
                ways.append((carry.source, target, steps))
    for _ in range(len(gets_to) + 1):
        before = dict(furthest)
        for start, far in before.items():
            for name in gets_to[start]:
                furthest[name] = max(furthest.get(name, 0), far)
        for source, target, steps in ways:
            if source in furthest:
                furthest[target] = max(furthest.get(target, 0), furthest[source] + steps)
    growing = any(furthest[name] > before.get(name, -1) and token in gets_to[name] for name in furthest)
    return Back(None if growing else max(furthest[name] for name in furthest if token in gets_to[name]), by_layer)
