"""Features that decay each by itself, over the plans of patterns: outputs and all gradients against the dense ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import elu, pad

import attnspec
from tests.published.recurrences import recurrent
from tests.support.linear import TOLERANCE, as_dense
from tests.support.marks import slow
from tests.support.oracle import close, tensors
from tests.support.pass_strategies import by_way, choosing
from tests.support.patterns import LAYOUTS
from tests.support.targets import threads

LINES = "linear elu(x) + 1  divide total  decay gate[b, h, t, c]"


def gated(pattern: str, lines: str = LINES, inputs: str = "", rates: str = "") -> str:
    """A pattern whose features decay each by itself."""
    return f"attention a{rates} {{ input gate: float[batch, heads, n, features]  {inputs}  {pattern}  {lines} }}"


def gates(n: int, dim: int, kind: str = "", heads: int = 2, batch: int = 1) -> Tensor:
    """Logarithms of steps, (batch, heads, n, dim)."""
    some = torch.rand(batch, heads, n, dim, generator=torch.Generator().manual_seed(n))
    kinds = {"": -some, "none": 0 * some, "little": -1e-3 * some, "one": -1 - 0 * some, "strong": -8 - some}
    kinds |= {"stronger": -20 - some, "-60": -60 - some, "resets": torch.where(some < 0.05, float("-inf"), -0.1)}
    kinds |= {"-60 or none": torch.where(some < 0.3, -60.0, 0.0), "all resets": some - float("inf")}
    return kinds[kind]


PATTERNS = {
    "causal": "attend causal",
    "sliding": "attend window(90)",
    "restarting": "attend causal and q // 100 == k // 100",
    "strict": "attend k // 32 < q // 32",
    "behind": "attend k <= q - 5",
    "from the start": "attend causal  align start",
    "by head": "attend causal and (q - k) % (1 + h % 2) == 0",
    "documents": "attend causal and doc[q] == doc[k]",
}


@pytest.mark.parametrize("name", [slow(name) for name in PATTERNS])
def test_patterns_and_lengths(name: str) -> None:
    documents = {"doc": (torch.arange(300) // 37 % 50).expand(2, 300).clone()} if name == "documents" else {}
    text = gated(PATTERNS[name], inputs="input doc: int[batch, n] sorted" if documents else "")
    for n, n_q, kv_heads in ((300, 300, 4), (300, 33, 2), (70, 150, 1), (1, 1, 4))[: 2 if documents else None]:
        inputs = {"gate": gates(n, 9, heads=4, batch=2), **documents}
        with threads(1 + kv_heads % 2):
            as_dense(text, *tensors(n, n_q, 4, kv_heads, 2, dim=9, dim_v=5), inputs=inputs)


@pytest.mark.parametrize("name", [slow(name) for name in LAYOUTS])
def test_layouts_and_passes(name: str) -> None:
    clause, number, _ = LAYOUTS[name]
    within = clause if "causal" in clause else f"{clause}  within k <= q"
    with choosing(number):
        for n, n_q, kv_heads in ((300, 300, 4), (210, 33, 2)):
            text = by_way(gated(within, rates="(rates = [1, 2, 4, 3])"), number)
            given = tensors(n, n_q, 4, kv_heads, 1, dim=16, dim_v=8)
            as_dense(text, *given, inputs={"gate": gates(n, 16, heads=4)})


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["causal", slow("window(70)"), slow("dilated(30, 4)")])
@pytest.mark.parametrize("lines", ["linear x", "linear q: softmax(x)  linear k: exp(x)  divide max(total, 1.0)"])
def test_lines_beside(pattern: str, lines: str) -> None:
    text = gated(f"attend {pattern}", f"{lines}  scale 0.3  rotate rope()  decay 0.5 * gate[b, h, t, c] - 0.01 * h")
    as_dense(text, *tensors(200, 200, 4, 2, 1, dim=20, dim_v=24), inputs={"gate": gates(200, 20, heads=4)})


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "dim_v"), [(1, 1), (33, 3), (64, 64), slow(128, 256), slow(130, 70), slow(200, 20)])
def test_sizes(dim: int, dim_v: int) -> None:
    """State by rows and by columns, and one that pays only after several tiles."""
    as_dense(gated("attend causal"), *tensors(700, dim=dim, dim_v=dim_v), inputs={"gate": gates(700, dim)})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, slow(torch.float16)])
def test_types(dtype: torch.dtype) -> None:
    as_dense(gated("attend causal"), *tensors(150, 150, 2, 1, dim=16, dtype=dtype), inputs={"gate": gates(150, 16)})


REGIMES = ("none", "little", "one", "strong", "stronger", "-60", "resets", "-60 or none", "all resets")


STRENGTHS = [
    *(("causal", kind) if kind == "-60 or none" else slow("causal", kind) for kind in REGIMES),
    *(slow("window(150)", kind) for kind in REGIMES),
    *(
        slow("dilated(40, 4)", kind) for kind in ("one", "resets", "-60 or none")
    ),  # what is left is not below all floats
]


@pytest.mark.parametrize(("pattern", "kind"), STRENGTHS)
def test_gradients_of_steps_however_strong_they_are(pattern: str, kind: str) -> None:
    torch.manual_seed(0)
    n, dim = 500, 16
    gate = gates(n, dim, kind).requires_grad_()
    given, up = [t.detach() for t in tensors(n, dim=dim, dim_v=24)], torch.randn(1, 2, n, 24)
    attend = attnspec.compile(gated(f"attend {pattern}"))
    out = attend(*given, gate=gate)
    want_out, want = over_pairs(*given, gate.detach(), up, torch.from_numpy(attend.spec.mask(n, n, 2) > 0))
    close("out", out, want_out, 2e-6)
    (got,) = torch.autograd.grad(out, gate, up)
    assert float((got - want).norm()) <= 1e-5 * float(want.norm())


def over_pairs(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, up: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The output of LINES, and the gradient of each step as the sum over the pairs that it lies between, in float64.

    (Gradients of sums of steps, as autograd has them, lose what is less than rounding of the weights of keys that are
    at their query.)
    """
    a, b = elu(q.double()) + 1, elu(k.double()) + 1
    sums, at = gate.double().clamp(min=-1000.0).cumsum(2), torch.arange(q.shape[2])
    fades = [sums[..., c, None] - sums[..., None, :, c] for c in range(gate.shape[3])]
    weights = [
        torch.exp(x.masked_fill(~mask, -torch.inf)) * a[..., c, None] * b[..., None, :, c] for c, x in enumerate(fades)
    ]
    total = torch.stack(weights).sum(0).sum(-1, keepdim=True)
    total = total.masked_fill(total == 0, torch.inf)
    out = torch.stack(weights).sum(0) @ v.double() / total
    up = up.double()
    by = (up @ v.double().mT - (up * out).sum(-1, keepdim=True)) / total
    found = []
    for x in weights:
        before = pad((x * by).cumsum(-1), (1, -1))  # of each row, over the keys before a position
        found.append((before * (at[:, None] >= at)).sum(-2))
    return out, torch.stack(found, -1)


