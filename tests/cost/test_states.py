"""Costs of weights that are products of features: what kernels do, counted tile by tile from the mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import attnspec
from attnspec.codegen.cost.roofline import Device
from attnspec.codegen.plan.plan import Pass
from attnspec.relation.sizes import Sizes
from attnspec.report.insight import insight
from attnspec.runtime.attention import Attention
from attnspec.runtime.bench import ceilings
from attnspec.runtime.bench.predicted import predicted
from attnspec.runtime.bench.setup import Setup

LINES = "linear elu(x) + 1  divide total"
PATTERNS = {
    "causal": f"attention a {{ attend k <= q  {LINES} }}",
    "strict": f"attention a {{ attend k < q  {LINES} }}",
    "dense": f"attention a {{ attend k <= k  {LINES} }}",
    "window": f"attention a {{ attend 0 <= q - k < 300  {LINES} }}",
    "short window": f"attention a {{ attend 0 <= q - k < 40  {LINES} }}",
    "chunked": f"attention a {{ attend k // 256 == q // 256 and k <= q  {LINES} }}",
    "dilated": f"attention a {{ attend 0 <= q - k < 1200 and (q - k) % 4 == 0  {LINES} }}",
    "documents": f"attention a {{ input doc: int[n] sorted  attend k <= q and doc[q] == doc[k]  {LINES} }}",
    "sum": "attention a { attend k <= q  linear x }",
    "decay": f"attention a {{ attend k <= q  {LINES}  decay -0.1 }}",
}
DIM, DIM_V = 64, 48

Tiles = dict[int, dict[int, bool]]
"""The tiles that an outer tile sees, and whether in full."""
Held = dict[int, int]
LONGER = 512


def seen(pass_: Pass, sizes: Sizes, c: int, mask: NDArray[np.bool_], keys: bool) -> tuple[Tiles, Held, Held]:
    """The tiles of a residue that hold pairs, by outer tile, and how many positions tiles of either side hold.

    Tiles are cut on positions, whatever the call: ``mask`` is that of a longer one.
    """
    layout, tile, whole = pass_.layout, pass_.tile, Sizes(len(mask), len(mask))
    rows, columns = pass_.query_tiles(sizes, c), pass_.key_tiles(sizes, c)
    found: Tiles = {}
    for i in rows:
        for j in columns:
            at = np.ix_(layout.query_positions(i, whole, c, tile.rows), layout.key_positions(j, whole, c, tile.columns))
            if mask[at].any():
                found.setdefault(j if keys else i, {})[i if keys else j] = bool(mask[at].all())
    q = {i: len(layout.query_positions(i, sizes, c, tile.rows)) for i in rows}
    k = {j: len(layout.key_positions(j, sizes, c, tile.columns)) for j in columns}
    return (found, k, q) if keys else (found, q, k)


def operations(
    pass_: Pass, sizes: Sizes, mask: NDArray[np.bool_], dims: tuple[int, int], keys: bool, group: int = 1
) -> int:
    """Multiply-adds of one sweep for the query heads of one key head, with states as sets of tiles."""
    f, v = dims
    outer, inner = (1, group) if keys else (group, 1)
    size = pass_.tile.rows if keys else pass_.tile.columns
    total = 0
    for c in range(pass_.layout.residues):
        tiles, here, there = seen(pass_, sizes, c, mask, keys)
        held: set[int] = set()
        unsaved = 0
        for o in sorted(tiles, reverse=keys):
            rows = here[o] * outer
            new = {t for t, full in tiles[o].items() if full}
            total += sum((f + v) * rows * there[t] * inner for t, full in tiles[o].items() if not full)
            if not new:
                continue
            afresh = len(new ^ held) >= len(new)
            moves = new if afresh else new ^ held
            one_by_one = (f + v) * rows * len(new) * size * inner
            if one_by_one + unsaved < f * v * (len(moves) * size * inner + rows):
                unsaved += max(0, one_by_one - f * v * rows)
                total += (f + v) * rows * sum(there[t] for t in new) * inner
                continue
            total += f * v * (rows + sum(there[t] for t in moves) * inner)
            held, unsaved = new, 0
    return total


def inputs_of(name: str, n: int) -> dict[str, torch.Tensor]:
    ends = torch.tensor([3, 190, 400, 700])
    return {"doc": (torch.arange(n)[:, None] >= ends).sum(1)} if name == "documents" else {}


def by_force(attend: Attention, name: str, n: int, n_q: int, group: int = 1) -> Iterator[int]:
    """The operations of all sweeps of one key head: output, v, q, k."""
    long, one = n + LONGER, int(attend.spec.weights.divide is not None)
    mask = attend.mask(long, **inputs_of(name, long)).reshape(long, long).numpy()
    (pass_,) = attend.plan.passes
    sizes = attend._call_sizes(n, n_q, 1, None, 1)
    for dims, keys in (
        ((DIM, DIM_V + one), False),
        ((DIM, DIM_V), True),
        ((DIM_V + one, DIM), False),
        ((DIM_V + one, DIM), True),
    ):
        yield 2 * operations(pass_, sizes, mask, dims, keys, group)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("n", [1, 64, 203, 900])
def test_operations_are_those_of_the_tiles(name: str, n: int) -> None:
    attend = attnspec.compile(PATTERNS[name])
    found = attend.cost(n=n, heads=3, batch=2, dim=DIM, dim_v=DIM_V, **inputs_of(name, n))
    forward, *backward = by_force(attend, name, n, n)
    assert (found.flops, found.backward_flops) == (6 * forward, 6 * sum(backward))
    assert found.exact
    assert found.kernel


def test_heads_that_share_keys_share_states_unless_something_decays() -> None:
    for name, group in (("causal", 3), ("window", 3), ("decay", 1)):
        attend, n = attnspec.compile(PATTERNS[name]), 900
        found = attend.cost(n=n, heads=6, kv_heads=2, dim=DIM, dim_v=DIM_V)
        forward, *backward = by_force(attend, name, n, n, group)
        times = 6 // group
        assert (found.flops, found.backward_flops) == (times * forward, times * sum(backward)), name
        assert group == 1 or found.flops < 6 * next(by_force(attend, name, n, n))


def test_few_queries_do_not_build_states() -> None:
    attend = attnspec.compile(PATTERNS["causal"])
    for n_q in (1, 20, 130):
        found = attend.cost(n=900, n_q=n_q, dim=DIM, dim_v=DIM_V)
        assert found.flops == next(by_force(attend, "causal", 900, n_q))
        assert found.linear is not None
        assert (found.linear.tiles > 0) == (n_q == 130)


@pytest.mark.slow
def test_cost_grows_with_the_length() -> None:
    for name in ("causal", "window", "chunked", "dilated", "dense"):
        attend = attnspec.compile(PATTERNS[name])
        one, more = attend.cost(n=1 << 17), attend.cost(n=1 << 19)
        assert 3.98 < more.flops / one.flops < 4.02, name
        assert 3.98 < more.backward_flops / one.backward_flops < 4.02, name
        assert one.apart < 0.4
        assert one.linear is not None
        assert one.linear.pairwise == 2 * (64 + 65) * one.computed


@pytest.mark.parametrize("dim", [32, 128, 256])
def test_cost_grows_with_the_length_whatever_the_dimension(dim: int) -> None:
    """A state of 128 by 128 does not pay for any single tile of 64 rows, and does for all of them."""
    attend = attnspec.compile(PATTERNS["causal"])
    one, more = (attend.cost(n=n, dim=dim) for n in (1 << 15, 1 << 17))
    assert 3.9 < more.flops / one.flops < 4.1
    assert 3.9 < more.backward_flops / one.backward_flops < 4.1


def test_branches_are_added_up() -> None:
    lines = "attend window(64)", "attend k <= q  linear exp(x)  divide total"
    attend = attnspec.compile(f"attention a {{ mix {{ branch {{ {lines[0]} }} branch {{ {lines[1]} }} }} }}")
    each = [attnspec.compile(f"attention a {{ {line} }}") for line in lines]
    found, apart = attend.cost(n=4000, heads=2), [one.cost(n=4000, heads=2) for one in each]
    assert found.flops == sum(one.flops for one in apart)
    assert found.backward_flops == sum(one.backward_flops for one in apart)
    assert found.pairs == sum(one.pairs for one in apart)
    assert found.linear is not None
    assert apart[1].linear is not None
    assert found.linear.pairs == apart[1].linear.pairs
    assert found.bytes > sum(one.bytes for one in apart)


def test_a_correction_is_a_sweep_over_pairs_of_keys() -> None:
    """One of the strict pattern, of key heads; where it is divided a second one, of totals."""
    strict = attnspec.compile("attention a { attend k < q  linear x }").cost(n=2000, heads=2)
    for lines, more in (("", 0), ("divide total", 1)):
        text = f"attention a {{{{ attend causal  linear x  {lines}  {{}} }}}}"
        without, found = (
            attnspec.compile(text.format(line)).cost(n=2000, heads=8, kv_heads=2) for line in ("", "delta 0.5")
        )
        narrow = attnspec.compile("attention a { attend k < q  linear x }").cost(n=2000, heads=2, dim_v=1)
        both = strict.flops + more * narrow.flops
        assert found.flops == without.flops + both
        back = strict.backward_flops + more * narrow.backward_flops
        assert found.backward_flops == without.backward_flops + both + back
        assert found.bytes > without.bytes
        assert found.kernel


NO_KERNEL = "attention a { attend causal  linear exp(x)  divide each total  delta 1.0 }"


def test_weights_without_kernels_have_no_kernels_cost() -> None:
    attend = attnspec.compile(NO_KERNEL, target="dense")
    found = attend.cost(n=256, heads=2)
    assert not found.kernel
    assert found.flops >= 4 * 64 * found.dense
    assert "no kernel: dense, n^2" in str(found)
    shown = insight(attend.spec, Sizes(256, 256, 2, 2), 64, "float32", 8)
    assert shown.predictions == ()
    assert shown.exponent == pytest.approx(2.0)


def test_divisors_of_each_feature_are_sweeps_of_their_own() -> None:
    """Of one feature and as many values as there are features, and one more where these are exponentials."""
    found = {
        line: attnspec.compile(f"attention a {{ attend causal  linear {line} }}").cost(n=4096, heads=2)
        for line in ("x", "relu(x)  divide each total", "exp(x)  divide each total")
    }
    none, plain, exponential = found.values()
    assert all(one.kernel for one in found.values())
    assert none.flops < plain.flops < exponential.flops < 2 * none.flops
    assert exponential.flops - plain.flops == plain.flops - none.flops
    assert none.backward_flops < plain.backward_flops < exponential.backward_flops < 2 * none.backward_flops


def test_decay_that_looks_ahead_has_no_kernel() -> None:
    for within, kernel in (("k <= q", True), ("q - k < 9", False)):
        for line in ("linear x", ""):  # beside softmax too
            attend = attnspec.compile(f"attention a {{ attend {within}  {line}  decay -0.1 }}", target="dense")
            assert attend.cost(n=100).kernel == kernel


def test_inspect_counts_documents_by_example() -> None:
    spec = attnspec.read("linear_documents")
    shown = insight(spec, Sizes(4096, 4096, 1, 1), 64, "float32", 8)
    assert shown.exact
    assert shown.exponent is not None
    assert 0.8 < shown.exponent < 1.2


def test_bench_predicts_what_kernels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device("d", {"float32": 1e9}, 1e15, "")
    monkeypatch.setattr(ceilings, "remembered", lambda: device)
    setup = Setup(Sizes(2048, 2048, 2, 2), 64, torch.float32, False, 1)
    found = predicted(attnspec.compile("linear"), setup, {})
    assert found.states
    assert found.seconds(False) == pytest.approx(attnspec.compile("linear").cost(n=2048, heads=2).flops / 1e9)
    dense = predicted(attnspec.compile(NO_KERNEL, target="dense"), setup, {})
    assert (dense.states, dense.times) == (False, None)


def test_gates_by_channel_are_read() -> None:
    without, found = (
        attnspec.compile(text).cost(n=2000, heads=8, kv_heads=2)
        for text in ("attention a { attend causal  linear x }", "gla")
    )
    assert found.kernel
    assert found.bytes == without.bytes + 4 * 8 * 2000 * 64
