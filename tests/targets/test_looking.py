"""The largest scores of rows, weights of rows and their sums over columns, against the definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import attnspec
from tests.support.clauses import CLAUSES, HEADS
from tests.support.marks import slow
from tests.support.oracle import close, tensors
from tests.support.patterns import MIXTURES
from tests.support.seen import seen
from tests.support.targets import TARGETS, compiled

TOLERANCE = 3e-5


def _cases() -> dict[str, tuple[str, Callable[[int, int], dict[str, Tensor]]]]:
    found = {name: (f"attention a {{ {clauses} }}", inputs) for name, (clauses, inputs) in CLAUSES.items()}
    return found | {name: (text, lambda batch, n: {}) for name, text in MIXTURES.items()}


CASES = _cases()
QUICK = ("documents", "softcap", "sink and mixture", "rotations", "lsh", "longnet detached")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, "cpp") for name in QUICK),
        *((name, "triton") for name in ("softcap", "sink and mixture")),
        *(slow(name, "cpp") for name in CASES if name not in QUICK),
        *(slow(name, "triton") for name in CASES if name not in ("softcap", "sink and mixture")),
    ],
)
def test_what_rows_see(name: str, target: str) -> None:
    text, inputs_of = CASES[name]
    attend = compiled(text, target)
    n = 45 if target == "triton" else 150
    q, k, v = tensors(n, n + 7 if name == "axes" else n, heads=HEADS, kv_heads=2, batch=1, seed=n, size=3.0)
    inputs = inputs_of(1, n)
    weights, largest = seen(attend, q, k, inputs)
    *results, got = attend(q, k, v, return_lse=True, return_max=True, **inputs)
    assert all(map(torch.equal, results, attend(q, k, v, return_lse=True, **inputs)))
    assert got.dtype == torch.float32
    assert torch.equal(torch.isinf(got), torch.isinf(largest))
    close("max", got.nan_to_num(neginf=0.0), largest.nan_to_num(neginf=0.0), TOLERANCE)
    close("sums", attend.column_sums(q, k, **inputs), weights.sum(2), TOLERANCE)
    rows = torch.tensor([0, n - 1, n // 3, n // 3])
    close("weights", attend.weights(q, k, rows=rows, **inputs), weights[:, :, rows], TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(70, 70, 2), (40, 3, 1), (3, 40, 4), (1, 1, 4), (5, 0, 4), (0, 5, 4)])
def test_types_and_sizes(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    """Odd sizes, rows and keys that see nothing, no rows and no keys; the sums are those of the tensors as they are."""
    n, n_q, kv_heads = size
    text = "attention a { attend window(9) and q % 5 != 1 }"
    q, k, v = (t.detach() for t in tensors(n, n_q, HEADS, kv_heads, 2, dim=24, dim_v=17, dtype=dtype))
    attend = compiled(text, "cpp")
    _, got = attend(q, k, v, return_max=True)
    weights, largest = seen(attend, q, k, {}) if n else (q.new_zeros(2, HEADS, n_q, 0), q.new_full((), -torch.inf))
    assert torch.equal(torch.isinf(got), torch.isinf(largest).expand(got.shape))
    close("max", got.nan_to_num(neginf=0.0), largest.expand(got.shape).nan_to_num(neginf=0.0), TOLERANCE)
    for own in (attend, attnspec.compile(text, target="dense")):
        sums, found = own.column_sums(q, k), own.weights(q, k, rows=slice(None, None, 2))
        assert sums.dtype == found.dtype == torch.float32
        assert sums.shape == (2, HEADS, n)
        close("sums", sums, weights.sum(2), TOLERANCE)
        close("weights", found, weights[:, :, ::2], TOLERANCE)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("clauses", ["", "attend k != 3  sink 0.5"])
def test_huge_scores_and_no_numbers(target: str, clauses: str) -> None:
    """Maxima are exact, whatever the kernel's running maximum skips, and a row with a NaN has one."""
    attend = compiled(f"attention a {{ attend causal  {clauses} }}", target)
    q, k, v = (t.detach() for t in tensors(40, heads=1, dim=16))
    k[0, 0, 30] *= 1e6
    q[0, 0, 35, 0] = float("nan")
    _, got = attend(q, k, v, return_max=True, scale=1.0)
    _, largest = compiled(f"attention a {{ attend causal  {clauses} }}", "cpp")(q, k, v, return_max=True, scale=1.0)
    dots = (q.double() @ k.double().mT)[0, 0].masked_fill(~attend.mask(40)[0, 0], -torch.inf).amax(-1)
    assert torch.isnan(got[0, 0, 35])
    fine = torch.arange(40) != 35
    torch.testing.assert_close(got[0, 0, fine].double(), dots[fine], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got, largest, equal_nan=True)


