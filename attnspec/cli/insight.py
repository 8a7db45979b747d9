"""Everything that ``attnspec inspect`` says of a pattern, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from attnspec.codegen.cost import Cost, cost
from attnspec.codegen.devices import DEVICES
from attnspec.codegen.plan import Plan
from attnspec.codegen.roofline import Prediction, predict
from attnspec.codegen.schedule import REASON, TILE
from attnspec.codegen.tile import tile
from attnspec.decode import CacheNeed, cache_need
from attnspec.empty import EmptyRows, empty_rows
from attnspec.lower import lower
from attnspec.picture import cells, text
from attnspec.pieces import TooIrregular
from attnspec.presburger import TooHard
from attnspec.reach import Reach, reach
from attnspec.relation import Relation
from attnspec.runtime.ceilings import remembered
from attnspec.runtime.measured import Measured, recall
from attnspec.sizes import MOST, Sizes
from attnspec.spec import Spec

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
_GROWTH = 16


@dataclass(frozen=True)
class Picture:
    """The cells of one group of equal heads."""

    heads: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Insight:
    """What is known of a pattern at given sizes; a question that was too hard holds the reason, a text, instead."""

    spec: Spec
    plan: Plan
    dtype: str
    tile_reason: str
    pictures: tuple[Picture, ...] | str
    cost: Cost | str
    growth: tuple[tuple[int, int, int], ...] | str  # length, live pairs, operations
    exponent: float | None
    empty: tuple[EmptyRows, ...] | str
    decode: tuple[CacheNeed, ...] | str
    reach: Reach | str
    predictions: tuple[Prediction, ...]
    measured: Measured | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        growth = self.growth
        return {
            "name": self.spec.name,
            "doc": self.spec.doc,
            "params": dict(self.spec.params),
            "clauses": [c.label for c in self.spec.attend],
            "within": [c.label for c in self.spec.within],
            "dtype": self.dtype,
            "tile": asdict(self.plan.tile),
            "tile_reason": self.tile_reason,
            "plan": str(self.plan),
            "pictures": _plain(self.pictures),
            "cost": self.cost if isinstance(self.cost, str) else self.cost.to_dict(),
            "growth": growth
            if isinstance(growth, str)
            else [{"n": n, "pairs": pairs, "flops": flops} for n, pairs, flops in growth],
            "exponent": self.exponent,
            "empty_rows": _plain(self.empty),
            "decode": _plain(self.decode),
            "reach": self.reach if isinstance(self.reach, str) else asdict(self.reach),
            "predictions": _plain(self.predictions),
            "measured": self.measured and asdict(self.measured),
        }


def _plain(items: Any) -> Any:
    return items if isinstance(items, str) else [asdict(item) for item in items]


def insight(spec: Spec, sizes: Sizes, dim: int, dtype: str, most_cells: int) -> Insight:
    """Ask everything of a pattern. Raises SpecError where it has no relation."""
    relation = lower(spec, sizes.heads, sizes.kv_heads, sizes.batch)
    plan = tile(relation, TILE)
    found_cost = _ask(lambda: cost(plan, sizes, dim, dim, ITEMSIZE[dtype]))
    growth = _ask(lambda: tuple(_growth(plan, sizes, dim, dtype)))
    return Insight(
        spec,
        plan,
        dtype,
        REASON,
        _ask(lambda: tuple(_pictures(relation, sizes, most_cells))),
        found_cost,
        growth,
        None if isinstance(growth, str) else _exponent(growth),
        _ask(lambda: tuple(empty_rows(relation, sizes))),
        _ask(lambda: cache_need(relation, _lengths(sizes.n), sizes)),
        _ask(lambda: reach(relation, sizes)),
        () if isinstance(found_cost, str) else _predictions(found_cost, dtype),
        recall(spec, sizes, dim, dtype),
    )


def _ask(question: Any) -> Any:
    try:
        return question()
    except TooHard:
        return "too irregular for the solver's operation limit"
    except TooIrregular:
        return "the pattern's periods are too large for an exact count"


def _pictures(relation: Relation, sizes: Sizes, most: int) -> list[Picture]:
    """One picture for each group of heads that look the same."""
    looks: dict[str, list[int]] = {}
    for h in range(sizes.heads):
        item = relation.of_head(h)
        representative = h if item.pairs.depends_on("h") else (0 if item.heads is None else item.heads[0])
        same = next((t for t, hs in looks.items() if representative in hs), None)
        look = same if same is not None else text(cells(relation, sizes, representative, 0, most))
        looks.setdefault(look, []).append(h)
    return [Picture(tuple(heads), look) for look, heads in looks.items()]


def _lengths(n: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, n * f // 16) for f in (1, 2, 4, 8, 16, 32)}))


def _growth(plan: Plan, sizes: Sizes, dim: int, dtype: str) -> list[tuple[int, int, int]]:
    rows = []
    for factor in (1, 4, 16, 64, 256):
        n = sizes.n * factor // _GROWTH
        if 1 <= n <= MOST:
            grown = Sizes(n, n, sizes.heads, sizes.kv_heads, sizes.batch, sizes.aligned_end)
            found = cost(plan, grown, dim, dim, ITEMSIZE[dtype])
            rows.append((n, found.pairs, found.flops))
    return rows


def _exponent(growth: tuple[tuple[int, int, int], ...]) -> float | None:
    """The slope of operations over length, on logarithmic axes, at the long end."""
    if len(growth) < 2 or not growth[-2][2] or not growth[-1][2]:
        return None
    (n, _, flops), (longer, _, more) = growth[-2:]
    return math.log(more / flops) / math.log(longer / n)


def _predictions(found: Cost, dtype: str) -> tuple[Prediction, ...]:
    here = remembered()
    devices = DEVICES if here is None else (here, *DEVICES)
    return tuple(p for device in devices if (p := predict(found, device, dtype)) is not None)
