"""Mixtures whose branches have lines of their own, or given shares, against dense attention in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.check.check import check_text
from tests.support.marks import slow
from tests.support.oracle import agree, close, tensors
from tests.support.patterns import OWN_LINES
from tests.support.targets import MOSTLY_CPP, compiled

# Keys, queries, key heads and batch.
CPP = ((70, 70, 2, 1), (45, 20, 4, 2), (20, 45, 1, 1), (33, 1, 2, 1), (1, 1, 1, 1))
TRITON = ((45, 30, 2, 1),)
KERNELS = [
    *(slow(name, "cpp", CPP) if name == "detached" else (name, "cpp", CPP) for name in OWN_LINES),
    *(slow(name, "triton", TRITON) for name in OWN_LINES),
]


def inputs_of(text: str, heads: int, n_q: int, batch: int, learned: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    sizes = {"heads": heads, "n_q": n_q, "batch": batch}
    return {
        declared.name: torch.randn([sizes[str(size)] for size in declared.sizes], generator=generator).requires_grad_(
            learned
        )
        for declared in check_text(text).inputs
    }


@pytest.mark.parametrize(("name", "target", "calls"), KERNELS)
def test_kernels(name: str, target: str, calls: tuple[tuple[int, int, int, int], ...]) -> None:
    text = OWN_LINES[name]
    attend = compiled(text, target)
    for n, n_q, kv_heads, batch in calls:
        agree(attend, *tensors(n, n_q, 4, kv_heads, batch), inputs=inputs_of(text, 4, n_q, batch))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("text", OWN_LINES.values(), ids=OWN_LINES)
def test_other_types(text: str, dtype: torch.dtype) -> None:
    given = inputs_of(text, 4, 21, 1)
    agree(compiled(text, "cpp"), *tensors(70, 21, 4, 2, dim=24, dim_v=17, dtype=dtype), inputs=given)


def by_hand(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """The outputs of two branches before division, their denominators, and the sink: (heads, n, ...), causal."""
    n, dim = q.shape[-2:]
    distance = torch.arange(n)[:, None] - torch.arange(n)
    near = (q @ torch.nn.functional.normalize(k, dim=-1).mT * 0.7).exp() * (distance.abs() < 9)
    angles = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)

    def turned(x: Tensor) -> Tensor:
        a, b = x[..., :4], x[..., 4:8]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 8:]], -1)

    scores = turned(q) @ turned(k).mT / dim**0.5 - gate[:, None, None] * distance
    far = scores.exp() * (distance >= 0)
    return torch.stack([far @ v, near @ v]), [far.sum(-1), near.sum(-1)], gate[:, None].exp()


FAR = "attend causal  score s + gate[h] * (k - q)  rotate rope(dims = 8)"
NEAR = "attend |q - k| < 9  normalize k  scale 0.7"


@pytest.mark.parametrize("target", ["dense", slow("cpp")])
def test_the_formula(target: str) -> None:
    """Weights by denominators, with a sink that is one more term of them all; and by shares, a sink in each."""
    dtype = torch.float64 if target == "dense" else torch.float32
    q, k, v = (t.detach().to(dtype) for t in tensors(40, heads=2, dim=16))
    gate = torch.tensor([0.3, -0.2], dtype=dtype)
    outs, (far, near), sink = by_hand(*(t[0].double() for t in (q, k, v)), gate.double())
    tolerance = 1e-11 if target == "dense" else 3e-5

    mix = f"mix {{ branch times 3 {{ {FAR} }} branch {{ {NEAR} }} }}"
    text = f"attention a {{ input gate: float[heads]  {mix}  sink gate[h] }}"
    out, lse = attnspec.compile(text, target=target)(q, k, v, return_lse=True, gate=gate)
    total = 3 * far + near + sink
    close("out", out[0], (3 * outs[0] + outs[1]) / total[..., None], tolerance)
    close("lse", lse[0], total.log(), tolerance)

    mix = f"mix {{ branch share gate[h] * 2 {{ {FAR} }} branch share if q < 9 then 0.5 else -gate[h] {{ {NEAR} }} }}"
    text = f"attention a {{ input gate: float[heads]  {mix}  sink gate[h] }}"
    out = attnspec.compile(text, target=target)(q, k, v, gate=gate)
    g = gate.double()[:, None]
    second = torch.where(torch.arange(40) < 9, 0.5, -g)
    want = outs[0] * (2 * g / (far + sink))[..., None] + outs[1] * (second / (near + sink))[..., None]
    close("out of shares", out[0], want, tolerance)


Asked = tuple[attnspec.Attention, tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]


def looked(name: str, n: int = 40, n_q: int = 30) -> Asked:
    text = OWN_LINES[name]
    return attnspec.compile(text), tensors(n, n_q, 4, 2), inputs_of(text, 4, n_q, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN_LINES)
def test_weights_and_largest_scores(name: str) -> None:
    attend, (q, k, v), inputs = looked(name)
    weights = attend.weights(q, k, rows=slice(None), inputs=inputs)
    out, largest = attend(q, k, v, return_max=True, inputs=inputs)
    close("out", weights @ v.repeat_interleave(2, 1), out, 3e-5)
    close("sums", attend.column_sums(q, k, inputs=inputs), weights.sum(2), 3e-5)
    exact = attnspec.compile(OWN_LINES[name], target="dense")
    close("largest", largest, exact(q, k, v, return_max=True, inputs=inputs)[1], 3e-5)


@pytest.mark.slow
def test_autocast_casts_for_each_branch() -> None:
    attend, (q, k, v), inputs = looked("shares")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(q, k, v, inputs=inputs)
        parts = [branch(q, k, v, inputs=inputs) for branch in attend.branches]
    assert {out.dtype, *(part.dtype for part in parts)} == {torch.bfloat16}
    close("out", out, attend(q, k, v, inputs=inputs), 4e-2)


@pytest.mark.slow
def test_compiles_without_graph_breaks() -> None:
    attend, (q, k, v), inputs = looked("shares")
    layer = torch.compile(lambda q, k, v, **inputs: attend(q, k, v, **inputs), fullgraph=True)
    got, want = layer(q, k, v, **inputs), attend(q, k, v, **inputs)
    sources = (q, k, v, *inputs.values())
    pairs = zip(*(torch.autograd.grad((out**2).sum(), sources) for out in (got, want)), strict=True)
    for a, b in ((got, want), *pairs):
        close("compiled", a, b, 1e-5)


def test_branches_merge_to_the_whole() -> None:
    attend, (q, k, v), inputs = looked("a score and a rotation")
    parts = [branch(q, k, v, return_lse=True, inputs=inputs) for branch in attend.branches]
    sink = inputs["gate"][None, :, None].expand(parts[0][1].shape)
    out, lse = attnspec.merge([*parts, (torch.zeros_like(parts[0][0]), sink)])
    want, want_lse = attend(q, k, v, return_lse=True, inputs=inputs)
    close("out", out, want, 1e-6)
    close("lse", lse, want_lse, 1e-6)


def test_shares_have_no_log_sum_exp() -> None:
    for target in ("dense", "auto"):
        attend = attnspec.compile(OWN_LINES["shares"], target=target)
        with pytest.raises(attnspec.CallError, match=r"no log-sum-exp.*attend\.branches"):
            attend(*tensors(40, heads=4), return_lse=True, inputs=inputs_of(OWN_LINES["shares"], 4, 40, 1))


@pytest.mark.parametrize("target", MOSTLY_CPP)
def test_parts(target: str) -> None:
    """A row's keys in two parts: forward, in place and backward."""
    text = OWN_LINES["a score and a rotation"]
    attend = compiled(text, target)
    q, k, v = tensors(40, 40, 4, 2)
    gate = inputs_of(text, 4, 40, 1)["gate"]
    want, want_lse = attend(q, k, v, return_lse=True, gate=gate)
    dout = torch.randn(want.shape, generator=torch.Generator().manual_seed(1))
    wants = torch.autograd.grad(want, (q, k, v, gate), dout, retain_graph=True)

    def parts(**more: object) -> list[tuple[Tensor, Tensor]]:
        halves = (slice(0, 17), slice(17, 40))
        return [
            attend.part(q, k[:, :, at], v[:, :, at], q_start=0, k_start=at.start, n=40, gate=gate, **more)  # type: ignore[arg-type]
            for at in halves
        ]

    out, lse = attend.add_sink(*attnspec.merge(parts()), q_start=0, n=40, gate=gate)
    close("out", out, want, 3e-5)
    close("lse", lse, want_lse, 3e-5)
    for got, wanted in zip(torch.autograd.grad(out, (q, k, v, gate), dout), wants, strict=True):
        close("gradient", got, wanted, 3e-5)
    with torch.no_grad():
        into = torch.zeros(want.shape), torch.full(want_lse.shape, -torch.inf)
        parts(out=into[0], lse=into[1])
        close("out in place", attend.add_sink(*into, q_start=0, n=40, gate=gate)[0], want, 3e-5)
    by_part = {"gate": torch.zeros(4)}
    found = attend.part_backward(
        q, k, v, want.detach(), want_lse.detach(), dout, q_start=0, k_start=0, n=40, gate=gate, dinputs=by_part
    )
    for got, wanted in zip(found, wants, strict=False):
        close("gradient of a part", got, wanted, 3e-5)


