"""Layouts are bijections on positions, sets of tiles agree with the positions in them, and areas are counted right."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnspec.check.check import check_text
from attnspec.codegen.layouts.base import Layout, Listing, tiles_of
from attnspec.codegen.layouts.columns import Columns
from attnspec.codegen.layouts.comb import Comb
from attnspec.codegen.layouts.grid import Grid
from attnspec.codegen.layouts.listed import EMPTY
from attnspec.codegen.layouts.region import Region
from attnspec.codegen.layouts.residue import IDENTITY, Residue
from attnspec.codegen.layouts.slots import Slots
from attnspec.codegen.plan.area import area, residues
from attnspec.codegen.plan.tiling import make_pass
from attnspec.codegen.plan.visits import visits
from attnspec.codegen.tiles import Tile
from attnspec.relation.count import runs
from attnspec.relation.lower import lower
from attnspec.relation.presburger import Pairs, TooHard
from attnspec.relation.sizes import Held, Sizes

Laid = tuple[Layout, Tile, Sizes]


@st.composite
def laid(draw: Any, slots: bool = True) -> Laid:
    """A layout, a tile that goes with it, and the sizes of a call."""
    n = draw(st.integers(1, 70))
    n_q = draw(st.sampled_from([n, n, draw(st.integers(1, 70))]))
    sizes = Sizes(n, n_q, aligned_end=draw(st.booleans()))
    tile = Tile(draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    match draw(st.sampled_from(["residue", "grid", "windows", "columns", "comb", *["slots"] * slots])):
        case "residue":
            return Residue(draw(st.sampled_from([1, 2, 3, 7, 16, 100]))), tile, sizes
        case "grid":
            query, key = ((draw(st.integers(1, 4)), draw(st.integers(1, 4))) for _ in range(2))
            width = int(np.lcm(query[1], key[1])) * draw(st.integers(1, 3))
            return Grid(width, query, key), Tile(query[0] * query[1], key[0] * key[1]), sizes
        case "windows":
            query, key = ((draw(st.integers(1, 4)), draw(st.integers(1, 4))) for _ in range(2))
            tile = Tile(*(a * b + draw(st.integers(0, 3)) for a, b in (query, key)))
            lead = draw(st.integers(0, 5)), draw(st.integers(0, 5))
            return Grid(draw(st.integers(4, 12)), query, key, (tile.rows, tile.columns), lead), tile, sizes
        case "columns":
            period = draw(st.integers(2, 30))
            first = draw(st.integers(0, period - 1))
            return Columns(period, first, draw(st.integers(1, period - first))), tile, sizes
        case "comb":
            rows, parts = draw(st.sampled_from([1, 2, 4, 6])), draw(st.sampled_from([1, 2]))
            tile = Tile(rows * parts, rows)
            segment = draw(st.integers(2, 30))
            return Comb.of(segment, draw(st.integers(1, segment)), tile.rows), tile, sizes
    rounds = draw(st.integers(1, 3))
    return Slots(draw(st.integers(0, rounds - 1)), rounds), tile, Sizes(n, n)


def query_tiles(laid: Laid, c: int) -> range:
    layout, tile, sizes = laid
    return tiles_of(layout.query_slots(sizes, c, tile.rows), tile.rows)


def key_tiles(laid: Laid, c: int) -> range:
    layout, tile, sizes = laid
    return tiles_of(layout.key_slots(sizes, c, tile.columns), tile.columns)


def queries(laid: Laid) -> list[tuple[int, int, NDArray[np.int64]]]:
    """For each query tile its residue, its number and its positions."""
    layout, tile, sizes = laid
    return [
        (c, i, layout.query_positions(i, sizes, c, tile.rows))
        for c in range(layout.residues)
        for i in query_tiles(laid, c)
    ]


def keys(laid: Laid) -> list[tuple[int, int, NDArray[np.int64]]]:
    layout, tile, sizes = laid
    return [
        (c, j, layout.key_positions(j, sizes, c, tile.columns))
        for c in range(layout.residues)
        for j in key_tiles(laid, c)
    ]


def flat(found: list[tuple[int, int, NDArray[np.int64]]]) -> list[int]:
    return sorted(int(x) for _, _, positions in found for x in positions)


@example((Residue(16), Tile(4, 4), Sizes(1, 1)))
@example((Residue(7), Tile(128, 64), Sizes(5, 3)))
@example((Grid(8, (2, 4), (4, 8)), Tile(8, 32), Sizes(3, 11)))
@example((Columns(8, 3, 5), Tile(4, 4), Sizes(12, 2)))
@given(laid())
def test_every_position_has_one_slot(laid: Laid) -> None:
    layout, _, sizes = laid
    n = sizes.n
    if isinstance(layout, Slots):
        assert flat(queries(laid)) == list(range(layout.round * n, (layout.round + 1) * n))
        assert flat(keys(laid)) == list(range(layout.rounds * n))
        return
    assert flat(queries(laid)) == list(range(sizes.first, sizes.first + sizes.n_q))
    own = range(n)
    if isinstance(layout, Columns):
        assert flat(keys(laid)) == [k for k in own if layout.first <= k % layout.period < layout.first + layout.width]
    else:
        assert flat(keys(laid)) == list(own)


@given(laid())
def test_tiles_hold_what_fits_in_them(laid: Laid) -> None:
    """Never more positions than a tile has room for; only tiles at the ends of a sequence (or grid row) hold fewer."""
    layout, tile, _ = laid
    for found, size in ((queries(laid), tile.rows), (keys(laid), tile.columns)):
        assert all(len(positions) <= size for _, _, positions in found)
        if not isinstance(layout, (Grid, Comb)):
            for c in range(layout.residues):
                own = [len(positions) for residue, _, positions in found if residue == c]
                assert all(length == size for length in own[1:-1])
                assert all(own)


@given(laid())
def test_a_tile_holds_queries_and_keys_of_one_residue(laid: Laid) -> None:
    layout = laid[0]
    for found in (queries(laid), keys(laid)):
        if isinstance(layout, Comb):
            found = [(c, i, positions % layout.segment) for c, i, positions in found]
        assert all((positions % layout.residues == c).all() for c, _, positions in found)


def listed(listing: Listing, c: int, tile: int, size: int) -> list[int]:
    """The positions of a tile as a kernel reads them: empty slots stand at its end."""
    own = listing.positions[c * listing.count : (c + 1) * listing.count]
    low, high = max(tile * size, listing.first), min(tile * size + size, listing.first + listing.count)
    found = [int(x) for x in own[low - listing.first : max(low, high) - listing.first]]
    while found and found[-1] == EMPTY:
        found.pop()
    return found


@example((Grid(8, (2, 4), (4, 8)), Tile(8, 32), Sizes(3, 11)))
@given(laid())
def test_lists_are_the_positions(laid: Laid) -> None:
    layout, tile, sizes = laid
    lists = layout.lists(sizes, tile.rows, tile.columns)
    for listing, found, slots, size in (
        (lists[0], queries(laid), layout.query_slots(sizes, 0, tile.rows), tile.rows),
        (lists[1], keys(laid), layout.key_slots(sizes, 0, tile.columns), tile.columns),
    ):
        if listing is None:
            continue
        assert len(listing.positions) == layout.residues * listing.count
        assert range(listing.first, listing.first + listing.count) == slots
        for c, number, positions in found:
            assert listed(listing, c, number, size) == positions.tolist()


@given(laid(slots=False), st.data())
def test_lists_serve_calls_that_hold_less(laid: Laid, data: st.DataObject) -> None:
    """Between a part's slots the list of a longer call has its positions, ascending in each tile, and others around."""
    layout, tile, sizes = laid
    if not any(layout.listed):
        return
    q_start, k_start = data.draw(st.integers(sizes.first, sizes.first + sizes.n_q)), data.draw(st.integers(0, sizes.n))
    rows = data.draw(st.integers(0, sizes.first + sizes.n_q - q_start))
    count = data.draw(st.integers(0, sizes.n - k_start))
    part = replace(sizes, part=Held(q_start, rows, k_start, count, 0, 1, 1, 0, 1))
    for side, (listing, size, start, held) in enumerate(
        zip(layout.lists(sizes, *astuple(tile)), astuple(tile), (q_start, k_start), (rows, count), strict=True)
    ):
        if listing is None:
            continue
        slots = layout.held_slots(side, part)
        assert not slots or listing.first <= slots.start < slots.stop <= listing.first + listing.count
        for c in range(layout.residues):
            every, within = [], set[int]()
            for number in tiles_of(range(listing.first, listing.first + listing.count), size):
                at = listed(listing, c, number, size)
                assert at == sorted(at)
                first = max(number * size, listing.first)
                within |= {x for slot, x in enumerate(at, first) if slot in slots}
                every += at
            assert {x for x in every if start <= x < start + held} == {x for x in within if start <= x < start + held}