def test_gradients_are_right_or_refused() -> None:
    q, k, v = tensors(30, heads=4, kv_heads=2)
    attend, dense = attnspec.compile("causal"), attnspec.compile("causal", target="dense")
    for result in (attend(q, k, v, return_max=True)[1], attend.column_sums(q, k)):
        for source in (q, k):
            with pytest.raises(NotImplementedError, match=r"have no gradient. Use .detach\(\)"):
                torch.autograd.grad(result.sum(), source, retain_graph=True)
    attend(q, k, v, return_max=True)[0].sum().backward()  # type: ignore[no-untyped-call]
    exact, keys = (t.detach().double().requires_grad_() for t in (q, k))
    shown, _ = dense(exact, keys, torch.eye(30).double().expand(1, 2, 30, 30), return_max=True)
    seed = torch.randn(shown.shape, generator=torch.Generator().manual_seed(0)).double()
    wanted = torch.autograd.grad((shown * seed).sum(), (exact, keys))
    rows = slice(None)
    for a, b in zip(torch.autograd.grad((attend.weights(q, k, rows=rows) * seed).sum(), (q, k)), wanted, strict=True):
        close("through weights", a, b, TOLERANCE)
    shown = dense(exact, keys, torch.eye(30).double().expand(1, 2, 30, 30))
    wanted = torch.autograd.grad((shown.sum(2) * seed[:, :, 0]).sum(), (exact, keys))
    found = torch.autograd.grad((dense.column_sums(q, k) * seed[:, :, 0]).sum(), (q, k))
    for a, b in zip(found, wanted, strict=True):
        close("through sums", a, b, TOLERANCE)
    largest = dense(q, k, v, return_max=True)[1]
    scores = (q @ k.repeat_interleave(2, 1).mT / 4).masked_fill(~dense.mask(30, heads=4, kv_heads=2), -torch.inf)
    pair = torch.autograd.grad(largest.sum(), q)[0], torch.autograd.grad(scores.amax(-1).sum(), q)[0]
    torch.testing.assert_close(*pair)


