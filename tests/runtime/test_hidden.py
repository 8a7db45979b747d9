"""Keys that no row sees may be no numbers: they have no part in outputs and gradients."""

from __future__ import annotations

import pytest
import torch

import attnspec
from tests.support.linear import TOLERANCE
from tests.support.oracle import close, tensors

LINES = {
    "scalar gates": "input gate: float[batch, heads, n]  linear x  decay gate[b, h, t]",
    "gates by channel": "input gate: float[batch, heads, n, dim]  linear x  decay gate[b, h, t, c]",
    "each": "linear q: softmax(x)  linear k: exp(x)  divide each total",
    "total": "linear elu(x) + 1  divide total",
    "delta": "input beta: float[batch, heads, n]  normalize k  linear x  delta beta[b, h, k]",
    "gated delta": "input beta: float[batch, heads, n]  input gate: float[batch, heads, n]  normalize k  linear x"
    "  decay gate[b, h, t]  delta beta[b, h, k]",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_hidden_keys_that_are_no_numbers(name: str) -> None:
    n, dim = 70, 8
    hidden = torch.zeros(1, n, dtype=torch.bool)
    hidden[:, 10:20] = hidden[:, 60:] = True
    q, k, v = (t.detach() for t in tensors(n, dim=dim, dim_v=5))
    k[:, :, hidden[0]] = v[:, :, hidden[0]] = torch.nan
    given = {"beta": torch.rand(1, q.shape[1], n)} if "beta" in LINES[name] else {}
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
