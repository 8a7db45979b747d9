"""One sequence over many ranks: results and gradients are those of one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import attnspec
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.distributed.transport import Expected, Pending, Sent
from tests.support.ranks import Simulated, simulate
from tests.support.spread import Layer, check

SINK = "attention a { input logit: float[heads]  within causal  sink logit[h] }"
BIAS = "attention a { input bias: float[heads, n_q, n]  attend window(9)  score s + bias[h, q, k] }"
LATER = "attention a { input late: float[n]  within causal  sink late[q] }"
DETACHED = (
    "attention a { input logit: float[heads]  within causal  sink logit[h]"
    "  mix w in [4, 12] weights detached { attend window(w) } }"
)
SHARED = (
    "attention a { input gate: float[heads]  sink 0.5  mix {"
    " branch share sigmoid(gate[h]) { attend causal } branch share 1.0 - sigmoid(gate[h]) { attend |q - k| <= 3 } } }"
)
OWN_LINES = (
    "attention a { mix { branch { attend causal score s * 1.5 } branch { attend |q - k| <= 3 rotate rope() } } }"
)
NUMBERS = {"logit": torch.tensor([0.5, -1.0, 2.0, 0.0]), "gate": torch.tensor([0.5, -1.0, 2.0, 0.0])}
DOCUMENTS = torch.arange(50).div(13, rounding_mode="floor").expand(2, 50).contiguous()
BRANCHES = {"branches": [[8, 1], [16, 2], [40, 5]]}


def test_causal_over_three_ranks() -> None:
    first = check(Layer("causal"), 3)
    second = check(Layer("causal"), 3, seed=1)
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["contiguous", "zigzag", "residue", "grid", "greedy"])
@pytest.mark.parametrize(
    "layer",
    [
        Layer("causal"),
        Layer("causal", dtype=torch.bfloat16),
        Layer("window", params={"width": 9}, dtype=torch.float16),
        Layer("longformer", n=300, params={"width": 16}),
        Layer("dilated", n=128, params={"width": 5, "rate": 4}),
        Layer(SINK, inputs={"logit": NUMBERS["logit"]}),
        Layer(BIAS, inputs={"bias": torch.linspace(-2, 2, 4 * 50 * 50).sin().view(4, 50, 50)}),
        Layer(LATER, inputs={"late": torch.linspace(-2, 2, 50)}),
        Layer("rope"),
        Layer("alibi"),
        Layer("packed", inputs={"doc": DOCUMENTS}),
        Layer(DETACHED, inputs={"logit": NUMBERS["logit"]}),
        Layer(SHARED, inputs={"gate": NUMBERS["gate"]}, lse=False),
        Layer(OWN_LINES),
        Layer("longnet", params=BRANCHES),
        Layer("longnet", heads=6, kv_heads=6, params=BRANCHES),
    ],
    ids=lambda layer: f"{layer.text[:24]}-{layer.dtype}",
)
def test_over_four_ranks(layer: Layer, shard: str) -> None:
    check(layer, 4, shard=shard)


def test_what_was_made_lives_as_long_as_another_one_or_a_graph_needs_it() -> None:
    attend, sizes = attnspec.compile("causal"), {"n": 50, "heads": 4, "kv_heads": 2, "dim": 16}

    def run(transport: Simulated) -> None:
        first, second = (attnspec.distribute(attend, transport, **sizes) for _ in range(2))  # type: ignore[arg-type]
        q, k, v = (first.shard(torch.randn(1, heads, 50, 16), 2).requires_grad_() for heads in (4, 2, 2))
        out = second(q, k, v)
        del second
        assert torch.equal(first(q, k, v), out)
        del first
        torch.autograd.grad(out.sum(), [q, k, v])

    simulate(2, run)


def test_what_is_no_shard_is_refused_by_name() -> None:
    attend = attnspec.compile("causal")

    def run(transport: Simulated) -> None:
        far = attnspec.distribute(attend, transport, heads=2, dim=16)
        q = torch.randn(1, 2, 30, 16)
        with pytest.raises(CallError, match="q has 30 rows, and of which length"):
            far(q, q, q)
        part = far.shard(q, 2)
        assert part.shape[2] == 15
        with pytest.raises(CallError, match="k has 30 rows, which is no shard: each of 2 ranks has 15 of a sequence"):
            far(part, q, part)
        with pytest.raises(CallError, match="planned for heads = 2, and the tensors have 1"):
            far(part[:, :1], part[:, :1], part[:, :1])
        far.shard(torch.zeros(29), 0)
        with pytest.raises(CallError, match=r"pad = -100.5 cannot stand in a tensor of torch.int64"):
            far.shard(torch.arange(30), 0, pad=-100.5)
        with pytest.raises(CallError, match="several lengths"):
            far(part, part, part)
        with pytest.raises(CallError, match="which length of sequences is meant is not known"):
            _ = far.positions
        assert far(part, part, part, n=30).shape == part.shape

    simulate(2, run)


def test_ranks_that_are_not_about_to_do_the_same_are_named() -> None:
    attend = attnspec.compile("causal")

    def run(transport: Simulated) -> None:
        far = attnspec.distribute(attend, transport, n=30, heads=2, dim=16)
        q = torch.randn(1, 2, 10, 16)
        scale = 2.0 if transport.rank == 1 else None
        with pytest.raises(CallError, match="of rank 1 differ"):
            far(q, q, q, scale=scale)

    simulate(3, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"), [("width", "same `width`, whole: rank 1 got"), ("bias", "of rank 1 differ")]
)
def test_inputs_that_are_not_alike_are_named(name: str, message: str) -> None:
    """Whole numbers by their values, floats where some ranks want gradients of them."""
    text = (
        "attention a { input width: int[heads]  input bias: float[heads]  attend 0 <= q - k < width[h]  sink bias[h] }"
    )
    attend = attnspec.compile(text)

    def run(transport: Simulated) -> None:
        far, odd = attnspec.distribute(attend, transport, n=30, heads=2, dim=16), transport.rank == 1
        q, width = torch.randn(1, 2, 10, 16), torch.tensor([3, 5 + (odd and name == "width")])
        bias = torch.zeros(2, requires_grad=not (odd and name == "bias"))
        with pytest.raises(CallError, match=message):
            far(q, q, q, width=width, bias=bias)

    simulate(3, run)


def test_what_cannot_be_distributed_is_refused_at_once() -> None:
    class Alone:
        rank, ranks, name = 0, 2, "alone"

        def post(self, sent: Sequence[Sent], expected: Sequence[Expected]) -> Pending:
            raise AssertionError

    sizes: dict[str, Any] = {"n": 40, "heads": 4, "dim": 16}
    causal = attnspec.compile("causal")
    for attend, more, message in (
        (attnspec.compile("reformer"), {}, "^reformer cannot be shared among ranks by a plan: it orders all positions"),
        (attnspec.compile("causal", target="dense"), {}, 'target="dense"'),
        ("causal", {}, "takes what attnspec.compile returns"),
        (causal, {"shard": "round"}, "^causal: shards are contiguous, zigzag"),
        (causal, {"kv_heads": 3}, "4 heads cannot be shared among 3 key heads"),
        (causal, {"machine": "abacus"}, "machine is one of h100"),
        (causal, {"dtype": torch.float64}, "dtype is torch.float64"),
        (causal, {"n": -1}, "n is a number of at least 0, not -1"),
        (causal, {"chunks": 0}, "chunks is a number of at least 1, not 0"),
    ):
        with pytest.raises(CallError, match=message):
            attnspec.distribute(attend, Alone(), **{**sizes, **more})  # type: ignore[arg-type]
    with pytest.raises(CallError, match="init_process_group"):
        attnspec.distribute(causal, **sizes)
    far = attnspec.distribute(causal, Alone(), **sizes)
    q = torch.randn(1, 4, 20, 16)
    for given, more, message in (
        ((None, q, q), {}, "q must be a tensor"),
        ((q[0], q, q), {}, "q must have 4 dimensions"),
        ((q, q.double(), q), {}, "k is torch.float64"),
        ((q, q, q), {"n": 41}, "this is for sequences of 40, not of n = 41"),
    ):
        with pytest.raises(CallError, match=message):
            far(*given, **more)
    with pytest.raises(NotImplementedError, match="rules for torch"):
        torch.func.grad(lambda x: far(x, x, x).sum())(q)
    with pytest.raises(CallError, match="gather has no gradients"):
        far.gather(q.clone().requires_grad_(), 2)
    with pytest.raises(CallError, match="dimension 2 of the tensor has 20 entries; sequences have 40"):
        far.shard(q, 2)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["causal", SINK])
def test_kernels_of_triton(text: str) -> None:
    inputs = {"logit": NUMBERS["logit"][:2]} if text == SINK else {}
    check(Layer(text, n=40, heads=2, kv_heads=1, batch=1, inputs=inputs, target="triton"), 2, shard="contiguous")


@pytest.mark.slow
def test_rows_of_padding_see_nothing_and_are_seen_by_none() -> None:
    attend = attnspec.compile(SINK)

    def run(transport: Simulated) -> None:
        torch.manual_seed(0)
        far = attnspec.distribute(attend, transport, n=41, heads=4, dim=16, shard="zigzag")
        q, k, v = (far.shard(torch.randn(1, 4, 41, 16), 2, pad=torch.nan).requires_grad_() for _ in range(3))
        logit = NUMBERS["logit"].clone().requires_grad_()
        out, lse = far(q, k, v, return_lse=True, logit=logit)
        padding = far.positions < 0
        assert bool((out[:, :, padding] == 0).all())
        assert bool((lse[:, :, padding] == -torch.inf).all())
        dout = torch.ones_like(out)
        dout[:, :, padding] = torch.nan
        *found, dlogit = torch.autograd.grad(out, [q, k, v, logit], dout)
        assert all(bool(t.isfinite().all()) and bool((t[:, :, padding] == 0).all()) for t in found)
        assert bool(dlogit.isfinite().all())

    simulate(3, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        *(Layer("causal", n=n) for n in (1, 2, 3)),
        Layer("attention a { attend q - k >= 7 }", n=20),
        Layer("attention a { attend q < 0 }", n=20),
    ],
)
def test_few_positions_and_empty_rows(layer: Layer) -> None:
    check(layer, 4)
