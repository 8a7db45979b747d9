"""Long sequences of many residues, which go over them side by side."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from tests.support.marks import slow
from tests.support.oracle import close
from tests.support.targets import compiled, threads

DILATED = "attention a {{ {}  attend dilated(200, 3)  {} }}"
SIDE_BY_SIDE = {
    "one total": DILATED.format("", "linear exp(x)  divide total"),
    "gates": DILATED.format("input gate: float[batch, heads, n]", "linear x  decay gate[b, h, t]"),
    "gates by channel": DILATED.format("input gate: float[batch, heads, n, dim]", "linear x  decay gate[b, h, t, c]"),
    "a total for each": DILATED.format("", "linear q: softmax(x)  linear k: exp(x)  divide each total"),
}


@pytest.mark.parametrize(("name", "backward"), [("one total", False), *(slow(name, True) for name in SIDE_BY_SIDE)])
def test_residues_go_over_a_long_sequence_side_by_side(name: str, backward: bool) -> None:
    """On one thread all three, in turns; on two each by itself: the same numbers. Those are differences of sums."""
    n, attend = 4000, compiled(SIDE_BY_SIDE[name], "cpp", tile=(32, 32))
    q, k, v = given = [torch.randn(1, 1, n, 8).requires_grad_(backward) for _ in range(3)]
    shape = (1, 1, n, 8) if "channel" in name else (1, 1, n)
    inputs = {"gate": (-0.1 * torch.rand(shape)).requires_grad_(backward)} if "gates" in name else {}
    up, sources, found = torch.randn(1, 1, n, 8), [*given, *inputs.values()], []
    for number in (1, 2):
        with threads(number):
            out = attend(q, k, v, inputs=inputs)
            found.append([out, *(torch.autograd.grad(out, sources, up) if backward else ())])
    assert all(map(torch.equal, *found))
    if name == "one total":
        exact = [t.detach().double()[0, 0].requires_grad_(backward) for t in given]
        outs = []
        for c in range(3):
            a, b, z = (t[c::3] for t in exact)
            pairs = (b.exp()[:, :, None] * pad(z, (0, 1), value=1.0)[:, None]).cumsum(0)
            sums = torch.einsum("nd,ndv->nv", a.exp(), pairs - pad(pairs, (0, 0, 0, 0, 200, 0))[: len(pairs)])
            outs.append(sums[:, :-1] / sums[:, -1:])
        want = torch.stack([outs[i % 3][i // 3] for i in range(n)])
        wanted = [want, *(torch.autograd.grad(want, exact, up.double()[0, 0]) if backward else ())]
        for what, got, of in zip(("out", "dq", "dk", "dv"), found[0], wanted, strict=False):
            close(what, got[0, 0], of, 2e-5 if what == "out" else 1e-4)
