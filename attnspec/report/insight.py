"""Everything that ``attnspec inspect`` says of a pattern, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from attnspec.analysis.empty_rows import EmptyRows, empty_rows
from attnspec.analysis.picture import cells, text
from attnspec.analysis.reach import Reach, reach
from attnspec.codegen.cost.cost import Cost, cost
from attnspec.codegen.cost.counted import Contents, TooMany
from attnspec.codegen.cost.gpu_time import costs
from attnspec.codegen.cost.gpu_time import predict as predict_on_gpu
from attnspec.codegen.cost.roofline import DEVICES, Device, Prediction, predict
from attnspec.codegen.expressions.reads import has_kernels
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.plan.plan import Plan
from attnspec.codegen.tiles import LINEAR, LINEAR_REASON, REASON, TILE, Tile
from attnspec.codegen.triton.schedule import schedule_for
from attnspec.errors.diagnostic import SpecError
from attnspec.relation.count import TooIrregular
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.report.decode import Decode, by_branch, decoded
from attnspec.report.examples import Look, look
from attnspec.report.growth import Growth, exponent, growth, of_segments
from attnspec.report.segments import Following, following
from attnspec.report.suggest import Suggestion, reason, suggest
from attnspec.report.weighing import weighing
from attnspec.runtime.bench.ceilings import remembered
from attnspec.runtime.bench.gpu_ceilings import remembered as remembered_gpus
from attnspec.runtime.bench.remembered import Measured, recall
from attnspec.spec.axes import slices
from attnspec.spec.spec import Spec

if TYPE_CHECKING:
    from attnspec.runtime.prepare.given import Given

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
_OTHER_TILES = "unless a layout or a table of blocks asks for another size"

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """The cells of one group of equal heads."""

    heads: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Insight:
    """What is known of a pattern at given sizes; a question that has no answer holds the reason, a text, instead.

    ``examples`` says with which inputs pictures and cost were found (empty where none were needed), which are examples
    unless ``given`` says that they were asked for. ``looked``
    is what was found pair by pair where the sets of pairs depend on inputs: the cost then counts pairs and tiles that
    are possible, and is an upper bound. ``measured`` is the time on this machine's processor, ``measured_on`` that on
    its GPUs, by name. Where branches are calls of their own ``branch_decode`` says what each keeps, and ``calls`` after
    multiples of how many tokens calls hand on states, or why they do not.
    """

    spec: Spec
    sizes: Sizes
    plan: Plan
    dtype: str
    tile_reason: str
    examples: str
    given: bool
    looked: Look | str | None
    pictures: tuple[Picture, ...] | str
    cost: Cost | str
    growth: Growth | str
    exponent: float | None
    empty: tuple[EmptyRows, ...] | str
    decode: Decode
    branch_decode: tuple[Decode, ...]
    calls: int | str
    reach: Reach | str
    predictions: tuple[Prediction, ...]
    measured: Measured | None
    measured_on: tuple[tuple[str, Measured], ...]
    suggestions: tuple[Suggestion, ...]
    weights: str
    """Weights beyond softmax in words; empty where there are none, or each branch has its own."""
    branch_weights: tuple[str, ...]
    """What pairs of each branch weigh, where one that has its own weighs by more than softmax."""
    segments: Following | str | None = None
    """How segments follow one another; None where the pattern is that of a whole sequence."""

    @property
    def exact(self) -> bool:
        """Whether the cost is exact, and not an upper bound."""
        return self.looked is None if isinstance(self.cost, str) else self.cost.exact

    @property
    def axes(self) -> dict[str, tuple[tuple[int, int] | None, tuple[int, int] | None]]:
        """Where each axis lies among the queries and among the keys: from and to."""
        s = self.sizes
        if s.m is None:
            return {}
        found = slices(self.spec.axes, s.m)
        return {name: tuple(x and (x.start, x.stop) for x in both) for name, both in found.items()}  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        growth = self.growth
        return {
            "name": self.spec.name,
            "doc": self.spec.doc,
            "params": dict(self.spec.params),
            "clauses": [c.label for b in self.spec.branches for c in b.attend],
            "within": [c.label for c in self.spec.within],
            "branches": self.spec.own_lines,
            "weights": self.weights,
            "branch_weights": self.branch_weights,
            "axes": self.axes,
            "dtype": self.dtype,
            "tile_reason": self.tile_reason,
            "plan": str(self.plan),
            "decisions": _decisions(self.plan),
            "suggestions": _plain(self.suggestions),
            "examples": self.examples,
            "given": self.given,
            "looked": _looked(self.looked),
            "pictures": _plain(self.pictures),
            "cost": self.cost if isinstance(self.cost, str) else self.cost.to_dict(),
            "exact": self.exact,
            "growth": growth
            if isinstance(growth, str)
            else [{"n": n, "pairs": pairs, "flops": flops} for n, pairs, flops in growth],
            "exponent": self.exponent,
            "empty_rows": _plain(self.empty),
            **self.decode.to_dict(),
            "branch_decode": [one.to_dict() for one in self.branch_decode],
            "calls": self.calls,
            "reach": self.reach if isinstance(self.reach, str) else asdict(self.reach),
            "predictions": _plain(self.predictions),
            "segments": self.segments.to_dict() if isinstance(self.segments, Following) else self.segments,
            "measured": self.measured and asdict(self.measured),
            "measured_on": {name: asdict(found) for name, found in self.measured_on},
        }


def _plain(items: Any) -> Any:
    return items if isinstance(items, str) else [asdict(item) for item in items]


def _decisions(made: Plan) -> list[dict[str, Any]]:
    """Candidates, their exact counts, the winner and the passes, for each class of heads."""
    reasons = iter(list(reason(made)))
    found = []
    for item in made.classes:
        choices = [
            {
                "reason": next(reasons),
                "n": choice and choice.n,
                "chosen": choice and choice.chosen,
                "candidates": [] if choice is None else [{**asdict(c), "waste": c.waste} for c in choice.candidates],
            }
            for choice in item.choices
        ]
        passes = [
            {
                "title": one.title,
                "branch": one.branch,
                "times": one.times,
                "layout": str(one.layout),
                "tile": asdict(one.tile),
                "proven": one.cut.proven,
            }
            for one in item.passes
        ]
        found.append({"heads": item.heads, "branches": choices, "passes": passes})
    return found


def _looked(found: Look | str | None) -> Any:
    if not isinstance(found, Look):
        return found
    heads = [{"head": s.h, "pairs": s.pairs, "tiles": s.tiles, "full": s.full} for s in found.seen]
    return {"n": found.sizes.n, "n_q": found.sizes.n_q, "heads_alike": found.same, "heads": heads}


def insight(
    spec: Spec,
    sizes: Sizes,
    dim: int,
    dtype: str,
    most_cells: int,
    given: Mapping[str, Any] | None = None,
    tile: Tile | None = None,
    layout: str = "auto",
    inputs: Mapping[str, Any] | None = None,
    sheet: Device | None = None,
    whole: int | None = None,
) -> Insight:
    """Ask everything of a pattern. Raises SpecError where it has no relation, CallError where inputs do not fit.

    ``given`` are the parameters that the user gave: what :class:`Suggestion` varies. ``inputs`` are values of inputs in
    place of examples; ``sheet`` is a further device that is predicted for. Of a pattern of segments ``whole`` is how
    many tokens follow one another in them, while ``sizes`` are those of one call (without it: those of a call).
    """
    relation = lower(spec, sizes.heads, sizes.kv_heads, sizes.batch)
    made = plan(relation, tile, layout)
    call, text = sizes, ""
    looked: Look | str | None = None
    shown: Given | str | None = None
    contents: Contents | None = None
    if inputs or relation.reads_scalars:
        shown = _shown(spec, sizes, inputs)
        if not isinstance(shown, str):
            call, text = shown.sizes, shown.text
    if inputs and not relation.exact and shown is not None and not isinstance(shown, str):
        contents = _contents(spec, shown)
    by_example = not inputs and not relation.exact and any(part.linear for part in spec.weighings)
    if not relation.exact:
        size = made.passes[0].tile
        own = None if contents is None or isinstance(shown, str) else shown
        looked = _ask(lambda: look(spec, sizes, size, most_cells, own))
        if isinstance(looked, Look) and contents is None:
            text = looked.example.text
    itemsize, lengths = ITEMSIZE[dtype], _lengths(sizes.n)
    found_cost: Cost | str | None = _by_example(made, sizes, dim, itemsize) if by_example else None
    if found_cost is None:
        by_example = False
        found_cost = shown if isinstance(shown, str) else _ask(lambda: cost(made, call, dim, dim, itemsize, contents))
    segments: Following | str | None = None
    if spec.recurrence is None:
        grown = _ask(lambda: growth(made, sizes, dim, itemsize, by_example))
    else:
        tokens = whole or sizes.m or 0
        segments = _ask(lambda: following(relation, tokens, call, dim, itemsize))
        grown = _ask(lambda: of_segments(relation, tokens, call, dim))
    suggestions: tuple[Suggestion, ...] = ()
    if relation.exact and not relation.reads_scalars and not isinstance(found_cost, str) and spec.softmax_only:
        suggestions = suggest(spec, found_cost, sizes, given or {}, tile, layout)
    return Insight(
        spec,
        sizes,
        made,
        dtype,
        "as asked for" if tile else _reason(made),
        text,
        bool(inputs),
        looked,
        _ask(lambda: tuple(_pictures(relation, call, most_cells, looked))),
        found_cost,
        grown,
        None if isinstance(grown, str) else exponent(grown),
        _ask(lambda: tuple(empty_rows(relation, sizes))),
        decoded(relation, sizes, lengths, dim, itemsize, _ask),
        *by_branch(spec, sizes, lengths, dim, itemsize, _ask),
        _ask(lambda: reach((relation, sizes))),
        ()
        if isinstance(found_cost, str) or not found_cost.kernel
        else (*_predictions(found_cost, dtype, sheet), *_on_gpus(made, call, dim, dtype, tile, layout)),
        None if inputs else recall(spec, sizes, dim, dtype),  # only calls with examples are remembered
        tuple(
            (gpu.name, known)
            for gpu in (() if inputs else remembered_gpus())
            if (known := recall(spec, sizes, dim, dtype, gpu.name)) is not None
        ),
        suggestions,
        "" if spec.softmax_only or spec.composed else weighing(spec.weights, dim),
        tuple(weighing(one.weights, dim) for one in spec.calls) if spec.composed and not spec.softmax_only else (),
        segments,
    )


def _shown(spec: Spec, sizes: Sizes, inputs: Mapping[str, Any] | None) -> Given | str:
    """The inputs that are given, or examples; in a few words why there are none."""
    from attnspec.runtime.prepare.given import examples, whole  # with torch, which few patterns need here

    return whole(spec, sizes, inputs) if inputs else _ask(lambda: examples(spec, sizes))


def _by_example(made: Plan, sizes: Sizes, dim: int, itemsize: int) -> Cost | None:
    """The cost with example inputs, of which it depends how much goes through states; None where there is too much."""
    spec = made.relation.spec
    shown = _shown(spec, sizes, None)
    if isinstance(shown, str):
        return None
    found = _ask(lambda: cost(made, shown.sizes, dim, dim, itemsize, _contents(spec, shown), shown.text))
    return None if isinstance(found, str) else found


def _contents(spec: Spec, shown: Given) -> Contents | None:
    from attnspec.runtime.prepare.given import contents_of

    return contents_of(spec, shown)


def _ask(question: Callable[[], T]) -> T | str:
    """The answer, or in a few words why there is none."""
    try:
        return question()
    except TooHard:
        return "too irregular for the solver's operation limit"
    except TooIrregular:
        return "the pattern's periods are too large for an exact count"
    except SpecError as error:
        return "; ".join(d.title for d in error.diagnostics)
    except TooMany as error:
        return str(error)


def _pictures(relation: Relation, sizes: Sizes, most: int, looked: Look | str | None) -> list[Picture]:
    """One picture for each group of heads that look the same."""
    if isinstance(looked, Look):
        return _seen(looked)
    looks: dict[str, list[int]] = {}
    for h in range(sizes.heads):
        item = relation.of_head(h)
        representative = h if relation.varies(item, "h") else (0 if item.heads is None else item.heads[0])
        same = next((t for t, hs in looks.items() if representative in hs), None)
        shown = same if same is not None else text(cells(relation, sizes, representative, 0, most))
        looks.setdefault(shown, []).append(h)
    return [Picture(tuple(heads), shown) for shown, heads in looks.items()]


def _seen(looked: Look) -> list[Picture]:
    """The pictures of the heads that were looked at."""
    looks: dict[str, list[int]] = {}
    for one in looked.seen:
        looks.setdefault(text(one.cells), []).extend(range(looked.sizes.heads) if looked.same else [one.h])
    return [Picture(tuple(heads), shown) for shown, heads in looks.items()]


def _lengths(n: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, n * f // 16) for f in (1, 2, 4, 8, 16, 32)}))


def _reason(made: Plan) -> str:
    """Why its tiles are as large as they are."""
    spec = made.relation.spec
    linear = [one.weights.linear for one in spec.calls]
    said = []
    for usual, why, which in ((TILE, REASON, False), (LINEAR.tile, LINEAR_REASON, True)):
        tiles = {one.tile for one in made.passes if linear[one.branch if spec.composed else 0] == which}
        if tiles:
            said.append(why if tiles == {usual} else f"{usual}, {_OTHER_TILES}")
    return "; ".join(said)


def _predictions(found: Cost, dtype: str, sheet: Device | None) -> tuple[Prediction, ...]:
    devices = [device for device in (remembered(), sheet, *DEVICES) if device is not None]
    return tuple(p for device in devices if (p := predict(found, device, dtype)) is not None)


def _on_gpus(made: Plan, sizes: Sizes, dim: int, dtype: str, tile: Tile | None, layout: str) -> tuple[Prediction, ...]:
    """What kernels should take on the GPUs whose ceilings were measured here, with the tiles that they have there."""
    known, itemsize = remembered_gpus(), ITEMSIZE[dtype]
    if not known or not has_kernels(made.relation.spec, triton=True):
        return ()
    found = _ask(
        lambda: costs(made.relation, schedule_for(dim, itemsize, sizes.n_q), sizes, dim, itemsize, layout, tile)
    )
    if isinstance(found, str):
        return ()
    return tuple(p for gpu in known if (p := predict_on_gpu(found, gpu, dtype, itemsize)) is not None)