@pytest.mark.parametrize("spec", ["lolcats", "infini"])
def test_mixtures_with_features_go_through_a_cache(spec: str) -> None:
    """Their branches have no parts that could be merged."""
    q = torch.randn(1, 2, 8, 16)
    with pytest.raises(attnspec.CallError, match=r"products of features.*goes through attnspec\.Cache"):
        attnspec.compile(spec).part(q, q, q, q_start=0, k_start=0, n=8)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("paged", r"branches of this mixture have kernels of their own.*attend\.branches"),
        ("pages of shares", r"attend\.branches\[i\]\.paged.*add up their outputs, each times its share$"),
        ("rotated", r"attend\.branches\[i\]\.rotated"),
        ("part of shares", r"branches have given shares"),
        ("gradients of detached", r"the weights of the mixture are detached"),
    ],
)
def test_what_is_for_branches_says_so(what: str, said: str) -> None:
    name = {"gradients of detached": "detached"}.get(what, "shares" if "shares" in what else "a score and a rotation")
    attend, (q, k, v), inputs = looked(name, 40, 40)
    ways: dict[str, Callable[[], object]] = {
        "paged": lambda: attend.paged(
            q, k, v, table=torch.zeros(1, 1).int(), lengths=torch.tensor([40]), inputs=inputs
        ),
        "rotated": lambda: attend.rotated(q, k, inputs=inputs),
    }
    part = functools.partial(attend.part, q, k, v, q_start=0, k_start=0, n=40, inputs=inputs)
    with pytest.raises(attnspec.CallError, match=said):
        ways.get(what.removesuffix(" of shares").replace("pages", "paged"), part)()
