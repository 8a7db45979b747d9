"""Where batch entries or heads know nothing of each other: then the parts of a call have the parts of its mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attnspec
from attnspec.spec.split import apart, own_dims

BATCH, HEADS, N = 4, 4, 6
RANDOM = np.random.default_rng(0)
# A pattern, its inputs, and whether batch entries and heads are apart.
CASES: dict[str, tuple[str, dict[str, Any], bool, bool]] = {
    "mask": ("attend causal", {}, True, True),
    "by entry": ("attend q - k <= b", {}, False, True),
    "by head": ("attend q - k <= h", {}, True, False),
    "by list": ("attend (q - k) % [1, 2, 3, 4][h] == 0", {}, True, False),
    "by number of entries": ("attend q - k <= batch", {}, False, True),
    "by number of heads": ("attend q - k <= heads // kv_heads", {}, True, False),
    "documents": ("input doc: int[batch, n]  attend doc[q] == doc[k]", {"doc": (BATCH, N)}, True, True),
    "shared documents": ("input doc: int[n]  attend doc[q] == doc[k]", {"doc": (N,)}, True, True),
    "of another entry": (
        "input doc: int[batch, n]  attend doc[batch - 1 - b, q] == doc[b, k]",
        {"doc": (BATCH, N)},
        False,
        True,
    ),
    "of one entry": ("input doc: int[batch, n]  attend doc[0, q] == doc[0, k]", {"doc": (BATCH, N)}, False, True),
    "by entry and head": (
        "input width: int[batch, heads]  attend q - k <= width[b, h]",
        {"width": (BATCH, HEADS)},
        True,
        True,
    ),
    "of another head": (
        "input width: int[batch, heads]  attend q - k <= width[b, h // 2]",
        {"width": (BATCH, HEADS)},
        True,
        False,
    ),
    "entries twice": ("input x: int[batch, batch]  attend x[b, 0] <= k", {"x": (BATCH, BATCH)}, False, True),
    "half the entries": ("input x: int[batch // 2]  attend x[b // 2] <= k", {"x": (BATCH // 2,)}, False, True),
    "own divisor": ("input w: int[batch]  attend q // w[b] == k // w[b]", {"w": (BATCH,)}, True, True),
    "divisor of one": ("input w: int[batch]  attend q // w[0] == k // w[0]", {"w": (BATCH,)}, False, True),
    "heads last": ("input x: int[n, heads]  attend x[q, h] <= k", {"x": (N, HEADS)}, True, True),
}


@pytest.mark.parametrize("name", CASES)
def test_parts_of_a_call(name: str) -> None:
    text, shapes, by_entry, by_head = CASES[name]
    spec = attnspec.read(f"attention a {{ {text} }}")
    inputs = {item: RANDOM.integers(1, N, shape) for item, shape in shapes.items()}
    whole = spec.mask(N, None, HEADS, BATCH, HEADS, inputs)
    for by, axis, expected in (("b", 0, by_entry), ("h", 1, by_head)):
        assert apart(spec, by) == expected, by
        if not expected:
            continue
        dims = own_dims(spec, by)
        for start in (0, 2):
            part = slice(start, start + 2)
            mine = {
                item: x if dims[item] is None else x[(slice(None),) * (dims[item] or 0) + (part,)]
                for item, x in inputs.items()
            }
            sizes = (HEADS, 2, HEADS) if by == "b" else (2, BATCH, 2)
            assert (spec.mask(N, None, *sizes, mine) == whole.take(range(start, start + 2), axis)).all()


def test_scores_sinks_rotations_orders_and_drawn_inputs() -> None:
    def both(text: str, **given: Any) -> tuple[bool, bool]:
        spec = attnspec.read(f"attention a {{ {text} }}")
        return apart(spec, "b", **given), apart(spec, "h", **given)

    assert both("score s + 0.5 * b") == (False, True)
    assert both("score s + alibi_slope(h, heads) * (k - q)") == (True, False)
    assert both("input slope: float[heads]  score s + slope[h] * (k - q)") == (True, True)
    assert both("input slope: float[heads]  sink slope[h]") == (True, True)
    assert both("input slope: float[heads]  sink slope[0]") == (True, False)
    assert both("input place: int[batch, n]  rotate rope() at (place[q], place[k] + b)") == (False, True)
    assert both("order by lsh(buckets = 4)  attend q.bucket == k.bucket") == (True, False)
    drawn = "input t: int[batch, n] random(0..n, 1)  attend t[q] == k"
    assert both(drawn) == both(drawn, given=("t",)) == (True, True)
    assert both(drawn, given=()) == (False, True)


@pytest.mark.parametrize(
    ("factor", "by_entry", "by_head"),
    [
        ("h", True, False),
        ("heads", True, False),
        ("batch", False, True),
        ("x[b, h]", True, True),
        ("x[0, h]", False, True),
    ],
)
def test_settings_of_rotations(factor: str, by_entry: bool, by_head: bool) -> None:
    """They are part of what a call computes, as the places by which vectors are turned."""
    rotate = f"rotate rope(frequencies = frequency * (1 + {factor}))"
    spec = attnspec.read(f"attention a {{ input x: float[batch, heads]  attend causal  {rotate} }}")
    assert (apart(spec, "b"), apart(spec, "h")) == (by_entry, by_head)
