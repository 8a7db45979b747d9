"""Queries turned by the kernel as it loads them, where no gradients are wanted: bit by bit as turned before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import attnspec
from attnspec.codegen.layouts.grid import Grid
from attnspec.codegen.layouts.residue import Residue
from attnspec.runtime import attend as around
from attnspec.runtime import operators as operator
from attnspec.runtime.cpp.turn import turns
from attnspec.runtime.prepare.rotate import angles
from tests.support.marks import slow
from tests.support.oracle import close, tensors
from tests.support.targets import threads

PATTERNS = {
    "half": "attend window(50)  rotate rope()",
    "pairs": "attend causal  rotate rope(layout = pairs)",
    "some dimensions": "attend causal  rotate rope(layout = pairs, dims = 6)",
    "some dimensions, half": "attend causal  rotate rope(dims = 6)",
    "residues": "attend 0 <= q - k < 256 and (q - k) % 4 == 0  rotate rope()",
    "grid": "attend neighborhood(16, 2, 3)  rotate rope(layout = pairs)",
    "passes": "attend window(16)  attend strided(16)  within causal  rotate yarn(original = 64, factor = 4)",
    "decays": "attend causal  rotate xpos()",
    "score lines": "attend causal  score s + (k - q) / 16  rotate rope()",
    "positions by head": "attend causal  rotate rope() at (q * (h + 1), k * (h + 1))",
    "of length one": "attend causal  normalize q  rotate rope()",
    "mixture": "mix w in [8, 64] { attend window(w) }  rotate rope()",
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def each(values: Sequence[Any], quick: Sequence[Any] | None = None) -> list[Any]:
    """Each of these values with each element type: the quick ones (or all) quick with one type, else slow."""
    often = values if quick is None else quick
    cases = [(v in often and i % 3 == j, v, dtype) for i, v in enumerate(values) for j, dtype in enumerate(DTYPES)]
    return [case if here else slow(*case) for here, *case in cases]


def compiled(name: str) -> attnspec.Attention:
    return attnspec.compile(f"attention a {{ {PATTERNS[name]} }}")


@pytest.fixture
def turning(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each call in which the kernel turns the queries, and the angles."""
    calls: list[Any] = []
    real = operator.attended_turning

    def counted(call: Any, by: Any, at_once: bool) -> Any:
        calls.append((call, by))
        return real(call, by, at_once)

    monkeypatch.setattr(operator, "attended_turning", counted)
    return calls


def same(attend: attnspec.Attention, q: Tensor, k: Tensor, v: Tensor, **inputs: Any) -> None:
    """Both forms give the same bits."""
    found = []
    for takes in (turns, lambda _: False):
        with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(around, "turns", takes)
            found.append(attend(q, k, v, return_lse=True, **inputs))
    for got, want in zip(*found, strict=True):
        assert not got.isnan().any()
        assert torch.equal(got, want)


@pytest.mark.parametrize(("name", "dtype"), each(tuple(PATTERNS), ("passes",)))
def test_same_bits(name: str, dtype: torch.dtype, turning: list[Any]) -> None:
    attend = compiled(name)
    shared = name != "positions by head"
    sizes = ((200, 200, 4), (77, 31, 2 if shared else 4), (90, 1, 1 if shared else 4), (40, 70, 4))
    for n, n_q, kv_heads in sizes:
        same(attend, *tensors(n, n_q, heads=4, kv_heads=kv_heads, batch=2, dim=24, dtype=dtype))
    assert len(turning) == len(sizes), "one of the two forms was the kernel's"


