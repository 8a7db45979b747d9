"""Weights beyond softmax, as `target="dense"` computes them: the formulas pair by pair, and what a call refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import elu, normalize

import attnspec
from attnspec.errors.diagnostic import SpecError
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.linear.favor import drawn, favor
from attnspec.spec.feature import Favor, Vector

DIM, HEADS = 4, 4
Row = Callable[[Tensor, Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    return x


@dataclass
class Lines:
    """Lines of a spec, and what they say of one head: ``step(gate, t)`` is the logarithm of a step, by channel."""

    text: str
    of_q: Callable[[Tensor], Tensor] = identity
    of_k: Callable[[Tensor], Tensor] = identity
    divide: Row = lambda total, mass: torch.ones(())
    each: bool = False
    step: Callable[[Tensor, int], Tensor] = lambda gate, t: torch.zeros(1)
    delta: Callable[[Tensor, int], Tensor] | None = None


def plus_one(x: Tensor) -> Tensor:
    return elu(x) + 1


def two(x: Tensor) -> Tensor:
    return torch.cat([x.softmax(-1), (-x).softmax(-1)])


GATE = "input gate: float[batch, heads, n]"
CASES = {
    "nothing": Lines("linear x"),
    "constant": Lines("linear 1", lambda x: x.new_ones(1), lambda x: x.new_ones(1)),
    "one side constant": Lines("linear q: 1  linear k: exp(x)", lambda x: x.new_ones(DIM), torch.exp),
    "total": Lines("linear elu(x) + 1  divide total", plus_one, plus_one, lambda total, mass: total),
    "list": Lines("linear [softmax(x), softmax(-x)]  divide total", two, two, lambda total, mass: total),
    "unit": Lines("linear unit(x)  divide max(|total|, 1.0)", *[lambda x: normalize(x, dim=-1)] * 2,
                  divide=lambda total, mass: total.abs().clamp(min=1.0)),
    "mass": Lines("linear relu(x) ** 2  divide total + 0.5 * mass + h + 1", *[lambda x: x.relu() ** 2] * 2,
                  divide=lambda total, mass: total + 0.5 * mass + 2),
    "guarded": Lines("linear x  divide guarded(total, 0.2)",
                     divide=lambda total, mass: total + (0.4 if abs(total) <= 0.2 else 0.0)),
    "each": Lines("linear q: softmax(x)  linear k: exp(x)  divide each total", lambda x: x.softmax(-1), torch.exp,
                  lambda total, mass: total, True),
    "each, signed": Lines("linear tanh(x)  divide each |total| + 1", torch.tanh, torch.tanh,
                          lambda total, mass: total.abs() + 1, True),
    "decay": Lines(f"{GATE}  linear x  decay gate[b, h, t]", step=lambda gate, t: gate[t : t + 1]),
    "decays": Lines(f"{GATE}  linear elu(x) + 1  divide total  decay gate[b, h, t]  decay -0.5 * t", plus_one,
                    plus_one, lambda total, mass: total, step=lambda gate, t: gate[t : t + 1] - 0.5 * t),
    "channels": Lines(f"{GATE}  linear exp(x)  divide each total  decay gate[b, h, t] * (c + 1)", torch.exp,
                      torch.exp, lambda total, mass: total, True, lambda gate, t: gate[t] * torch.arange(1, DIM + 1)),
    "channels, undivided": Lines(f"{GATE}  linear x  decay gate[b, h, t] * c",
                                 step=lambda gate, t: gate[t] * torch.arange(DIM)),
    "delta": Lines(f"{GATE}  linear x  delta -gate[b, h, k]", delta=lambda gate, k: -gate[k]),
    "delta of totals": Lines("linear elu(x) + 1  divide total  delta 1.0", plus_one, plus_one,
                             lambda total, mass: total, delta=lambda gate, k: torch.ones(())),
    "delta of each": Lines("linear exp(x)  divide each total  delta 0.5", torch.exp, torch.exp,
                           lambda total, mass: total, True, delta=lambda gate, k: torch.full((), 0.5)),
    "delta and channels": Lines(f"{GATE}  linear x  decay gate[b, h, t] * c  delta -gate[b, h, k]",
                                step=lambda gate, t: gate[t] * torch.arange(DIM), delta=lambda gate, k: -gate[k]),
}  # fmt: skip
PATTERNS = {
    "causal": ("attend causal", 7, 7),
    "fewer queries": ("attend 0 < q - k < 4", 7, 4),
    "both sides": ("attend |q - k| <= 1  attend k == 2", 7, 7),
    "counted": ("mix { branch { attend causal } branch times 2 { attend k < 2 and k <= q } }", 6, 6),
}


def defined(lines: Lines, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, counts: Tensor, recalled: Tensor) -> Tensor:
    """The output of one head, (n_q, dim_v), pair by pair."""
    first = len(k) - len(q)

    def weighed(a: Tensor, i: int, often: Tensor, values: list[Tensor]) -> Tensor:
        """What the row at position i gives."""
        terms = []
        for j, value in enumerate(values):
            between = range(min(i, j) + 1, max(i, j) + 1)
            lost = sum((lines.step(gate, t) for t in between), torch.zeros(1, dtype=q.dtype))
            terms.append((often[j] * lines.of_k(k[j]) * torch.exp(lost), value))
        some = [(w, value) for j, (w, value) in enumerate(terms) if often[j]]
        if not some:
            return torch.zeros_like(v[0])
        if lines.each:
            by = lines.divide(sum(w for w, _ in some), a.sum())  # type: ignore[arg-type]
            return sum(torch.outer(a / by * w, value).sum(0) for w, value in some)  # type: ignore[return-value]
        total = sum((a * w).sum() for w, _ in some)
        return sum((a * w).sum() * value for w, value in some) / lines.divide(total, a.sum())  # type: ignore[arg-type, return-value]

    values = list(v)
    if lines.delta is not None:
        for j in range(len(k)):
            often = recalled[j].clone()
            often[j:] = 0
            values[j] = lines.delta(gate, j) * (v[j] - weighed(lines.of_k(k[j]), j, often[:j], values[:j]))
    rows = [weighed(lines.of_q(q[i]), i + first, counts[i], values) for i in range(len(q))]
    return torch.stack(rows)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", CASES)
def test_the_formula_pair_by_pair(name: str, pattern: str) -> None:
    lines, (text, n, n_q) = CASES[name], PATTERNS[pattern]
    if lines.delta is not None and pattern in ("both sides", "counted"):
        return
    torch.manual_seed([*CASES].index(name))
    attend = attnspec.compile(f"attention a {{ {lines.text} {text} }}", target="dense")
    double = torch.float64
    q = torch.randn(1, HEADS, n_q, DIM, dtype=double, requires_grad=True)
    k, v = (torch.randn(1, 2, n, size, dtype=double, requires_grad=True) for size in (DIM, 3))
    gate = (-torch.rand(1, HEADS, n, dtype=double)).requires_grad_()
    reads = "gate" in lines.text
    got = attend(q, k, v, **({"gate": gate} if reads else {}))
    counts, recalled = (torch.as_tensor(attend.mask(n, rows, HEADS))[0] for rows in (n_q, n))
    h = 1 if name == "mass" else 2  # the one that a divisor reads
    want = defined(lines, q[0, h], k[0, h // 2], v[0, h // 2], gate[0, h], counts[h].to(double), recalled[h].to(double))
    torch.testing.assert_close(got[0, h], want, rtol=0, atol=1e-11)
    by = torch.randn_like(want)
    sources = (q, k, v, gate) if reads else (q, k, v)
    mine, theirs = (
        torch.autograd.grad((x * by).sum(), sources, materialize_grads=True, allow_unused=True)
        for x in (got[0, h], want)
    )
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def call(text: str, n: int = 9, dtype: torch.dtype = torch.float64, **inputs: Tensor) -> Tensor:
    q, k, v = torch.randn(3, 1, 2, n, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)
    return attnspec.compile(f"attention a {{ {text} }}", target="dense")(
        q.to(dtype), k.to(dtype), v.to(dtype), inputs=inputs
    )


@pytest.mark.parametrize("lines", ["linear x", "linear exp(x)  divide each total", "linear relu(x)  divide total"])
def test_a_step_of_any_size_is_no_nan(lines: str) -> None:
    gate = torch.tensor([0.0, -1e-3, -1.0, -60.0, -torch.inf, 0.0, -torch.inf, -20.0, -8.0]).double()
    text = f"input gate: float[n] attend causal {lines} decay gate[t]"
    leaf = gate.clone().requires_grad_()
    out = call(text, gate=leaf)
    assert out.isfinite().all()
    (d,) = torch.autograd.grad(out.sum(), leaf)
    assert d.isfinite().all()
    one = lines.endswith("x") and call(text.replace("causal", "k == q"), gate=gate)
    if one is not False:  # behind a step of minus infinity nothing is left of what was before
        torch.testing.assert_close(out[:, :, 4], one[:, :, 4], rtol=0, atol=0)


def test_the_gradient_of_a_step_of_nothing() -> None:
    """Where all steps are 0 the weights are 1, and still fall where a step does."""
    gate = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    out = call("input gate: float[n] attend causal linear 1 decay gate[t]", gate=gate)
    (d,) = torch.autograd.grad(out[0, 0, 5, 0], gate)
    v = torch.randn(3, 1, 2, 9, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[2, 0, 0, :, 0]
    torch.testing.assert_close(d, torch.tensor([v[:t].sum() if t <= 5 else 0.0 for t in range(9)]).double())


def test_rows_without_keys_and_divisors_of_zero_give_zeros() -> None:
    for lines in ("linear x  divide total", "linear relu(x)  divide each total", "linear x  divide log(total + 1.0)"):
        out = call(f"attend k < q - 2  {lines}")
        assert (out[:, :, :3] == 0).all()
    assert (call("linear 0 * x  divide total") == 0).all()
    assert (call("linear q: relu(x)  linear k: relu(-exp(x))  divide each total") == 0).all()


def test_what_no_row_sees_may_be_no_number() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, DIM).unbind(0)
    for t in (k, v):
        t[:, :, 6:] = torch.nan
    for lines in ("linear elu(x) + 1  divide total", "linear favor(x, features = 8)  divide total"):
        attend = attnspec.compile(f"attention a {{ within k < 6  {lines} }}", target="dense")
        assert attend(q, k, v).isfinite().all()


def test_a_sink_is_one_more_term_of_the_total() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, DIM, dtype=torch.float64).unbind(0)
    text = "attention a { input logit: float[heads]  attend k < q  linear elu(x) + 1  divide total  sink logit[h] }"
    logit = torch.tensor([0.5, -1.0]).double()
    out, lse = attnspec.compile(text, target="dense")(q, k, v, logit=logit, return_lse=True)
    weights = (plus_one(q) @ plus_one(k).mT).tril(-1)
    total = weights.sum(-1) + logit.exp()[:, None]
    torch.testing.assert_close(out, weights @ v / total[..., None])
    torch.testing.assert_close(lse, total.log())


def test_the_logarithm_of_the_total_and_where_there_is_none() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, DIM, dtype=torch.float64).unbind(0)

    def lse(lines: str, **options: float) -> Tensor:
        return attnspec.compile(f"attention a {{ attend k < q {lines} }}", target="dense")(
            q, k, v, return_lse=True, **options
        )[1]

    found = lse("linear elu(x) + 1  divide total", scale=0.5)
    torch.testing.assert_close(found[..., 1:], (0.5 * plus_one(q) @ plus_one(k).mT).tril(-1).sum(-1)[..., 1:].log())
    assert (found[..., 0] == -math.inf).all()
    for lines, why in (
        ("linear x  divide total", "features may be negative"),
        ("linear elu(x) + 1", "nothing is divided by the total"),
        ("linear elu(x) + 1  divide total + 1", "the divisor is not `total`"),
        ("linear elu(x) + 1  divide each total", "the divisor is not `total`"),
    ):
        with pytest.raises(CallError, match=why):
            lse(lines)
    with pytest.raises(CallError, match="the scale is -1"):
        lse("linear exp(x)  divide total", scale=-1.0)
    with pytest.raises(CallError, match="no scores of which one is the largest"):
        attnspec.compile("linear", target="dense")(q, k, v, return_max=True)


def test_the_scale_is_a_factor_of_the_weights_and_not_of_the_recall() -> None:
    for lines in ("linear x", "linear x  delta 0.5"):
        plain = call(f"attend causal {lines}")
        torch.testing.assert_close(call(f"attend causal scale 0.25 {lines}"), 0.25 * plain)


def test_weights_are_what_values_are_multiplied_by() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, DIM, dtype=torch.float64).unbind(0)
    for lines in (
        "linear elu(x) + 1  divide total", "linear exp(x)  divide each total", "linear unit(x)  delta 0.5",
        "decay -1.0", "linear x  decay -0.1 * c",
    ):  # fmt: skip
        attend = attnspec.compile(f"attention a {{ attend causal {lines} }}", target="dense")
        torch.testing.assert_close(attend.weights(q, k, rows=[2, 7]) @ v, attend(q, k, v)[:, :, [2, 7]])
    mixed = attnspec.compile("lolcats", width=3, target="dense")
    torch.testing.assert_close(mixed.weights(q, k, rows=slice(None)) @ v, mixed(q, k, v))


def test_features_in_half_precision_keep_what_is_small() -> None:
    q = torch.full((1, 1, 1, 2), -6.0, dtype=torch.bfloat16, requires_grad=True)
    attend = attnspec.compile("attention a { linear q: elu(x) + 1  linear k: 1 }", target="dense")
    out = attend(q, torch.ones_like(q), torch.ones_like(q))
    assert out.dtype == torch.bfloat16
    assert out[0, 0, 0, 0].item() == pytest.approx(2 * math.exp(-6.0), rel=1e-2)
    (d,) = torch.autograd.grad(out[..., 0].sum(), q)
    assert float(d[0, 0, 0, 0]) == pytest.approx(math.exp(-6.0), rel=1e-2)


def test_a_running_maximum_changes_nothing_without_eps() -> None:
    """And the future has no part in the past then."""
    q, k, v = (40 * torch.randn(3, 1, 2, 12, DIM, dtype=torch.float64)).unbind(0)
    found = {
        stable: attnspec.compile(
            f"attention a {{ attend causal  linear favor(x / 8, features = 6, eps = 0, stable = {stable})  "
            "divide total }",
            target="dense",
        )
        for stable in ("all", "running", "none")
    }
    outs = [attend(q, k, v) for attend in found.values()]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(outs[0], outs[2], rtol=1e-11, atol=1e-11)
    running = attnspec.compile(
        "attention a { attend causal  linear favor(x, features = 6, stable = running)  divide total }", target="dense"
    )
    other = k.clone()
    other[:, :, -1] *= 6
    torch.testing.assert_close(running(q, k, v)[:, :, :-1], running(q, other, v)[:, :, :-1], rtol=0, atol=0)


def test_a_projection_that_is_kept_serves_calls_of_all_kinds() -> None:
    """Those that want gradients too, after calls in inference mode and calls of tensors without values."""
    attend = attnspec.compile("attention a { linear favor(x, features = 11)  divide total }", target="dense")
    with torch._subclasses.FakeTensorMode():
        attend(*(torch.empty(1, 2, 9, 8) for _ in range(3)))
    q, k, v = torch.randn(3, 1, 2, 9, 8, dtype=torch.float64).unbind(0)
    with torch.inference_mode():
        want = attend(q, k, v)
    q.requires_grad_()
    out = attend(q, k, v)
    (dq,) = torch.autograd.grad(out.sum(), q)
    assert torch.equal(out, want)
    assert dq.isfinite().all()


def test_random_features() -> None:
    """Their products are the exponential on average over directions, and a call may bring directions of its own."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 1, 5, 8, dtype=torch.float64, generator=generator).div(2).unbind(0)
    of = Favor(Vector(), eps=0.0, stable="none")
    rows = torch.randn(40000, 8, dtype=torch.float64, generator=generator)
    a, b = (favor(of, t, rows, keys)[0] for t, keys in ((x, False), (y, True)))
    torch.testing.assert_close(a @ b.mT, torch.exp(x @ y.mT / 8**0.5), rtol=0.05, atol=0)
    assert drawn(7, 4, 1, "norm").shape == (7, 4)
    assert not torch.equal(drawn(7, 4, 1, "norm"), drawn(7, 4, 2, "norm"))
    q, k, v = torch.randn(3, 1, 2, 9, 8).unbind(0)
    attend = attnspec.compile(
        "attention a { linear favor(x, kernel = relu, eps = 1e-3)  divide total }", target="dense"
    )
    given = torch.randn(16, 8)
    got = attend(q, k, v, projection=given)
    a, b = ((t.double() * 8**-0.25 @ given.double().T).relu() + 1e-3 for t in (q, k))
    want = a @ b.mT / (a @ b.mT).sum(-1, keepdim=True) @ v.double()
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-6)
    assert torch.equal(attend(q, k, v), attend(q, k, v, projection=drawn(16, 8, 0, "norm")))
    with pytest.raises(CallError, match=r"projection must be \(features, dim\) = \(16, 8\)"):
        attend(q, k, v, projection=given[:5])
    with pytest.raises(CallError, match="there is no input `projection`"):
        attnspec.compile("linear", target="dense")(q, k, v, projection=given)


