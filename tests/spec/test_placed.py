"""A pattern in its place is, where its sequence lies, the pattern of a sequence by itself, and nothing elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attnspec
from attnspec.spec.placed import placed

N, HEADS = 23, 2
SPANS = [(0, 3, 23), (1, 0, 17)]
"""Batch entries with their first real position, and one past the last."""
DOCUMENTS = [(0, 0, 6), (0, 6, 7), (0, 7, 23), (1, 0, 15), (1, 15, 23)]
PATTERNS = {
    "sinks": {"start": 2, "recent": 5},
    "dilated": {"width": 3, "rate": 2},
    "chunked": {"size": 4},
    "longformer": {"width": 4, "globals": 1},
    "longnet": {},
    "sparse_fixed": {},
}
FROM_THE_END = "attention late { attend causal and n - q <= 9  attend q == n - 1 }"


def inputs(ways: str) -> dict[str, Any]:
    number = np.zeros((2, N), dtype=np.int64)
    for b, low, _ in DOCUMENTS:
        number[b, low:] += 1
    places = {
        "real_start": np.array([low for _, low, _ in SPANS]),
        "real_stop": np.array([high for _, _, high in SPANS]),
    }
    return places if ways == "padded" else {"document": number}


@pytest.mark.parametrize("ways", ["padded", "packed"])
@pytest.mark.parametrize("name", [*PATTERNS, "late"])
def test_masks(name: str, ways: str) -> None:
    """Also where rows are the last ones only."""
    spec = attnspec.read(FROM_THE_END) if name == "late" else attnspec.read(name, params=PATTERNS[name])
    made = placed(spec, frozenset({ways}))
    again = attnspec.read(str(made))
    expected = np.zeros((2, HEADS, N, N), dtype=spec.mask(1).dtype)
    for b, low, high in SPANS if ways == "padded" else DOCUMENTS:
        expected[b, :, low:high, low:high] = spec.mask(high - low, heads=HEADS)[0]
    if ways == "padded":  # what rows of padding see matters to nobody
        expected[0, :, :3] = made.mask(N, heads=HEADS, batch=2, inputs=inputs(ways))[0, :, :3]
        expected[1, :, 17:] = made.mask(N, heads=HEADS, batch=2, inputs=inputs(ways))[1, :, 17:]
        assert not expected[0, :, :, :3].any()
        assert not expected[1, :, :, 17:].any()
    for n_q in (N, 4):
        found = again.mask(N, n_q, HEADS, batch=2, inputs=inputs(ways))
        assert (found == expected[:, :, N - n_q :]).all()


def test_the_past_stays_the_past_in_documents() -> None:
    """Kernels of decays are for patterns that look at no later key, which must be seen without the documents."""
    assert "attend k <= q\n" in str(placed(attnspec.read("causal"), frozenset({"packed"})))


def test_documents_apart() -> None:
    """Positions go on through all of them."""
    spec = attnspec.read("sinks", params={"start": 2, "recent": 5})
    given = inputs("packed")
    found = placed(spec, frozenset({"apart"})).mask(N, batch=2, inputs=given)[:, 0]
    number = given["document"]
    assert (found == (spec.mask(N)[0, 0] & (number[:, :, None] == number[:, None, :]))).all()


def test_parts_of_a_sequence() -> None:
    """Keys and queries from some position on, with padding before, and holes in what is real."""
    spec = attnspec.read(FROM_THE_END)
    made = placed(spec, frozenset({"padded", "offset", "holes"}))
    real = np.ones((2, 12), dtype=bool)
    real[0, 7] = False
    given = {
        "real_start": np.array([3, 0]),
        "real_stop": np.array([99, 99]),
        "query_start": np.array([14, 14]),
        "key_start": np.array([8, 8]),
        "real": real,
    }
    found = made.mask(12, 5, batch=2, inputs=given)[:, 0]
    for b, start in ((0, 3), (1, 0)):
        whole = spec.mask(19 - start)[0, 0]
        assert (found[b, :, :11] == (whole[14 - start :, 8 - start :] & real[b, :11])).all()


@pytest.mark.slow
@pytest.mark.parametrize("ways", ["padded", "packed"])
@pytest.mark.parametrize("name", [*PATTERNS, "alibi", "rope", "softcap", "linear", "linear_window", "lolcats"])
def test_outputs(name: str, ways: str) -> None:
    """By kernels, with score lines, rotations and states."""
    params = PATTERNS.get(name, {})
    alone = attnspec.compile(name, params=params)
    attend = attnspec.compile(str(placed(alone.spec, frozenset({ways}))))
    q, k, v = torch.randn(3, 2, 8, N, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    given = {key: torch.from_numpy(value) for key, value in inputs(ways).items()}
    found = attend(q, k, v, inputs=given)
    for b, low, high in SPANS if ways == "padded" else DOCUMENTS:
        expected = alone(*(t[b : b + 1, :, low:high] for t in (q, k, v)))
        torch.testing.assert_close(found[b : b + 1, :, low:high], expected, atol=1e-5, rtol=1e-5)
