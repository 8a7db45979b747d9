"""Every shipped spec against a formula written by hand from the paper that its docstring names."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from attnspec.check.check import check_text
from attnspec.spec.spec import Spec
from tests.support.shipped import is_a_mask

Array = Any
FOLDER = files("attnspec.specs")
NAMES = sorted(f.name.removesuffix(".attn") for f in FOLDER.iterdir() if f.name.endswith(".attn"))


def load(name: str, **params: Any) -> Spec:
    return check_text(FOLDER.joinpath(f"{name}.attn").read_text(encoding="utf-8"), None, params, f"{name}.attn")


def block_diffusion(i: Array, j: Array, n: int, block: int) -> Array:
    # The mask of the authors' code: noisy half first, then the clean one.
    half = n // 2
    clean_i, clean_j = i >= half, j >= half
    block_i, block_j = np.where(clean_i, i - half, i) // block, np.where(clean_j, j - half, j) // block
    diagonal = (block_i == block_j) & (clean_i == clean_j)
    offset_causal = (block_i > block_j) & clean_j & ~clean_i
    causal = (block_i >= block_j) & clean_j & clean_i
    return diagonal | offset_causal | causal


def natten(i: Array, j: Array, height: int, width: int, radius: int) -> Array:
    def axis(a: Array, b: Array, size: int) -> Array:
        start = np.clip(a - radius, 0, size - 2 * radius - 1)
        return (start <= b) & (b < start + 2 * radius + 1)

    return axis(i // width, j // width, height) & axis(i % width, j % width, width)


def fixed(i: Array, j: Array, stride: int, summary: int) -> Array:
    ends = np.zeros(i.shape[0], dtype=bool)
    for c in range(1, summary + 1):
        ends[stride - c :: stride] = True
    return (j <= i) & ((i // stride == j // stride) | ends[None, :])


def logsparse(i: Array, j: Array) -> Array:
    out = np.eye(i.shape[0], dtype=bool)
    for row in range(i.shape[0]):
        step = 1
        while row - step >= 0:
            out[row, row - step] = True
            step *= 2
    return out


def longformer_dilated(i: Array, j: Array, h: int, width: int, dilations: list[int]) -> Array:
    out = np.zeros((i.shape[0], i.shape[0]), dtype=bool)
    for row in range(i.shape[0]):
        for c in range(width + 1):
            if row - c * dilations[h] >= 0:
                out[row, row - c * dilations[h]] = True
    return out


def longnet(i: Array, j: Array, h: int, w: int, r: int) -> Array:
    def on(t: Array) -> Array:
        return (t % w) % r == h % r

    return (i // w == j // w) & on(i) & on(j) & (j <= i)


Formula = Callable[[Array, Array, int, int], Array]
FORMULAS: dict[str, tuple[dict[str, Any], Formula]] = {
    "dense": ({}, lambda i, j, n, h: (i >= 0) & (j >= 0)),
    "causal": ({}, lambda i, j, n, h: j <= i),
    "window": ({"width": 5}, lambda i, j, n, h: (i - 5 < j) & (j <= i)),
    "longformer": ({"width": 8, "globals": 2}, lambda i, j, n, h: (abs(i - j) <= 4) | (i < 2) | (j < 2)),
    "longformer_dilated": (
        {"width": 3, "dilations": [1, 2, 3, 1]},
        lambda i, j, n, h: longformer_dilated(i, j, h, 3, [1, 2, 3, 1]),
    ),
    "sinks": ({"start": 2, "recent": 5}, lambda i, j, n, h: (j <= i) & ((j < 2) | (i - j < 5))),
    "segments": ({"size": 7}, lambda i, j, n, h: i // 7 == j // 7),
    "chunked": ({"size": 7}, lambda i, j, n, h: (i // 7 == j // 7) & (j <= i)),
    "prefix_lm": ({"length": 6}, lambda i, j, n, h: (j < 6) | (j <= i)),
    "dilated": ({"width": 3, "rate": 4}, lambda i, j, n, h: np.isin(i - j, [0, 4, 8])),
    "longnet_branch": ({"segment_size": 10, "rate": 3}, lambda i, j, n, h: longnet(i, j, h, 10, 3)),
    "sparse_strided": ({"stride": 5}, lambda i, j, n, h: (j <= i) & ((i - j <= 5) | ((i - j) % 5 == 0))),
    "sparse_fixed": ({"stride": 6, "summary": 2}, lambda i, j, n, h: fixed(i, j, 6, 2)),
    "logsparse": ({"levels": 6}, lambda i, j, n, h: logsparse(i, j)),
    "block_diffusion": ({"block": 4}, lambda i, j, n, h: block_diffusion(i, j, n, 4)),
    "neighborhood_2d": (
        {"width": 6, "radius": 1},
        lambda i, j, n, h: (abs(i // 6 - j // 6) <= 1) & (abs(i % 6 - j % 6) <= 1),
    ),
    "neighborhood_2d_shifted": (
        {"height": 6, "width": 7, "radius": 2},
        lambda i, j, n, h: natten(i, j, 6, 7, 2),
    ),
    "swin": (
        {"width": 7, "window": 3, "shift": 1},
        lambda i, j, n, h: ((i // 7 + 2) // 3 == (j // 7 + 2) // 3) & ((i % 7 + 2) // 3 == (j % 7 + 2) // 3),
    ),
    "axial": ({"width": 6}, lambda i, j, n, h: (i // 6 == j // 6) | (i % 6 == j % 6)),
    "blockwise_causal": ({"block": 5}, lambda i, j, n, h: (j <= i) & (j // 5 >= i // 5 - 1)),
    "shared_question": (
        {"question": 6, "answer": 5},
        lambda i, j, n, h: (j <= i) & ((j < 6) | ((i >= 6) & ((i - 6) // 5 == (j - 6) // 5))),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_shipped_spec_is_what_the_paper_says(name: str) -> None:
    params, formula = FORMULAS[name]
    n, heads = 42, 4
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    mask = load(name, **params).mask(n, heads=heads)[0]
    for h in range(heads):
        assert (mask[h] == formula(i, j, n, h)).all(), h


def test_every_mask_is_compared_with_a_formula() -> None:
    """Those that are more than a mask are compared as a whole with their dense form, elsewhere."""
    assert sorted(FORMULAS) == [name for name in NAMES if is_a_mask(load(name))]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_spec_has_defaults_a_name_and_a_source(name: str) -> None:
    spec = load(name)
    assert spec.name == name
    assert "20" in spec.doc  # the year of its source
    assert check_text(str(spec)).pred is not None


def test_every_neighborhood_has_the_same_size() -> None:
    mask = load("neighborhood_2d_shifted", height=6, width=7, radius=2).mask(42)
    assert (mask.sum(-1) == 25).all()


PATTERNS: dict[str, Callable[[Array, Array], Array]] = {
    "causal": lambda i, j: j <= i,
    "window(3)": lambda i, j: (i - j >= 0) & (i - j < 3),
    "band(2, 1)": lambda i, j: (j >= i - 2) & (j <= i + 1),
    "band(2)": lambda i, j: (j >= i - 2) & (j <= i),
    "dilated(3, 2)": lambda i, j: np.isin(i - j, [0, 2, 4]),
    "segment(4)": lambda i, j: i // 4 == j // 4,
    "global(2)": lambda i, j: (i < 2) | (j < 2),
    "sinks(2)": lambda i, j: (j < 2) & (i >= 0),
    "prefix(3)": lambda i, j: (j < 3) & (i >= 0),
    "strided(3)": lambda i, j: (i - j) % 3 == 0,
    "transposed(causal)": lambda i, j: i <= j,
    "symmetric(window(3))": lambda i, j: abs(i - j) < 3,
    "restarted(window(2), 5)": lambda i, j: (i // 5 == j // 5) & (i - j >= 0) & (i - j < 2),
    "restarted(sinks(1) and causal, size = 5)": lambda i, j: (i // 5 == j // 5) & (j % 5 == 0),
    "blocks(window(2), 3)": lambda i, j: (i // 3 - j // 3 >= 0) & (i // 3 - j // 3 < 2),
    "causal_blocks(window(2), 3)": lambda i, j: (j <= i) & (i // 3 - j // 3 < 2),
    "subsampled(window(2), 3)": lambda i, j: (i % 3 == 0) & (j % 3 == 0) & np.isin(i - j, [0, 3]),
    "subsampled(causal, 3, offset = 1)": lambda i, j: (i % 3 == 1) & (j % 3 == 1) & (j <= i),
    "grid(causal, band(1, 1), 4)": lambda i, j: (j // 4 <= i // 4) & (abs(i % 4 - j % 4) <= 1),
    "neighborhood(4, ry = 1, rx = 2)": lambda i, j: (abs(i // 4 - j // 4) <= 1) & (abs(i % 4 - j % 4) <= 2),
    "neighborhood_3d(2, 3, 0, 1, 1)": lambda i, j: (i // 6 == j // 6) & (abs(i % 3 - j % 3) <= 1),
    "axial(4)": lambda i, j: (i // 4 == j // 4) | (i % 4 == j % 4),
    "powers(3)": lambda i, j: np.isin(i - j, [0, 1, 2, 4]),
}


@pytest.mark.parametrize("call", PATTERNS)
def test_prelude_pattern(call: str) -> None:
    i, j = np.arange(17)[:, None], np.arange(17)[None, :]
    assert (check_text(f"attention a {{ attend {call} }}").mask(17)[0, 0] == PATTERNS[call](i, j)).all()


def test_every_prelude_pattern_is_tested_and_documented() -> None:
    from attnspec.check.expressions.patterns import prelude

    patterns = prelude().patterns.values()
    assert {call.partition("(")[0] for call in PATTERNS} == {p.name.name for p in patterns}
    assert all(p.docs for p in patterns)