def test_what_a_call_refuses() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, DIM).unbind(0)
    gla = attnspec.compile("gla", target="dense")
    with pytest.raises(CallError, match=r"shape \(1, 2, 9, 5\).* here \(1, 2, 9, 4\)"):
        gla(q, k, v, gate=-torch.rand(1, 2, 9, 5))
    with pytest.raises(CallError, match=r"a step of `decay gate\[b, h, t, c\]` is .* must be 0 or negative"):
        gla(q, k, v, gate=torch.rand(1, 2, 9, 4))
    with pytest.raises(CallError, match="`linear q:` gives 4 features and `linear k:` 8"):
        call("linear q: x  linear k: [x, x]")
    with pytest.raises(CallError, match="only where features are constant v alone"):
        attnspec.compile("linear", target="dense")(v=v)
    with pytest.raises(SpecError, match="wants keys of the past only"):
        call("attend |q - k| <= 2  linear x  delta 1.0")
    with pytest.raises(SpecError, match='target="triton" has no kernels for these weights'):
        attnspec.compile("gla", target="triton")
    tree = attnspec.compile(
        "attention a { input see: bool[n_q, n]  attend causal and see[q, k]  linear x  delta 1.0 }", target="dense"
    )
    assert tree(q, k, v, see=torch.ones(9, 9, dtype=torch.bool)).shape == q.shape
    with pytest.raises(CallError, match="`delta` takes keys as queries"):
        tree(q[:, :, 5:], k, v, see=torch.ones(4, 9, dtype=torch.bool))


def test_transforms_go_through() -> None:
    gated = attnspec.compile("gated_delta", target="dense")
    q, k, v = torch.randn(3, 2, 2, 9, DIM, dtype=torch.float64).unbind(0)
    gate, beta = -torch.rand(2, 2, 9, dtype=torch.float64), torch.rand(2, 2, 9, dtype=torch.float64)
    want = gated(q, k, v, gate=gate, beta=beta)

    def of_one(*x: Tensor) -> Tensor:
        q, k, v, gate, beta = (t[None] for t in x)
        return gated(q, k, v, gate=gate, beta=beta)[0]

    torch.testing.assert_close(torch.vmap(of_one)(q, k, v, gate, beta), want)
    (got,) = torch.func.vjp(lambda g: gated(q, k, v, gate=g, beta=beta), gate)[1](torch.ones_like(want))
    leaf = gate.clone().requires_grad_()
    torch.testing.assert_close(got, torch.autograd.grad(gated(q, k, v, gate=leaf, beta=beta).sum(), leaf)[0])
