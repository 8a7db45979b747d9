"""A parameter near the given one with which less of the work is wasted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attnspec.check.check import check_text
from attnspec.codegen.cost.cost import Cost, cost
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.plan.plan import Plan
from attnspec.codegen.tiles import Tile
from attnspec.errors.diagnostic import SpecError
from attnspec.relation.count import TooIrregular
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec

NEAR = 0.12
"""How far from the given value a suggestion may be, as a share of it."""
_SAVES = 0.10
_SECONDS = 1.0
_HANDFUL = 6


@dataclass(frozen=True)
class Suggestion:
    """A value of a parameter, and the computed pairs for each live one with the given value and with that."""

    name: str
    now: int
    value: int
    waste_now: float
    waste: float

    def __str__(self) -> str:
        return f"suggest {self.name}={self.value} (now {self.now}): waste {self.waste_now:.2f} -> {self.waste:.2f}"


def suggest(
    spec: Spec, found: Cost, sizes: Sizes, given: Mapping[str, Any], tile: Tile | None, layout: str
) -> tuple[Suggestion, ...]:
    """For each integer parameter the best value near it, if it wastes at least a tenth less at the same sizes.

    ``given`` are the parameters that the user gave; others keep following from them. Values that there is no time for
    are not tried.
    """
    until = time.monotonic() + _SECONDS
    best: list[Suggestion] = []
    for name, now in spec.params:
        if isinstance(now, bool) or not isinstance(now, int):
            continue
        tried = []
        spent = 0.0
        for value in _near(now):
            start = time.monotonic()
            if start + spent > until:
                break
            waste = _waste(spec, {**given, name: value}, sizes, tile, layout)
            spent = max(spent, time.monotonic() - start)
            if waste is not None:
                tried.append(Suggestion(name, now, value, found.waste, waste))
        chosen = min(tried, key=lambda s: round(s.waste, 2), default=None)  # the likeliest of equals
        if chosen is not None and chosen.waste < (1 - _SAVES) * found.waste:
            best.append(chosen)
    return tuple(best)


def reason(made: Plan) -> Iterator[str]:
    """Why the passes of each class of heads and branch are what they are."""
    for item in made.classes:
        who = "all heads" if item.heads is None else f"heads {', '.join(map(str, item.heads))}"
        for number, choice in enumerate(item.choices):
            branch = f", branch {number}" if len(item.choices) > 1 else ""
            if choice is None:
                yield f"{who}{branch}: one way only"
                continue
            best, first = choice.candidates[choice.chosen], choice.candidates[0]
            others = [c.cost for c in choice.candidates if c is not best]
            if best is not first:
                against = f", {first.cost / best.cost:.1f} times less than that of {first.text}"
            else:
                against = f", {min(others) / best.cost:.1f} times less than the next" if others else ""
            yield f"{who}{branch}: {best.text}, because its estimated time is the least{against}"


def _near(now: int) -> list[int]:
    """A handful of values near a given one, the likeliest first: powers of two, multiples of what tiles are made of."""
    low, high = now - int(NEAR * abs(now)), now + int(NEAR * abs(now))
    found: dict[int, None] = {}
    powers = [1 << bits for bits in range(max(1, high).bit_length() + 1)]
    for step in (128, 64, 32, 16, 8):
        below = now // step * step
        for value in (below, below + step, below + 1, below - step):
            found.setdefault(value)
    ordered = [*(p for p in powers), *found, now - 1, now + 1]
    return [v for v in dict.fromkeys(ordered) if low <= v <= high and v != now and v > 0][:_HANDFUL]


def _waste(spec: Spec, params: Mapping[str, Any], sizes: Sizes, tile: Tile | None, layout: str) -> float | None:
    """The waste with other parameters; None where the pattern is not defined with them, or too hard to count."""
    source = spec.span.source
    try:
        other = check_text(source.text, spec.name, params, source.name)
        made = plan(lower(other, sizes.heads, sizes.kv_heads, sizes.batch), tile, layout)
        found = cost(made, sizes, 64, 64, 4)
    except (SpecError, TooHard, TooIrregular, ValueError):
        return None
    return found.waste if found.pairs else None