def test_strides_are_the_positions() -> None:
    """What needs no list is slot s of residue c at position c + modulus * s."""
    for layout in (IDENTITY, Residue(5)):
        assert layout.lists(Sizes(30, 30), 4, 4) == (None, None)
        for c in range(layout.residues):
            for slot in layout.query_slots(Sizes(30, 30), c, 1):
                assert layout.query_positions(slot, Sizes(30, 30), c, 1).tolist() == [c + layout.modulus * slot]
            assert layout.positions(c, 3).tolist() == [c, c + layout.modulus, c + 2 * layout.modulus]


def holds(text: str, laid: Laid, c: int, x: int, window: range) -> set[int]:
    """The y in a window for which a condition holds, given x."""
    box = Pairs.read(f"({text}) and x = {x} and {window.start} <= y < {window.stop}")
    pieces = box.fix(c=c, **laid[2].parameters(0, 0)).pieces()
    return {
        int(y)
        for run in runs(pieces, 1, x)
        for low, high in zip(run.low, run.high, strict=True)
        for y in range(low, high + 1, run.step)
    }


@given(laid())
def test_bounds_name_the_tiles_that_hold_something(laid: Laid) -> None:
    """The conditions under which loops run: exactly the tiles with a key, at least those with a query."""
    layout, tile, sizes = laid
    first = "(n - n_q)" if sizes.aligned_end else "0"
    rows = layout.query_bounds(tile.rows, first).replace("x", "y")
    for c in {0, layout.residues // 2, layout.residues - 1}:
        window = range(-80, 250)
        want = {j for own, j, positions in keys(laid) if own == c and len(positions)}
        assert holds(layout.key_bounds(tile.columns), laid, c, 0, window) == want
        want = {i for own, i, positions in queries(laid) if own == c and len(positions)}
        found = holds(rows, laid, c, 0, window)
        assert want <= found
        if layout.residues == 1 and not isinstance(layout, (Grid, Comb)):
            assert found == want


@given(laid(), st.data())
def test_sets_of_tiles_are_those_of_positions(laid: Laid, data: st.DataObject) -> None:
    """``tiles`` and ``universe`` as sets against the positions of tiles."""
    layout, tile, _ = laid
    c = data.draw(st.integers(0, layout.residues - 1))
    of_query = {int(q): i for own, i, positions in queries(laid) if own == c for q in positions}
    of_key = {int(k): j for own, j, positions in keys(laid) if own == c for k in positions}
    if not of_query or not of_key:
        return
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from(sorted(of_query)), st.sampled_from(sorted(of_key))), min_size=1, max_size=4)
    )
    text = " or ".join(f"q == {q} and k == {k}" for q, k in pairs)
    pred = check_text(f"attention a {{ attend {text} }}").pred
    points = Pairs.read(" or ".join(f"(x = {q} and y = {k})" for q, k in pairs))
    assert points.within(layout.universe())
    try:
        cut = layout.cut(Region("", pred, points, points), tile)
    except TooHard:
        return
    found = cut.full.union(cut.partial).fix(c=c)
    assert found.equals(Pairs.read(" or ".join(f"(x = {of_query[q]} and y = {of_key[k]})" for q, k in pairs)))


