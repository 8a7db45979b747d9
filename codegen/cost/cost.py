"""What a call computes and moves, exactly, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from attnspec.analysis.carried import by_head
from attnspec.codegen.cost.counted import Contents
from attnspec.codegen.cost.grid import grid
from attnspec.codegen.cost.heads import Group, HeadCost, groups_of
from attnspec.codegen.cost.served import served
from attnspec.codegen.cost.states import made_before, steps_by_channel, sweeps, swept, team_of
from attnspec.codegen.expressions.earlier import earlier
from attnspec.codegen.plan.choose import plan as choose
from attnspec.codegen.plan.plan import Plan
from attnspec.codegen.tiles import SEQUENCE
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec
from attnspec.spec.writing import Shown


@dataclass(frozen=True)
class Through:
    """What of the forward pass goes through states, over all heads and batch entries.

    ``pairs`` are the live pairs, ``tiles`` the tiles that enter a state or leave it, ``pairwise`` the operations that
    it would take to compute the pairs of all visited tiles one by one.
    """

    pairs: int
    tiles: int
    pairwise: int

    def __add__(self, other: Through) -> Through:
        return Through(self.pairs + other.pairs, self.tiles + other.tiles, self.pairwise + other.pairwise)


@dataclass(frozen=True)
class Cost(Shown):
    """What a call of given sizes costs, over all heads and batch entries.

    Operations count a multiply-add as two. ``useful`` ones are spent on live pairs, ``flops`` on all pairs of visited
    tiles; backward recomputes the scores (five products where forward has two). ``bytes`` are what must cross the
    memory bus at least once: inputs, outputs, log-sum-exp and gradients. ``rows`` are the query tiles of all passes,
    heads and batch entries, ``columns`` the key tiles of all query heads, ``visited`` the pairs of whole visited tiles.

    Where weights are products of features, full tiles go through states: ``linear`` says how far, and operations are
    those of :mod:`attnspec.codegen.cost.states`. ``kernel`` is False where no target has one: operations are then those
    of the two products over all pairs, and the bytes hold the weights, both at the least.

    ``exact`` says that pairs and tiles are those of the call; otherwise they are what is possible, whatever inputs (or
    a computed order) hold: upper bounds. ``inputs`` says in words which inputs they were counted with.
    """

    sizes: Sizes
    dim: int
    dim_v: int
    heads: tuple[HeadCost, ...]
    pairs: int
    dense: int
    full: int
    partial: int
    tiles: int
    computed: int
    flops: int
    useful: int
    bytes: int
    backward_flops: int
    backward_bytes: int
    visited: int
    rows: int
    columns: int
    exact: bool = True
    inputs: str = ""
    linear: Through | None = None
    kernel: bool = True

    @property
    def density(self) -> float:
        """Live pairs over all pairs."""
        return self.pairs / self.dense if self.dense else 0.0

    @property
    def skipped(self) -> int:
        """Tiles that are never visited."""
        return self.tiles - self.full - self.partial

    @property
    def waste(self) -> float:
        """Computed over live pairs: 1 is perfect."""
        return self.computed / self.pairs if self.pairs else 1.0

    @property
    def intensity(self) -> float:
        """Operations per byte of the forward pass."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def backward_intensity(self) -> float:
        """Operations per byte of the backward pass."""
        return self.backward_flops / self.backward_bytes if self.backward_bytes else 0.0

    @property
    def apart(self) -> float:
        """The share of the live pairs that are computed one by one: all, but where some go through states."""
        return 1 - self.linear.pairs / self.pairs if self.linear and self.pairs else 1.0

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data."""
        derived = ("density", "skipped", "waste", "intensity", "backward_intensity", "apart")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}

    def __str__(self) -> str:
        s, most = self.sizes, "" if self.exact else "at most "
        return "\n".join(
            [
                f"cost at n = {s.n:,}, n_q = {s.n_q:,}, {s.heads} heads, batch {s.batch}, dim {self.dim}",
                *([f"    inputs    {self.inputs}"] if self.inputs else []),
                f"    pairs     {most}{self.pairs:,} of {self.dense:,} ({self.density:.3%})",
                f"    tiles     {most}{self.full:,} full, {self.partial:,} partial, {self.skipped:,} skipped",
                *self._how(),
                f"    forward   {most}{self.flops:.3e} operations, {self.bytes:,} bytes"
                f" ({self.intensity:.0f} per byte)",
                f"    backward  {most}{self.backward_flops:.3e} operations, {self.backward_bytes:,} bytes"
                f" ({self.backward_intensity:.0f} per byte)",
            ]
        )

    def _how(self) -> list[str]:
        """How pairs are computed."""
        if not self.kernel:
            return ["    no kernel: dense, n^2; at the least:"]
        if self.linear is not None:
            calls = max(1, self.sizes.heads * self.sizes.batch)
            moved = f"{self.linear.tiles / calls:,.0f} states moves a head"
            return [f"    states    {self.apart:.1%} of the live pairs one by one, the rest through {moved}"]
        return [f"    waste     {self.waste:.2f} computed pairs for each live one"] if self.exact else []


def cost(
    plan: Plan,
    sizes: Sizes,
    dim: int,
    dim_v: int,
    itemsize: int,
    contents: Contents | None = None,
    inputs: str = "",
) -> Cost:
    """The cost of one call; ``itemsize`` is the size of an element in bytes.

    ``sizes`` have the values of the scalar inputs on which the sets of pairs depend. Where these are not exact,
    ``contents`` hold the other inputs, and tiles and pairs are looked at one by one; without them what is counted is
    what is possible. ``inputs`` says in words which they are.

    Raises TooIrregular where the pattern's periods are too large for its pairs to be counted, DependsOnInputs where
    ``sizes`` lack a scalar input, TooMany where there is too much to look at.
    """
    contents = None if plan.relation.exact else contents
    groups = groups_of(plan, sizes, contents)
    heads = [(one.head, one.times) for one in groups]
    pairs = sum(c.pairs * times for c, times in heads)
    computed = sum(c.computed * times for c, times in heads)
    grids = [(grid(plan, sizes, c.heads[0]), times) for c, times in heads]
    rows, columns, tiles = (sum(one[i] * times for one, times in grids) for i in range(3))
    found = Cost(
        sizes=sizes,
        dim=dim,
        dim_v=dim_v,
        heads=tuple(c for c, _ in heads),
        pairs=pairs,
        dense=sizes.n * sizes.n_q * sizes.heads * sizes.batch,
        full=sum(c.full * times for c, times in heads),
        partial=sum(c.partial * times for c, times in heads),
        tiles=tiles,
        computed=computed,
        flops=2 * (dim + dim_v) * computed,
        useful=2 * (dim + dim_v) * pairs,
        bytes=0,
        backward_flops=2 * (3 * dim + 2 * dim_v) * computed,
        backward_bytes=0,
        visited=sum(c.visited * times for c, times in heads),
        rows=rows,
        columns=columns,
        exact=plan.relation.exact or contents is not None,
        inputs=inputs,
    )
    spec = plan.relation.spec
    if not served(plan.relation):
        return _dense(_moving(found, spec, itemsize))
    if spec.composed and not spec.softmax_only:
        alone = [_planned(one, sizes.heads, sizes.kv_heads, sizes.batch) for one in spec.alone]
        return _together(found, [cost(one, sizes, dim, dim_v, itemsize, contents, inputs) for one in alone], itemsize)
    found = _moving(found, spec, itemsize)
    if not spec.weights.linear:
        return found
    found = _through_states(found, plan, groups)
    return found if spec.weights.delta is None else _corrected(found, spec, itemsize, contents, inputs)


def _moving(found: Cost, spec: Spec, itemsize: int) -> Cost:
    """With the bytes: q, k, v, output and log-sum-exp, features made before kernels, gates of each feature."""
    s, dim, dim_v = found.sizes, found.dim, found.dim_v
    query, key = s.heads * s.n_q * s.batch, s.kv_heads * s.n * s.batch
    values = itemsize * query * dim_v
    moved = itemsize * (query * dim + key * (dim + dim_v)) + values
    if not spec.weights.linear or spec.weights.divide is not None:
        moved += 4 * query
    if spec.weights.linear:
        moved += 2 * 4 * made_before(spec.weights, dim) * (query + key)  # written and read, in float32
    moved += 4 * steps_by_channel(spec.weights, dim) * s.heads * s.n * s.batch
    back, branches = 2 * moved + values, len(spec.mixture)
    if spec.composed:  # each is a call of its own, and what they give is read again
        moved, back = branches * moved + (branches + 1) * values, branches * back + 2 * branches * values
    return replace(found, bytes=moved, backward_bytes=back)


def _dense(found: Cost) -> Cost:
    """What it takes at the least where there is no kernel: two products over all pairs, whose weights are kept."""
    s, of_one = found.sizes, 2 * (found.dim + found.dim_v)
    kept = 4 * found.dense
    return replace(
        found,
        flops=of_one * found.dense,
        useful=of_one * found.pairs,
        backward_flops=2 * of_one * found.dense,
        bytes=found.bytes + 2 * kept,
        backward_bytes=found.backward_bytes + 3 * kept,
        computed=s.n * s.n_q * s.heads * s.batch,
        kernel=False,
    )


def _together(found: Cost, each: list[Cost], itemsize: int) -> Cost:
    """Of a mixture whose branches are calls of their own, and are put together."""
    values = itemsize * found.sizes.heads * found.sizes.n_q * found.sizes.batch * found.dim_v
    through = [one.linear for one in each if one.linear is not None]
    one_by_one = sum(one.flops for one in each if one.linear is None)
    pairwise = sum((one.pairwise for one in through), one_by_one)
    return replace(
        found,
        flops=sum(one.flops for one in each),
        useful=sum(one.useful for one in each),
        full=sum(one.full for one in each),
        partial=sum(one.partial for one in each),
        tiles=sum(one.tiles for one in each),
        computed=sum(one.computed for one in each),
        visited=sum(one.visited for one in each),
        rows=sum(one.rows for one in each),
        columns=sum(one.columns for one in each),
        backward_flops=sum(one.backward_flops for one in each),
        bytes=sum(one.bytes for one in each) + (len(each) + 1) * values,
        backward_bytes=sum(one.backward_bytes for one in each) + 2 * len(each) * values,
        linear=Through(sum(one.pairs for one in through), sum(one.tiles for one in through), pairwise),
    )


def _through_states(found: Cost, plan: Plan, groups: list[Group]) -> Cost:
    """With the operations of the sweeps of linear attention."""
    weights, sizes, sums = plan.relation.spec.weights, found.sizes, []
    forward, backward = sweeps(weights, found.dim, found.dim_v)
    through = tiles = 0
    for number, sweep in enumerate((*forward, *backward)):
        total = 0
        for group in groups:
            h = group.head.heads[0]
            for at, (pass_, looked) in enumerate(zip(plan.of_head(h).passes, group.passes, strict=True)):
                team = team_of(plan, sizes, at)
                team = 1 if len(group.head.heads) % team else team
                done = swept(pass_, sizes, h, group.entry, sweep, team, looked)
                total += sweep.flops(done) * group.times // team
                if not number:
                    through += pass_.times * done.through * group.times // team
                    tiles += done.tiles * group.times // team
        sums.append(total)
    one = 2 * sum(sweep.features + sweep.values for sweep in forward)
    return replace(
        found,
        flops=sum(sums[: len(forward)]),
        useful=one * found.pairs,
        backward_flops=sum(sums[len(forward) :]),
        linear=Through(through, tiles, one * found.computed),
    )


def _corrected(found: Cost, spec: Spec, itemsize: int, contents: Contents | None, inputs: str) -> Cost:
    """With the correction of values: a sweep over pairs of keys, and where it is divided one for the totals.

    In the backward pass both are run again; that of the transposed system takes as much as a gradient of values.
    """
    assert found.linear is not None
    sizes, own = found.sizes, by_head(spec)
    heads = sizes.heads if own else sizes.kv_heads
    of_keys = replace(sizes, n_q=sizes.n, heads=heads, kv_heads=heads)
    plan, key = _planned(earlier(spec), heads, heads, sizes.batch, SEQUENCE), heads * sizes.n * sizes.batch
    widths = (found.dim_v, 1) if spec.weights.divide is not None else (found.dim_v,)
    parts = [cost(plan, of_keys, found.dim, width, itemsize, contents, inputs) for width in widths]
    moved = sum(part.bytes for part in parts) + 4 * key * found.dim_v
    first = parts[0].linear
    assert first is not None
    return replace(
        found,
        flops=found.flops + sum(part.flops for part in parts),
        useful=found.useful + sum(part.useful for part in parts),
        bytes=found.bytes + moved,
        backward_flops=found.backward_flops + sum(part.flops + part.backward_flops for part in parts),
        backward_bytes=found.backward_bytes + moved + sum(part.backward_bytes for part in parts),
        linear=replace(
            found.linear, tiles=found.linear.tiles + first.tiles, pairwise=found.linear.pairwise + first.pairwise
        ),
    )


@lru_cache(maxsize=16)
def _planned(spec: Spec, heads: int, kv_heads: int, batch: int, layout: str = "auto") -> Plan:
    """The plan of what is a call of its own: a branch, or a correction."""
    return choose(lower(spec, heads, kv_heads, batch), None, layout)
