"""Packed documents in pieces: each has a state of its own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.linear import TOLERANCE
from tests.support.marks import slow
from tests.support.oracle import tensors
from tests.support.state_cases import PACKED
from tests.support.states import DIM, HEADS, KV_HEADS, REGIMES, cut_anywhere, near


@pytest.mark.parametrize("name", [name if name == "gates" else slow(name) for name in PACKED])
def test_dense_sequences_in_pieces(name: str) -> None:
    cut_anywhere(PACKED[name], "dense", torch.float64, (1e-11, 1e-11), "random")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gates", "channels"])
@pytest.mark.parametrize("regime", REGIMES)
def test_gates_of_any_size(name: str, regime: str) -> None:
    cut_anywhere(PACKED[name], "dense", torch.float64, (1e-11, 1e-11), regime)


@pytest.mark.parametrize("name", [slow("causal"), slow("gates"), slow("delta")])
def test_kernels(name: str) -> None:
    cut_anywhere(PACKED[name], "cpp", torch.float32, TOLERANCE[torch.float32], "random")


def test_packed_sequences_go_on_one_by_one() -> None:
    """However many tokens of each come together: what they give is what each gives alone."""
    gate = "input g: float[batch, heads, n]  linear elu(x) + 1  decay g[b, h, t]  divide total"
    alone = attnspec.compile(f"attention a {{ {gate}  attend causal }}", target="dense")
    cu = "input cu: int[n] offsets  attend causal and cu[q] == cu[k]"
    packed = attnspec.compile(f"attention a {{ {gate}  {cu} }}", target="dense")
    lengths, given, state, outs = [9, 5, 7], [], None, [list[Tensor]() for _ in range(3)]
    for length in lengths:
        vectors = [t.detach().double() for t in tensors(length, length, HEADS, KV_HEADS, 1, DIM, 6)]
        given.append([*vectors, -torch.rand(1, HEADS, length).double()])
    at = [0, 0, 0]
    for step in ([4, 1, 2], [1, 1, 1], [0, 3, 4], [4, 0, 0]):
        parts = [[t[:, :, i : i + m] for t in own] for own, i, m in zip(given, at, step, strict=True)]
        q, k, v, g = (torch.cat(some, 2) for some in zip(*parts, strict=True))
        ends = torch.tensor([0, *itertools.accumulate(step)])
        out, state = packed(q, k, v, g=g, cu=ends, state=state, return_state=True)
        for place, (part, more) in enumerate(zip(out.split(step, 2), step, strict=True)):
            outs[place].append(part)
            at[place] += more
    assert state is not None
    assert state.shape == (3, HEADS, DIM, 7)
    for place, (q, k, v, g) in enumerate(given):
        out, last = alone(q, k, v, g=g, return_state=True)
        near("out", torch.cat(outs[place], 2), out, 1e-11)
        near("state", state[place : place + 1], last, 1e-11)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "attend k // 4 <= q // 4 and cu[q] == cu[k]",
            "wherever they begin, and this pattern only after multiples of 4",
        ),
        ("attend causal and cu[q] == cu[k]  rotate rope()", "turn them before the call"),
        ("input doc: int[n] sorted  attend causal and cu[q] == cu[k] and doc[q] == doc[k]", "one input says"),
    ],
)
def test_packed_sequences_without_states_say_why(lines: str, message: str) -> None:
    attend, (q, k, v) = attnspec.compile(f"attention a {{ input cu: int[n] offsets {lines} linear x }}"), tensors(12)
    given = {"doc": torch.zeros(12, dtype=torch.int64)} if "doc:" in lines else {}
    with pytest.raises(CallError, match=message):
        attend(q, k, v, return_state=True, cu=torch.tensor([0, 5, 12]), **given)