@pytest.mark.slow
def test_token_by_token() -> None:
    """Yang et al., 2024: gated linear attention."""
    n, dim = 300, 32
    q, k, v = (t.detach() for t in tensors(n, dim=dim, dim_v=dim))
    gate = gates(n, dim)
    want = recurrent(*(t.double() for t in (q, k, v)), lambda t: gate.double()[:, :, t, :, None].exp())
    close("out", attnspec.compile("gla")(q, k, v, gate=gate), want, TOLERANCE[torch.float32][0])


@pytest.mark.slow
def test_a_state_fades_as_slowly_as_it_is_told() -> None:
    """One step leaves all but a ten millionth, which fp32 cannot tell from all of it."""
    n, dim = 1 << 18, 4
    q, k = torch.rand(2, 1, 1, n, dim).unbind(0)
    v = torch.randn(1, 1, n, 4) + 3
    gate = torch.full((1, 1, n, dim), -1e-7) * (1 + torch.arange(dim) * 30)
    out = attnspec.compile("gla")(q, k, v, gate=gate)
    for i in (5000, n - 1):
        fades = torch.exp(gate[0, 0, 0].double() * (i - torch.arange(i + 1, dtype=torch.float64))[:, None])
        want = (q[0, 0, i].double() * k[0, 0, : i + 1].double() * fades).sum(-1) @ v[0, 0, : i + 1].double()
        assert float((out[0, 0, i] - want).abs().max() / want.abs().max()) < 1e-6


@pytest.mark.slow
def test_what_is_not_finite_reaches_the_rows_that_see_it_and_no_others() -> None:
    n, width = 500, 70
    attend = attnspec.compile(gated(f"attend window({width})", "linear x  decay gate[b, h, t, c]"))
    q, k, v = (t.detach() for t in tensors(n, dim=8, dim_v=8))
    gate = gates(n, 8) * 0.1
    want = attend(q, k, v, gate=gate)
    k[0, 0, 300, 3], v[0, 1, 100, 2] = float("inf"), float("nan")
    out = attend(q, k, v, gate=gate)
    seen = torch.zeros(2, n, dtype=torch.bool)
    seen[0, 300 : 300 + width] = seen[1, 100 : 100 + width] = True
    assert torch.equal(~out[0].isfinite().all(-1), seen)
    assert torch.allclose(out[0][~seen], want[0][~seen], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["causal", "causal and (q - k) % 2 == 0", "window(500)"])
def test_a_sequence_is_cut_where_heads_are_fewer_than_threads(pattern: str) -> None:
    n, attend = 3000, attnspec.compile(gated(f"attend {pattern}"))
    given = [torch.randn(1, 1, n, 16).requires_grad_() for _ in range(3)]
    gate = (1e-2 * gates(n, 16, heads=1)).requires_grad_()
    found, up = [], torch.randn(1, 1, n, 16)
    for number in (1, 5):
        with threads(number):
            out = attend(*given, gate=gate)
            found.append([out, *torch.autograd.grad(out, [*given, gate], up)])
    for got, want in zip(*found, strict=True):
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())


@pytest.mark.slow
def test_steps_that_are_views_or_bfloat16() -> None:
    q, k, v = tensors(200, dim=16)
    gate = gates(200, 16)
    attend = attnspec.compile("gla")
    want = attend(q, k, v, gate=gate)
    assert torch.equal(attend(q, k, v, gate=gate.transpose(2, 3).contiguous().transpose(2, 3)), want)
    assert torch.equal(attend(q, k, v, gate=gate[:, :1].expand(1, 2, 200, 16)), attend(q, k, v, gate=gate[:, [0, 0]]))
    half = gate.bfloat16()
    assert torch.equal(attend(q, k, v, gate=half), attend(q, k, v, gate=half.float()))
