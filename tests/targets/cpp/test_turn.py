"""The C++ routine that turns pairs, against the formula in float64: element types, strides, tables, threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnspec
from attnspec.runtime.cpp.compiler import CompilerError, compiler
from attnspec.runtime.cpp.turn import _function, turn, turns
from attnspec.runtime.prepare import rotate as rotating
from attnspec.runtime.prepare.rotate import rotate
from attnspec.spec import expr as e
from attnspec.spec.parts import Rotation

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = [False, True]


def formula(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool) -> Tensor:
    """The definition, in float64."""
    half, out = cos.shape[-1], x.double().clone()
    first = slice(0, 2 * half, 2) if pairs else slice(0, half)
    second = slice(1, 2 * half, 2) if pairs else slice(half, 2 * half)
    a, b = x[..., first].double(), x[..., second].double()
    out[..., first], out[..., second] = a * cos.double() - b * sin.double(), b * cos.double() + a * sin.double()
    return out


def check(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool) -> None:
    """The routine gives the formula, rounded once from float32."""
    got, want = turn(x, cos, sin, pairs), formula(x, cos, sin, pairs)
    assert got.shape == x.shape
    assert got.dtype == x.dtype
    assert got.is_contiguous()
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=0.51 * torch.finfo(x.dtype).eps)
    rest = slice(2 * cos.shape[-1], None)
    assert torch.equal(got[..., rest], x[..., rest])


def angles(*shape: int) -> tuple[Tensor, Tensor]:
    turns = torch.rand(shape) * 7
    return turns.cos() * 1.2, turns.sin() * 1.2


@given(
    half=st.integers(1, 70),
    rest=st.integers(0, 37),
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    n=st.sampled_from([1, 2, 63, 64, 65, 130]),
    dtype=st.sampled_from(DTYPES),
    pairs=st.booleans(),
    threads=st.integers(1, 3),
)
def test_it_is_the_formula(
    half: int, rest: int, batch: int, heads: int, n: int, dtype: torch.dtype, pairs: bool, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(torch.randn(batch, heads, n, 2 * half + rest).to(dtype), *angles(n, half), pairs)
    finally:
        torch.set_num_threads(before)


VIEWS = {
    "heads after rows": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "elements before rows": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch innermost": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "every third element": lambda x: x.repeat_interleave(3, dim=-1)[..., ::3],
    "inside a larger one": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4), value=float("nan"))[:, :, 1:-4, 3:-2],
    "one batch entry": lambda x: x[:1].expand(x.shape),
    "one row": lambda x: x[:, :, :1].expand(x.shape),
    "one number": lambda x: x[..., :1].expand(x.shape),
}


@pytest.mark.parametrize("pairs", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(view: str, dtype: torch.dtype, pairs: bool) -> None:
    x = VIEWS[view](torch.randn(2, 3, 70, 22).to(dtype))
    check(x, *angles(70, 8), pairs)


@pytest.mark.parametrize("pairs", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 70), (2, 1, 70), (1, 3, 70), (2, 3, 70)])
def test_tables_of_batch_entries_and_heads(shape: tuple[int, ...], pairs: bool) -> None:
    x = torch.randn(2, 3, 70, 22)
    cos, sin = angles(*shape, 8)
    check(x, cos, sin, pairs)
    apart = torch.stack((cos, sin), dim=-1)
    check(x, apart[..., 0], apart[..., 1], pairs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 2, 3, 8), (2, 0, 3, 8), (2, 2, 0, 8), (1, 1, 1, 2), (1, 1, 1, 7)])
def test_empty_and_small(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    for half in range(shape[-1] // 2 + 1):
        check(x, *angles(shape[2], half), True)
        check(x, *angles(shape[2], half), False)


@pytest.mark.parametrize("factor", [1.0, 0.7, 1.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pairs", LAYOUTS)
def test_every_finite_number_is_converted_and_rounded_as_torch_does(
    pairs: bool, dtype: torch.dtype, factor: float
) -> None:
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    x = every[every.isfinite()].view(1, 1, -1, 16)
    cos, sin = torch.full((x.shape[2], 8), factor), torch.zeros(x.shape[2], 8)
    assert torch.equal(turn(x, cos, sin, pairs), (x.float() * cos[0, 0]).to(dtype))


def test_threads_do_not_change_the_result() -> None:
    x, (cos, sin) = torch.randn(2, 3, 1000, 48), angles(2, 1, 1000, 20)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(turn(x, cos, sin, False))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairs", LAYOUTS)
def test_gradients(pairs: bool, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 9, 22).to(dtype).transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    gradient = torch.randn(2, 3, 9, 22).to(dtype).requires_grad_()
    cos, sin = angles(2, 1, 9, 8)
    exact, exact_gradient = x.detach().double().requires_grad_(), gradient.detach().double().requires_grad_()
    (got,) = torch.autograd.grad(turn(x, cos, sin, pairs), x, gradient, create_graph=True)
    (want,) = torch.autograd.grad(formula(exact, cos, sin, pairs), exact, exact_gradient, create_graph=True)
    close = {"atol": 1e-6, "rtol": 0.51 * torch.finfo(dtype).eps}
    torch.testing.assert_close(got.double(), want, **close)
    (again,) = torch.autograd.grad(got, gradient, x.detach())
    torch.testing.assert_close(again.double(), formula(x.detach(), cos, sin, pairs), **close)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator_keeps_the_rules_of_operators(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 9, 22).to(dtype).transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    torch.library.opcheck(torch.ops.attnspec.turn.default, (x, *angles(9, 8), True))


def test_what_it_takes() -> None:
    assert turns(torch.ones(1, 1, 1, 2, dtype=torch.bfloat16))
    assert not turns(torch.ones(1, 1, 1, 2, dtype=torch.float64))
    assert not turns(torch.ones(1, 1, 1, 2, device="meta"))


# As rotations


ROTATIONS = {
    "rope": Rotation("rope", (("theta", 100.0), ("dims", 0), ("layout", "half")), e.Var("q"), e.Var("k")),
    "some dimensions": Rotation("rope", (("theta", 100.0), ("dims", 6), ("layout", "pairs")), e.Var("q"), e.Var("k")),
    "xpos": Rotation(
        "xpos", (("theta", 100.0), ("scale_base", 64.0), ("dims", 0), ("layout", "pairs")), e.Var("q"), e.Var("k")
    ),
}
POSITIONS = {
    "range": range(5, 75),
    "list": torch.randint(0, 70, (70,)),
    "by batch entry": torch.randint(0, 70, (2, 70)),
    "by head": torch.randint(0, 70, (1, 3, 70)),
    "by both": torch.randint(0, 70, (2, 3, 70)),
    "transposed": torch.randint(0, 70, (70, 2)).T,
    "constant": torch.tensor(7).expand(70),
}


@pytest.mark.parametrize("side", ["q", "k"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_rotations(rotation: str, positions: str, side: str) -> None:
    x = torch.randn(2, 3, 70, 14)
    at, how = POSITIONS[positions], ROTATIONS[rotation]
    want = rotate(x.double(), at, how, side, 35.0)
    for compiled in (True, False):
        got = rotate(x, at, how, side, 35.0, compiled)
        torch.testing.assert_close(got.double(), want, atol=4e-6, rtol=0)


def test_it_is_what_kernels_use_and_the_dense_target_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def recorder(x: Tensor, cos: Tensor, sin: Tensor, pairs: bool, start: int) -> Tensor:
        called.append(x.shape)
        return turn(x, cos, sin, pairs, start)

    for name in ("turn", "turn_at_once"):
        monkeypatch.setattr(rotating, name, recorder)
    q, k, v = torch.randn(1, 4, 50, 16), *torch.randn(2, 1, 2, 50, 16).unbind(0)
    want = attnspec.compile("rope", target="dense")(q, k, v)
    assert not called
    got = attnspec.compile("rope")(q.requires_grad_(), k, v)
    assert called == [q.shape, k.shape]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_compiled_graphs_have_no_breaks() -> None:
    attend = attnspec.compile("rope")
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 1, 2, 50, 16).unbind(0))
    got, want = (f(q, k, v) for f in (torch.compile(attend, fullgraph=True, backend="aot_eager"), attend))
    torch.testing.assert_close(got, want)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b)
    x, (cos, sin) = torch.randn(1, 2, 9, 8), angles(9, 4)
    alone = torch.compile(turn, fullgraph=True, backend="aot_eager")
    assert torch.equal(alone(x, cos, sin, True), turn(x, cos, sin, True))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for cached in (compiler, _function):
        cached.cache_clear()
    yield
    for cached in (compiler, _function):
        cached.cache_clear()


@pytest.mark.usefixtures("no_compiler")
def test_the_dense_target_needs_no_compiler() -> None:
    q, k, v = torch.randn(3, 1, 2, 50, 16).unbind(0)
    assert attnspec.compile("rope", target="dense")(q, k, v).isfinite().all()
    with pytest.raises(CompilerError, match="no C\\+\\+ compiler"):
        attnspec.compile("rope")(q, k, v)
