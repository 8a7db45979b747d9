"""Inputs over ranks: whole or as shards, and where their gradients go."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.check.check import check_text
from attnspec.codegen.ranks.shards import shards
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.distributed.inputs import require_alike, whole_inputs
from tests.support.ranks import Simulated, simulate
from tests.support.spread import Layer, results, spread

SPEC = check_text(
    """attention a {
        input doc: int[batch, n] sorted  input bias: float[heads, n]  input slope: float[heads]
        within causal and doc[q] == doc[k]  score s + bias[h, k] + slope[h]
    }"""
)


def _shard(t: torch.Tensor, places: list[int], rows: int) -> torch.Tensor:
    own = t[..., places]
    return torch.cat([own, own.new_full((*own.shape[:-1], rows - len(places)), 77)], -1)


@pytest.mark.parametrize("kind", ["contiguous", "zigzag", "residue"])
@pytest.mark.parametrize("whole", [False, True])
def test_whole_or_as_shards(kind: str, whole: bool) -> None:
    n, ranks = 11, 3
    dealt = shards(kind, n, ranks)
    doc, bias, slope = torch.arange(2 * n).view(2, n) // 4, torch.randn(2, n), torch.randn(2)
    held = [[int(x) for x in dealt.positions(rank) if x >= 0] for rank in range(ranks)]

    def one(transport: Simulated) -> tuple[torch.Tensor, ...]:
        rank = transport.rank
        own = {"doc": doc, "bias": bias.clone(), "slope": slope.clone()}
        if not whole:
            own = {name: t if name == "slope" else _shard(t, held[rank], dealt.rows) for name, t in own.items()}
        for name in ("bias", "slope"):
            own[name].requires_grad_()
        found = whole_inputs(SPEC, transport, dealt, own)
        assert torch.equal(found["doc"], doc)
        assert torch.equal(found["bias"], bias)
        weights = (rank + 1) * torch.arange(2.0 * n).view(2, n)
        loss = (found["bias"] * weights).sum() + (rank + 1) * found["slope"].sum()
        return torch.autograd.grad(loss, [own["bias"], own["slope"]])

    for rank, (of_bias, of_slope) in enumerate(simulate(ranks, one, seed=ranks).results):
        want = 6 * torch.arange(2.0 * n).view(2, n)
        if not whole:
            want = _shard(want, held[rank], dealt.rows)
            want[:, len(held[rank]) :] = 0
        assert torch.equal(of_bias, want)
        assert torch.equal(of_slope, torch.full((2,), 6.0))


def test_what_is_neither_is_named() -> None:
    def one(transport: Simulated) -> None:
        whole_inputs(SPEC, transport, shards("contiguous", 11, 3), {"doc": torch.zeros(2, 7, dtype=torch.long)})

    with pytest.raises(CallError, match=r"`doc` has 7 entries by position: over 3 ranks it has 11 .* and 4 as a shard"):
        simulate(3, one)


def test_what_differs_between_ranks_is_named() -> None:
    def one(transport: Simulated) -> None:
        doc = torch.arange(6) // (2 if transport.rank in (1, 3) else 3)
        require_alike("packed", transport, {"doc": doc, "other": torch.zeros(2)}, torch.device("cpu"))

    with pytest.raises(CallError, match="packed: all ranks are given the same `doc`, whole: ranks 1, 3 got another"):
        simulate(4, one)


def test_what_is_missing_unknown_or_for_pieces_is_named() -> None:
    turned = """attention a {
        input doc: int[batch, n] sorted  within causal and doc[q] == doc[k]
        rotate rope() at (q - first(doc, q), k - first(doc, k))
    }"""

    def one(transport: Simulated) -> None:
        for text, given, said in (
            (turned, {}, r"a: input `doc` is missing"),
            (turned, {"dok": torch.zeros(1, 20)}, "no input `dok`; did you mean `doc`"),
            ("infini", {"gate": torch.zeros(4), "x": torch.zeros(4)}, "infini: there is no input `x`"),
            (
                "causal",
                {"state": torch.zeros(4)},
                "causal: over ranks there is no state=: .* hand on states by themsel",
            ),
            ("linear", {"return_state": True}, "linear: over ranks there is no return_state=: a call is all of a seq"),
        ):
            far = attnspec.distribute(attnspec.compile(text), transport, n=20, heads=4, dim=16)
            q = far.shard(torch.zeros(1, 4, 20, 16), 2)
            with pytest.raises(CallError, match=said):
                far(q, q, q, **given)  # type: ignore[arg-type]

    simulate(2, one)


def test_an_empty_sequence_has_gradients_of_inputs_by_position() -> None:
    text = "attention a { input late: float[n]  within causal  score s + late[k] }"
    layer = Layer(text, n=0, inputs={"late": torch.zeros(0)})
    want = results(attnspec.compile(text), *layer.vectors(), layer)
    for found, _ in simulate(2, lambda transport: spread(transport, layer)).results:
        assert [t.shape for t in found] == [t.shape for t in want]
