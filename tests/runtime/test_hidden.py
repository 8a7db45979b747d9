"""Keys that no row sees may be no numbers: they have no part in outputs and gradients."""

from __future__ import annotations

import pytest
import torch

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
