"""Frequencies and positions that are worked out at the call: values, gradients of all that they read, and errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.errors.diagnostic import SpecError
from attnspec.relation.sizes import Sizes
from attnspec.runtime.bench.verify import results_of, verify
from attnspec.runtime.core.arguments import CallError
from tests.published.comparing import alike

N, DIM = 37, 24
Q, K, V = (torch.randn(2, h, N, DIM, generator=torch.Generator().manual_seed(h)) for h in (4, 2, 1))
V = V.expand(2, 2, N, DIM)
PLACES = torch.rand(2, N, generator=torch.Generator().manual_seed(7)) * 30
TURNS = torch.rand(12, generator=torch.Generator().manual_seed(8))


def compiled(body: str, target: str = "cpp") -> attnspec.Attention:
    return attnspec.compile(f"attention a {{ within causal {body} }}", target=target)


def by_hand(x: Tensor, angles: Tensor, start: int, pairs: bool, factor: float | Tensor = 1.0) -> Tensor:
    """The turn as complex numbers; angles are (..., n, pairs)."""
    dims = 2 * angles.shape[-1]
    before, part, after = x.double().split((start, dims, x.shape[-1] - start - dims), dim=-1)
    a, b = (part[..., 0::2], part[..., 1::2]) if pairs else part.chunk(2, dim=-1)
    turned = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles) * factor
    both = (turned.real, turned.imag)
    part = torch.stack(both, dim=-1).flatten(-2) if pairs else torch.cat(both, dim=-1)
    return torch.cat((before, part, after), dim=-1)


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    keys, values = (x.double().repeat_interleave(2, dim=1) for x in (k, v))
    scores = q.double() @ keys.transpose(-1, -2) / math.sqrt(DIM)
    return scores.masked_fill(~torch.ones(N, N, dtype=torch.bool).tril(), -math.inf).softmax(-1) @ values


PLAIN = 10000.0 ** (-torch.arange(12, dtype=torch.float64) / 12)
ROWS = torch.arange(N, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("target", ["cpp", "dense"])
def test_learned_frequencies_and_positions_get_their_gradients(target: str) -> None:
    attend = compiled(
        "input f: float[12] input p: float[batch, n] rotate rope(frequencies = f) at (p[b, q], p[b, k] / 2)", target
    )
    leaves = {"q": Q, "k": K, "v": V, "f": TURNS, "p": PLACES}
    leaves = {name: t.clone().requires_grad_() for name, t in leaves.items()}
    q, k, v, f, p = leaves.values()

    def want() -> Tensor:
        at = p.double()[:, None, :, None]
        return dense(by_hand(q, at * f.double(), 0, False), by_hand(k, at / 2 * f.double(), 0, False), v)

    alike(lambda: attend(q, k, v, f=f, p=p), want, leaves, 1e-4)
    (alone,) = torch.autograd.grad(attend(Q, K, V, f=f, p=PLACES).square().sum(), f)
    assert alone.abs().max() > 0, "where nothing else asks for gradients"
    with torch.no_grad():
        torch.testing.assert_close(attend(Q, K, V, f=f, p=PLACES), want().float(), atol=1e-5, rtol=0)


def test_a_learned_base_and_factor_on_a_part_of_a_head() -> None:
    attend = compiled(
        "input t: float rotate rope(theta = t, start = 4, dims = 8, layout = pairs, attention_factor = t / 90)"
    )
    leaves = {name: t.clone().requires_grad_() for name, t in {"q": Q, "k": K, "t": torch.tensor(100.0)}.items()}
    q, k, t = leaves.values()

    def want() -> Tensor:
        angles = ROWS * t.double() ** (-torch.arange(4) / 4)
        turned = (by_hand(x, angles, 4, True, 1.0) for x in (q, k))
        part = torch.ones(DIM, dtype=torch.float64)
        scale = torch.where((torch.arange(DIM) >= 4) & (torch.arange(DIM) < 12), t.double() / 90, part)
        return dense(*(x * scale for x in turned), V)

    alike(lambda: attend(q, k, V, t=t), want, leaves, 1e-4)


@pytest.mark.parametrize(
    ("body", "angles"),
    [
        ("rotate rope(frequencies = frequency / 4)", ROWS * PLAIN / 4),
        ("rotate rope() at (q / 4, k / 4)", ROWS * PLAIN / 4),
        ("rotate rope(frequencies = frequency * 8 ** (-pair / (pairs - 1)))",
         ROWS * PLAIN * 8 ** (-torch.arange(12) / 11)),
        ("rotate rope() at (if pair % 2 == 0 then q // 5 else q % 5, if pair % 2 == 0 then k // 5 else k % 5)",
         torch.where(torch.arange(12) % 2 == 0, ROWS // 5, ROWS % 5) * PLAIN),
        ("rotate rope(frequencies = if n > 30 then 2 * frequency else frequency)", ROWS * PLAIN * 2),
        ("rotate rope(theta = 10000, frequencies = if frequency > 0.1 then frequency else 0)",
         ROWS * torch.where(PLAIN > 0.1, PLAIN, 0.0)),
    ],
)  # fmt: skip
def test_formulas(body: str, angles: Tensor) -> None:
    q, k = compiled(body).rotated(Q, K)
    for got, x in ((q, Q), (k, K)):
        torch.testing.assert_close(got, by_hand(x, angles, 0, False).float(), atol=1e-5, rtol=0)


def test_parts_turn_by_themselves() -> None:
    lines = (
        "rotate rope(dims = 6, frequencies = [1.0, 0.5, 0.25]) "
        "rotate rope(start = 8, dims = 4, layout = pairs) at (q // 5, k // 5)"
    )
    for dtype in (torch.float32, torch.bfloat16):
        q, k = compiled(lines).rotated(Q.to(dtype), K.to(dtype))
        for got, x in ((q, Q), (k, K)):
            first = by_hand(x.to(dtype), ROWS * torch.tensor([1.0, 0.5, 0.25]), 0, False)
            want = by_hand(first.to(dtype), (ROWS // 5) * torch.tensor([1.0, 0.01]), 8, True)
            torch.testing.assert_close(got, want.to(dtype), atol=1e-5 if dtype == torch.float32 else 0.04, rtol=0)


def test_positions_are_as_exact_as_they_are_given() -> None:
    """A float64 position of 1e6 + 1/3 does not become float32."""
    attend = compiled("input p: float[n] rotate rope() at (p[q], p[k])")
    p = torch.arange(N, dtype=torch.float64) + 1e6 + 1 / 3
    q, _ = attend.rotated(Q, K, p=p)
    torch.testing.assert_close(q, by_hand(Q, p[:, None] * PLAIN, 0, False).float(), atol=1e-5, rtol=0)


def test_few_queries_are_the_last_ones() -> None:
    attend = compiled("input p: float[batch, n] rotate rope(frequencies = frequency / 3) at (p[b, q], p[b, k])")
    whole, last = attend(Q, K, V, p=PLACES), attend(Q[:, :, -3:], K, V, p=PLACES)
    torch.testing.assert_close(last, whole[:, :, -3:], atol=1e-5, rtol=0)


def test_the_read_out_of_frequencies() -> None:
    (yarn,) = attnspec.compile("yarn", factor=4).frequencies(64)
    assert yarn.inv_freq.shape == (32,)
    assert yarn.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    rows, columns = attnspec.compile("rope_2d", width=8, dims=32).frequencies(32)
    torch.testing.assert_close(rows.inv_freq, 100.0 ** (-torch.arange(8, dtype=torch.float64) / 8))
    assert torch.equal(rows.inv_freq, columns.inv_freq)
    assert attnspec.compile("causal").frequencies(64) == ()
    with pytest.raises(CallError, match="input `short` is missing"):
        attnspec.compile("longrope").frequencies(64, long=torch.ones(32))
    with pytest.raises(CallError, match="has 32 entries, but 16 pairs"):
        attnspec.compile("longrope").frequencies(32, n=8, short=torch.ones(32), long=torch.ones(32))


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        ("input f: float[12] rotate rope(frequencies = f, dims = 8)", {"f": TURNS}, "12 entries, but 4 pairs"),
        ("rotate rope(frequencies = [1.0, 2], dims = 8)", {}, "2 frequencies, but 4 pairs"),
        ("input f: float[12] rotate rope(frequencies = f[pair + 1])", {"f": TURNS}, "reads outside an input"),
        ("rotate rope(start = 20, dims = 8)", {}, "dimensions 20 to 27 are to be turned, but the head size is 24"),
        ("rotate rope(start = 24)", {}, "dimensions from 24 on"),
        ("rotate rope(start = 5)", {}, "must be even"),
        ("input t: float rotate rope(theta = t)", {"t": torch.tensor(-1.0)}, "not finite"),
        ("rotate rope(frequencies = frequency / (h + 1))", {}, "heads are shared"),
    ],
)
def test_what_does_not_fit_is_said_at_the_call(body: str, inputs: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CallError, match=message):
        compiled(body)(Q, K, V, **inputs)


def test_compiled_graphs_have_gradients_of_what_rotations_read() -> None:
    attend = compiled("input f: float[12] rotate rope(frequencies = f[pair] * frequency) at (q / 3, k / 3)")
    f = TURNS.clone().requires_grad_()
    graph = torch.compile(attend, fullgraph=True, backend="aot_eager")
    outs = [call(Q, K, V, f=f) for call in (graph, attend)]
    torch.testing.assert_close(*outs)
    got, want = (torch.autograd.grad(out.square().sum(), f)[0] for out in outs)
    torch.testing.assert_close(got, want)


def test_overlapping_parts_are_refused() -> None:
    with pytest.raises(SpecError, match="turn the same dimensions"):
        compiled("rotate rope(dims = 16) rotate rope(start = 14)")


def test_runs_are_checked_with_the_gradients_of_what_rotations_read() -> None:
    attend, sizes = attnspec.compile("longrope", original=8, dims=DIM), Sizes(N, N, 2, 1, 1)
    inputs = {"short": torch.ones(12), "long": TURNS + 1}
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(1, heads, N, DIM, generator=generator) for heads in (2, 1, 1, 2)]
    results = results_of(attend, tensors, inputs)  # type: ignore[arg-type]
    verdict = verify(attend.spec, sizes, tensors, results, inputs, (0,))  # type: ignore[arg-type]
    assert verdict.agrees
    assert "dlong" in verdict.errors