@pytest.mark.parametrize(("name", "backend"), [("causal", "aot_eager"), slow("softcap", "inductor")])
def test_the_largest_scores_under_compile(name: str, backend: str) -> None:
    attend = attnspec.compile(name)
    q, k, v = tensors(40)

    @torch.compile(fullgraph=True, backend=backend)
    def layer(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, largest = attend(q * 2, k, v, return_max=True)
        return out.square().sum(), largest

    loss, largest = layer(q, k, v)
    out, wanted = attend(q * 2, k, v, return_max=True)
    torch.testing.assert_close(largest, wanted)
    (found,) = torch.autograd.grad(loss, q)
    torch.testing.assert_close(found, torch.autograd.grad(out.square().sum(), q)[0], atol=1e-5, rtol=1e-5)
    loss, largest = layer(q, k, v)
    with pytest.raises(NotImplementedError, match="the largest scores of rows have no gradient"):
        torch.autograd.grad(loss + largest.sum(), q)


@pytest.mark.parametrize("target", ["auto", "dense"])
def test_inside_transforms(target: str) -> None:
    """Mapped, all are those of each sample; a gradient is right or an error there too."""
    attend = attnspec.compile("causal", target=target)
    samples = tuple(t.detach().unflatten(0, (3, 1)) for t in tensors(20, batch=3))
    uses: tuple[Callable[..., Tensor], ...] = (
        lambda q, k, v: attend(q, k, v, return_max=True)[1],
        lambda q, k, v: attend.column_sums(q, k),
        lambda q, k, v: attend.weights(q, k, rows=[-1]),
    )
    q, k, v = samples[0][0], samples[1][0], samples[2][0]
    for use in uses:
        each = torch.stack([use(*sample) for sample in zip(*samples, strict=True)])
        torch.testing.assert_close(torch.vmap(use)(*samples), each)
        loss = partial(lambda use, q: use(q, k, v).square().sum(), use)
        if target == "auto" and use is not uses[2]:
            with pytest.raises(NotImplementedError, match="have no gradient"):
                torch.func.grad(loss)(q)
        else:
            leaf = q.clone().requires_grad_()
            torch.testing.assert_close(torch.func.grad(loss)(q), torch.autograd.grad(loss(leaf), leaf)[0])


def test_rows_that_are_not_there() -> None:
    q, k, _ = tensors(30, 20, heads=4, kv_heads=2)
    attend = attnspec.compile("causal")
    every = attend.weights(q, k, rows=slice(None))
    for rows, index in ((3, [3]), (-1, [19]), ([4, 4], [4, 4]), (torch.arange(20) % 7 == 0, [0, 7, 14]), ([], [])):
        torch.testing.assert_close(attend.weights(q, k, rows=rows), every[:, :, index])
    for wrong in (20, [-21], 1.5, torch.ones(19, dtype=torch.bool)):
        with pytest.raises(attnspec.CallError, match="causal: rows are numbers of the 20 rows of q"):
            attend.weights(q, k, rows=wrong)  # type: ignore[arg-type]
    with pytest.raises(attnspec.CallError, match="one head size"):
        attend.column_sums(q, k[..., :8])
    with pytest.raises(attnspec.CallError, match="no argument `is_causal`"):
        attend.weights(q, k, rows=0, is_causal=torch.ones(1))
    with pytest.raises(attnspec.CallError, match="at most 256 query heads"):
        attend.column_sums(torch.zeros(1, 300, 4, 8), torch.zeros(1, 1, 4, 8))


REALS = "attention a(cap = 2.5) { mix w in [4, 8] { attend window(w) }  score softcap(s, cap)  rotate rope() }"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", [MIXTURES["overlapping, detached"], *map(slow, (MIXTURES["branches"], MIXTURES["longnet detached"], REALS))]
)
def test_branches(text: str) -> None:
    """Each branch by itself; merged they are the mixture, also in its gradients."""
    attend = compiled(text, "cpp")
    q, k, v = tensors(80, heads=4, kv_heads=2)
    parts = [branch(q, k, v, return_lse=True) for branch in attend.branches]
    weighed = [(out, lse.detach()) for out, lse in parts] if attend.spec.detached else parts
    got, wanted = attnspec.merge(weighed)[0], attend(q, k, v)
    close("out", got, wanted, TOLERANCE)
    close("lse", attnspec.merge(parts)[1], attend(q, k, v, return_lse=True)[1], TOLERANCE)
    seed = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0))
    pairs = zip(*(torch.autograd.grad((out * seed).sum(), (q, k, v)) for out in (got, wanted)), strict=True)
    for a, b in pairs:
        close("gradient", a, b, TOLERANCE)
    assert [branch.program.layout for branch in attend.branches] == ["auto"] * len(attend.spec.mixture)


def test_branches_of_patterns_with_inputs_and_sinks() -> None:
    text, inputs_of = CASES["sink and mixture"]
    attend = compiled(text, "cpp")
    q, k, v = tensors(60, heads=HEADS)
    inputs = inputs_of(1, 60)
    parts = [branch(q, k, v, return_lse=True, **inputs) for branch in attend.branches]
    sink = attend(q, k, v, return_lse=True, **inputs)[1].exp() - attnspec.merge(parts)[1].exp()
    out, _ = attnspec.merge([*parts, (torch.zeros_like(v), sink.log())])
    close("out", out, attend(q, k, v, **inputs), 1e-4)
    assert attnspec.compile("causal").branches == ()
