"""Keys that no row sees may be no numbers: they have no part in outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.check.check import check_text
from attnspec.relation.sizes import Sizes
from attnspec.runtime.linear.features import mapped
from tests.support.linear import TOLERANCE
from tests.support.oracle import close, tensors

LINES = {
    "scalar gates": "input gate: float[batch, heads, n]  linear x  decay gate[b, h, t]",
    "gates by channel": "input gate: float[batch, heads, n, dim]  linear x  decay gate[b, h, t, c]",
    "each": "linear q: softmax(x)  linear k: exp(x)  divide each total",
    "total": "linear elu(x) + 1  divide total",
    "features of whole vectors": "linear softmax(x)  divide total",
    "lists": "linear [exp(x), exp(-x)]  divide total",
    "each, by another divisor": "linear softmax(x)  divide each total + 0.5",
    "each, no exponentials": "linear elu(x) + 1  divide each total",
    "learned": "input w: float[heads, dim]  linear softmax(x * w[h, c])  divide total",
    "favor": "linear favor(x, features = 12, through_max = true)  divide guarded(total, 1e-6)",
    "favor, running": "linear favor(x, features = 12, stable = running)  divide total",
    "favor, each": "linear favor(x, features = 12)  divide each total",
    "divided delta": "input beta: float[batch, heads, n]  linear elu(x) + 1  divide total  delta beta[b, h, k]",
    "delta by another divisor": "input beta: float[batch, heads, n]  linear elu(x) + 1"
    "  divide total * total + 1.0 + mass  delta beta[b, h, k]",
    "delta": "input beta: float[batch, heads, n]  normalize k  linear x  delta beta[b, h, k]",
    "gated delta": "input beta: float[batch, heads, n]  input gate: float[batch, heads, n]  normalize k  linear x"
    "  decay gate[b, h, t]  delta beta[b, h, k]",
}


@pytest.mark.slow
@pytest.mark.parametrize("hides", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", LINES)
def test_hidden_keys_that_are_no_numbers(name: str, hides: float) -> None:
    n, dim = 70, 8
    hidden = torch.zeros(1, n, dtype=torch.bool)
    hidden[:, 10:20] = hidden[:, 60:] = True
    q, k, v = (t.detach() for t in tensors(n, dim=dim, dim_v=5))
    k[:, :, hidden[0]] = v[:, :, hidden[0]] = hides
    given = {"beta": torch.rand(1, q.shape[1], n)} if "beta" in LINES[name] else {}
    if "w[h, c]" in LINES[name]:
        given["w"] = torch.rand(q.shape[1], dim)
    if "gate" in LINES[name]:
        given["gate"] = -torch.rand(1, q.shape[1], n, *([dim] if "channel" in name else []))
    text = f"attention a {{ input pad: bool[batch, n]  attend causal and not pad[b, k]  {LINES[name]} }}"
    found = []
    for target, dtype in (("cpp", torch.float32), ("dense", torch.float64)):
        sources = [t.to(dtype).requires_grad_() for t in (q, k, v, *given.values())]
        out = attnspec.compile(text, target=target)(
            *sources[:3], inputs={"pad": hidden, **dict(zip(given, sources[3:], strict=True))}
        )
        up = torch.ones(out.shape, dtype=dtype)
        found.append([out, *torch.autograd.grad(out, sources, up)])
    for number, (x, y) in enumerate(zip(*found, strict=True)):
        close(f"result {number}", x, y, TOLERANCE[torch.float32][number > 0])


@pytest.mark.parametrize(
    "line", ["softmax(x)", "favor(x)", "favor(x, stable = running)", "[exp(x), exp(-x)]", "sqrt(x ** 2)"]
)
def test_gradients_of_vectors_that_no_row_sees(line: str) -> None:
    spec = check_text(f"attention a {{ linear {line} }}")
    x = torch.randn(1, 1, 3, 4).index_fill(2, torch.tensor([1]), torch.nan)
    clean = x.nan_to_num(0.0 if "favor" in line else 1.0).requires_grad_()
    x.requires_grad_()
    want, got = (mapped(spec, "k", t, {}, Sizes(3, 3), None).values[..., [0, 2], :] for t in (clean, x))
    assert torch.equal(want, got)
    found, wanted = (torch.autograd.grad(t.square().sum(), of)[0] for t, of in ((got, x), (want, clean)))
    assert torch.equal(found, wanted.index_fill(2, torch.tensor([1]), 0.0))


def test_hidden_keys_of_any_size_in_the_dense_meaning() -> None:
    q, k, v = (t.double() for t in tensors(5, heads=1, dim=3))
    k = k.detach().index_fill(2, torch.tensor([4]), 1e5).requires_grad_()
    attend = attnspec.compile("attention a { attend k < 4  linear exp(x)  divide total }", target="dense")
    out = attend(q, k, v)
    assert torch.equal(out, attend(q, k.detach().index_fill(2, torch.tensor([4]), 0.0), v))
    assert torch.autograd.grad(out.sum(), k)[0].isfinite().all()


def _cut(name: str, target: str, hides: float, cache: bool = False) -> list[Tensor]:
    """Outputs, state and gradients of a sequence in pieces of 8, in which 3 of 8 keys and rows have no part."""
    n, dtype = 24, torch.float64 if target == "dense" else torch.float32
    sources = [t.detach().to(dtype) for t in tensors(n, heads=2, kv_heads=1, batch=1, dim=4, dim_v=3)]
    for t in sources:
        t.unflatten(2, (-1, 8))[:, :, :, :3] = hides
    given = {"beta": torch.rand(1, 2, n, dtype=dtype)} if "beta" in LINES[name] else {}
    if "gate" in LINES[name]:
        given["gate"] = -torch.rand(1, 2, n, *([4] if "channel" in name else []), dtype=dtype)
    if "w[h, c]" in LINES[name]:
        given["w"] = torch.rand(2, 4, dtype=dtype)
    pattern = "causal and k // 8 >= q // 8 - 1 and k % 8 > 2 and q % 8 > 2"
    attend = attnspec.compile(f"attention a {{ attend {pattern}  {LINES[name]} }}", target=target)
    leaves = [t.requires_grad_(not cache) for t in (*sources, *given.values())]
    outs, state = [], None
    kept = attnspec.Cache(attend, batch=1, kv_heads=1, heads=2, dim=4, dim_v=3) if cache else None
    for start in range(0, n, 8):
        q, k, v = (t[:, :, start : start + 8] for t in leaves[:3])
        own = {one: t if one == "w" else t[:, :, start : start + 8] for one, t in zip(given, leaves[3:], strict=True)}
        if kept is not None:
            kept.append(k.float(), v.float())
            outs.append(kept.attend(q.float(), inputs=own))
            continue
        out, state = attend(q, k, v, inputs=own, state=state, q_start=start, return_state=True)
        outs.append(out)
    if state is None:
        return outs
    results = [torch.cat(outs, 2), state]
    up = [torch.ones_like(x) for x in results]
    return [*results, *torch.autograd.grad(results, leaves, up, materialize_grads=True)]


def _same_cut(name: str, target: str, cache: bool = False) -> None:
    torch.manual_seed(0)
    want = _cut(name, target, 0.5, cache)
    for hides in (torch.nan, torch.inf):
        torch.manual_seed(0)
        for number, (x, y) in enumerate(zip(_cut(name, target, hides, cache), want, strict=True)):
            close(f"result {number}", x, y.detach().double(), 1e-12 if target == "dense" and not cache else 1e-5)


@pytest.mark.parametrize("name", ["gated delta", "gates by channel", "each", "total", "delta by another divisor"])
def test_hidden_keys_of_a_cut_sequence(name: str) -> None:
    _same_cut(name, "dense")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*LINES} - {"favor", "favor, running", "favor, each"}))
@pytest.mark.parametrize("target", ["dense", "cpp"])
def test_hidden_keys_of_cut_sequences(name: str, target: str) -> None:
    _same_cut(name, target)


@pytest.mark.parametrize("name", ["each", "scalar gates", pytest.param("delta", marks=pytest.mark.slow)])
def test_hidden_keys_in_caches_of_states(name: str) -> None:
    _same_cut(name, "dense", cache=True)