CONDITIONS = (
    "0 <= q - k < 13",
    "k <= q",
    "(q - k) % 4 == 0 and k <= q",
    "k % 5 == 3",
    "q // 16 == k // 16",
    "|q // 8 - k // 8| <= 2 and |q % 8 - k % 8| <= 2",
    "k >= n - 9",
    "false",
    "k < 200",
)


def universe(layout: Layout) -> str:
    """The pairs that tiles of a layout can hold, in the language."""
    match layout:
        case Residue(modulus):
            return f"(q - k) % {modulus} == 0"
        case Columns(period, first, width):
            return f"k % {period} in {first}..{first + width}"
        case Comb(segment, rate):
            return f"q % {segment} % {rate} == k % {segment} % {rate}"
    return "true"


@example((Grid(8, (2, 4), (2, 4)), Tile(8, 8), Sizes(45, 70)), "k <= q")
@example((Comb.of(16, 6, 4), Tile(4, 2), Sizes(45, 70)), "k <= q and q // 16 == k // 16")
@given(laid(slots=False), st.sampled_from(CONDITIONS))
def test_areas_are_counted_as_by_hand(laid: Laid, condition: str) -> None:
    """Tiles and pairs by arithmetic, against loops over all tiles of the call."""
    layout, tile, sizes = laid
    spec = check_text(f"attention a {{ attend {condition}  within {universe(layout)} }}")
    (part,) = lower(spec).classes[0].parts
    region = Region("", part.pred, part.pairs, part.pairs)
    try:
        cut = layout.cut(region, tile)
    except TooHard:
        return
    item = make_pass(region, layout, tile, cut, "end" if sizes.aligned_end else "start")
    if item.tabled and layout.residues > 1:
        return  # never chosen: a table is of one residue
    full = partial = computed = masked = 0
    for c in range(layout.residues):
        for i, j, whole in visits(item, sizes, 0, 0, c):
            q = layout.query_positions(i, sizes, c, tile.rows)
            k = layout.key_positions(j, sizes, c, tile.columns)
            if len(q) and len(k):
                full, partial = full + whole, partial + (not whole)
            computed += len(q) * len(k)
            masked += 0 if whole else len(q) * len(k)
    found = area(cut, layout, tile, sizes, 0, 0)
    assert (found.computed, found.masked) == (computed, masked)
    assert (found.full, found.partial) == (full, partial)


@given(laid())
def test_kinds_of_residues_add_up(laid: Laid) -> None:
    layout, tile, sizes = laid
    assert sum(often for _, often in residues(layout, (), tile, sizes)) == layout.residues


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (IDENTITY, "identity"),
        (Residue(8), "residue(8)"),
        (Grid(64, (4, 8), (2, 8)), "grid(width 64, queries 4 x 8, keys 2 x 8)"),
        (Columns(128, 96, 32), "columns(96 <= k % 128 < 128)"),
        (Columns(8, 7, 1), "columns(k % 8 == 7)"),
        (Slots(1, 4), "slots of round 1"),
        (Comb.of(16, 6, 4), "comb(every 6-th of segments of 16)"),
    ],
)
def test_names(layout: Layout, text: str) -> None:
    assert str(layout) == text