@pytest.mark.parametrize(("dim", "dtype"), each([6, 7, 80, 15, 64], (64,)))
def test_head_sizes(dim: int, dtype: torch.dtype, turning: list[Any]) -> None:
    for name in ("some dimensions", "some dimensions, half", *(("half", "pairs") if dim % 2 == 0 else ())):
        same(compiled(name), *tensors(130, heads=2, dim=dim, dtype=dtype))
        assert turning.pop()[1].cos.shape[-1] == (3 if name.startswith("some") else dim // 2)


def test_what_the_patterns_stand_for() -> None:
    def plan(name: str) -> Any:
        return compiled(name).plan_for(heads=4, kv_heads=4, batch=2)

    assert isinstance(plan("grid").passes[0].layout, Grid)
    assert plan("residues").passes[0].layout == Residue(4)
    assert plan("passes").carry
    assert plan("mixture").carry


@pytest.mark.parametrize(("name", "dtype"), each(["half", "pairs", "some dimensions"], ("half",)))
def test_strided_queries(name: str, dtype: torch.dtype) -> None:
    attend = compiled(name)
    k, v = torch.randn(2, 1, 4, 120, 16).to(dtype).unbind(0)
    q = torch.randn(1, 4, 120, 16).to(dtype)
    for view in (
        q.transpose(2, 3).contiguous().transpose(2, 3),
        q.transpose(1, 2).contiguous().transpose(1, 2),
        q[:, :1].expand(q.shape),
        torch.nn.functional.pad(q, (3, 2, 1, 4), value=float("nan"))[:, :, 1:-4, 3:-2],
    ):
        same(attend, view, k, v)


def test_many_threads() -> None:
    with threads(3):
        same(compiled("pairs"), *tensors(300, heads=4, kv_heads=2, batch=2))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *(("rope()", "batch, n"), ("rope(layout = pairs)", "n"), ("xpos()", "n")),
        *(slow(*case) for case in (("rope()", "n"), ("rope(layout = pairs)", "batch, n"), ("xpos()", "batch, n"))),
    ],
)
def test_positions_from_an_input(kind: str, shape: str, turning: list[Any]) -> None:
    at = "(place[b, q], place[b, k])" if "batch" in shape else "(place[q], place[k])"
    attend = attnspec.compile(f"attention a {{ input place: int[{shape}]  attend causal  rotate {kind} at {at} }}")
    q, k, v = tensors(60, batch=2)
    place = torch.randint(0, 1000, (2, 60), generator=torch.Generator().manual_seed(0))
    same(attend, q, k, v, place=place if "batch" in shape else place[0])
    assert len(turning) == 1


def test_a_computed_order_and_sinks(turning: list[Any]) -> None:
    order = (
        "attention a { order by lsh(buckets = 8, rounds = 2, seed = 0)  attend q.slot // 16 - k.slot // 16 in 0..2  "
        "within causal  rotate rope(layout = pairs) }"
    )
    q, _, v = tensors(96, heads=2)
    same(attnspec.compile(order), q, q, v)
    sinks = attnspec.compile(
        "attention a { input logit: float[heads]  attend window(30)  rotate rope()  sink logit[h] }"
    )
    same(sinks, *tensors(96, heads=4, kv_heads=2), logit=torch.randn(4))
    assert len(turning) == 2


def test_only_without_gradients(turning: list[Any]) -> None:
    attend = compiled("half")
    q, k, v = tensors(40)
    want = attend(q, k, v)
    assert not turning
    with torch.no_grad():
        got = attend(q, k, v)
    assert len(turning) == 1
    assert torch.equal(turning[0][0].q, q), "they arrive unturned"
    assert torch.equal(got, want)
    for some in ((q, k.detach(), v.detach()), (q.detach(), k, v.detach()), (q.detach(), k.detach(), v)):
        assert attend(*some).requires_grad
    assert len(turning) == 1


def test_where_it_is_not_done(turning: list[Any]) -> None:
    q, k, v = (t.detach() for t in tensors(40))
    two = "attention a { attend causal  rotate rope(dims = 4)  rotate xpos(start = 4) }"
    want = attnspec.compile(two, target="dense")(q, k, v)
    close("several rotations", attnspec.compile(two)(q, k, v), want, 1e-5)
    assert not turning
    attend = compiled("half")
    close("compiled", torch.compile(attend, fullgraph=True, backend="aot_eager")(q, k, v), attend(q, k, v), 1e-5)
    assert len(turning) == 1, "that of the call outside the graph"
    for target, expected in (("cpp", True), ("triton", False)):
        made = attnspec.compile(f"attention a {{ {PATTERNS['half']} }}", target=target)
        assert around.Around.of(made.spec, made.program.encoded).turns is expected


def test_operator() -> None:
    attend = compiled("half")
    q, k, v = (t.detach() for t in tensors(40))
    cos, sin, pairs, _ = angles(q, range(40), attend.spec.rotations[0], "q")
    arguments: tuple[Any, ...] = (k, v, [], None, None, 0.25, attend.program.encoded, cos, sin, pairs)
    torch.library.opcheck(operator.attend_turning, (q, *arguments))
    out, _ = operator.attend_turning(q.clone().requires_grad_(), *arguments)
    with pytest.raises(NotImplementedError, match="attend_turning has no gradients"):
        out.sum().backward()


def test_a_graph_traced_without_gradients_has_them() -> None:
    """It turns queries before the kernel: what is traced may be asked for gradients later."""
    attend = compiled("half")
    q, k, v = tensors(40)
    with torch.no_grad():
        graph = make_fx(lambda *qkv: attend(*qkv))(q, k, v)
    got, want = graph(q, k, v), attend(q, k, v)
    close("traced", got, want, 1e-6)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (got, want)), strict=True):
        close("gradient", a, b, 1e-5)
