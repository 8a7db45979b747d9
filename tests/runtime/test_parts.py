"""What ``part``, ``part_backward`` and ``add_sink`` refuse, with nothing written, and what torch sees of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attnspec
from attnspec.runtime.core.arguments import CallError

CAUSAL = attnspec.compile("attention causal_ { attend causal }")
SLOPES = "attention slopes { input slope: float[heads]  attend causal  score s + slope[h] * (k - q) }"
DETACHED = "attention a { mix w in [8, 32] weights detached { attend window(w) } }"
AT = {"q_start": 10, "k_start": 20, "n": 100}


def vectors(rows: int = 30, keys: int = 40, heads: int = 4, kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, heads, rows, 16, generator=generator),
        torch.randn(2, kv_heads, keys, 16, generator=generator),
        torch.randn(2, kv_heads, keys, 8, generator=generator),
    )


def sums() -> dict[str, Tensor]:
    return {"out": torch.zeros(2, 4, 30, 8), "lse": torch.full((2, 4, 30), float("-inf"))}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k_start": 70}, r"k has 40 keys from k_start = 70 on, which is beyond n = 100"),
        ({"q_start": 80}, r"q has 30 rows from q_start = 80 on; queries stand at positions 0 to 99"),
        ({"q_start": -1}, r"q has 30 rows from q_start = -1 on; queries stand at positions 0 to 99"),
        ({"q_start": -1, "n_q": 80}, r"positions 20 to 99 \(n = 100, n_q = 80\)"),
        ({"k_start": -1}, r"k_start must not be negative; it is -1"),
        ({"n": -1}, r"n must not be negative"),
        ({"n": 1 << 40}, r"n, the length of the whole sequence, must be between 0 and 2\*\*33"),
        ({"q_start": 1.5}, r"q_start is a number of positions, heads or batch entries, not 1.5"),
        ({"n_q": True}, r"n_q is a number .* not True"),
        ({"h_start": -2}, r"h_start must not be negative"),
        ({"h_start": 6, "heads": 8}, r"there are 4 query heads from 6 on, which is beyond heads = 8"),
        ({"kv_heads": 1}, r"there are 2 key heads from 0 on, which is beyond kv_heads = 1"),
        ({"b_start": 1, "batch": 2}, r"there are 2 batch entries from 1 on, which is beyond batch = 2"),
        ({"lse": None}, r"out is given without lse"),
        ({"out": None}, r"lse is given without out"),
        ({"out": torch.zeros(2, 4, 30, 9)}, r"out has the shape \(2, 4, 30, 9\); it must be \(2, 4, 30, 8\)"),
        ({"lse": torch.zeros(2, 4, 29)}, r"lse has the shape \(2, 4, 29\); it must be \(2, 4, 30\)"),
        ({"out": torch.zeros(2, 4, 30, 8).bfloat16()}, r"out is torch.bfloat16; it must be torch.float32"),
        ({"lse": torch.zeros(2, 4, 30).double()}, r"lse is torch.float64; it must be torch.float32"),
        ({"out": torch.zeros(2, 4, 30, 8, device="meta")}, r"out is on meta, but q is on cpu"),
        ({"out": torch.zeros(2, 4, 1, 8).expand(2, 4, 30, 8)}, r"out is expanded: its elements share memory"),
        (
            {"out": torch.zeros(2, 4, 30, 8).requires_grad_()},
            r"a part that is merged into out and lse has no gradients",
        ),
        ({"doc": torch.zeros(3)}, r"there is no input `doc`; the spec takes none"),
        ({"scale": float("nan")}, r"scale is nan"),
    ],
)
def test_what_a_part_refuses(given: dict[str, Any], message: str) -> None:
    into = sums()
    before = {name: t.clone() for name, t in into.items()}
    with pytest.raises(CallError, match=message):
        CAUSAL.part(*vectors(), **{**AT, **into, **given})
    for name, t in into.items():
        assert torch.equal(t, before[name])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k_start": 70}, r"k has 40 keys from k_start = 70 on"),
        ({"dq": torch.zeros(2, 4, 30, 15)}, r"dq has the shape \(2, 4, 30, 15\); it must be \(2, 4, 30, 16\)"),
        ({"dk": torch.zeros(2, 2, 40, 16).half()}, r"dk is torch.float16; it must be torch.float32"),
        ({"dv": 3}, r"dv must be a tensor, not int"),
        ({"lse": torch.zeros(2, 4, 31)}, r"lse has the shape"),
        ({"dlse": torch.zeros(2, 4, 30).half()}, r"dlse is torch.float16"),
        ({"dout": torch.zeros(2, 4, 30, 8).long()}, r"dout is torch.int64; it must be a floating-point type"),
        ({"dinputs": {"slope": torch.zeros(4)}}, r"dinputs names `slope`, which is no float input of this call"),
    ],
)
def test_what_part_backward_refuses(given: dict[str, Any], message: str) -> None:
    results = {**sums(), "dout": torch.zeros(2, 4, 30, 8), **given}
    into = {"dq": torch.zeros(2, 4, 30, 16), "dk": torch.zeros(2, 2, 40, 16), "dv": torch.zeros(2, 2, 40, 8), **given}
    with pytest.raises(CallError, match=message):
        CAUSAL.part_backward(*vectors(), **{**AT, **results, **into})
    for name in {"dq", "dk", "dv"} - given.keys():
        assert not into[name].any()


def test_sizes_that_a_part_does_not_tell_are_asked_for() -> None:
    q, k, v = vectors()
    slopes, slope = attnspec.compile(SLOPES), torch.rand(8)
    with pytest.raises(CallError, match="the pattern reads `heads`, which a part does not tell: give heads="):
        slopes.part(q, k, v, **AT, h_start=4, slope=slope)
    with pytest.raises(CallError, match=r"input `slope` has the shape \(8,\); it is declared .* here \(4,\)"):
        slopes.part(q, k, v, **AT, slope=slope)
    of_rows = attnspec.compile("attention rows { input row: bool[n_q]  attend row[q] }")
    with pytest.raises(CallError, match="the pattern reads `n_q`, which a part does not tell: give n_q="):
        of_rows.part(q, k, v, **AT, row=torch.ones(100, dtype=torch.bool))


def test_gradients_that_parts_do_not_have() -> None:
    q, k, v = vectors()
    with pytest.raises(CallError, match="the weights of the mixture are detached"):
        attnspec.compile(DETACHED).part(q.requires_grad_(), k, v, **AT)
    with pytest.raises(CallError, match="a part that is merged into out and lse has no gradients"):
        CAUSAL.part(q, k, v, **AT, **sums())
    with pytest.raises(NotImplementedError, match=r"parts have no rules for torch\.func"):
        torch.vmap(lambda x: CAUSAL.part(x, k, v, **AT))(q[None])


def test_other_targets_refuse_parts() -> None:
    with pytest.raises(CallError, match='target="dense" has no parts'):
        attnspec.compile("causal", target="dense").part(*vectors(), **AT)


def test_operations_of_parts_are_not_counted_as_none() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False), pytest.raises(NotImplementedError, match="does not count parts"):
        CAUSAL.part(*vectors(), **AT)


def test_a_sink_is_added_once() -> None:
    """To rows that see nothing too; the results are differentiable in the logit."""
    attend = attnspec.compile("attention a { input logit: float[heads]  within causal  sink logit[h] }")
    out, lse = torch.randn(1, 2, 3, 8), torch.tensor([0.5, float("-inf"), -2.0]).expand(1, 2, 3)
    logit = torch.tensor([9.0, 1.0, -1.0, 9.0]).requires_grad_()
    got_out, got_lse = attend.add_sink(out, lse, q_start=3, n=9, h_start=1, heads=4, logit=logit)
    want_lse = torch.logaddexp(lse, logit[1:3, None])
    torch.testing.assert_close(got_lse, want_lse)
    torch.testing.assert_close(got_out, torch.where(lse.isinf(), 0.0, torch.exp(lse - want_lse))[..., None] * out)
    want = torch.autograd.grad(want_lse.sum(), logit)[0]
    torch.testing.assert_close(torch.autograd.grad(got_lse.sum(), logit)[0], want)
    assert CAUSAL.add_sink(out, lse, q_start=0, n=9)[0] is out


@pytest.mark.parametrize("rows", [30, 9000])
def test_a_part_that_sees_nothing(rows: int) -> None:
    """Its output is a tensor as any other, also where it is so large that it takes no memory at first."""
    q, k, v = vectors(rows)
    for keep in (False, True):
        out, lse = CAUSAL.part(q.requires_grad_(keep), k, v, q_start=0, k_start=rows, n=rows + 40)
        assert out.shape == (2, 4, rows, 8)
        assert out.is_contiguous()
        assert not out.any()
        assert bool((lse == float("-inf")).all())
    near = CAUSAL.part(
        q.detach()[:, :, -1:], k, v, q_start=rows - 1, k_start=rows - 40 if rows > 40 else 0, n=rows + 40
    )
    with torch.no_grad():
        out[:, :, -1:] += near[0]
    assert torch.equal(out[:, :, -1:], near[0])


def test_past_the_dispatcher_and_through_it() -> None:
    """The same results, and what is added to in place counts as changed: autograd refuses what was saved of it."""
    q, k, v = vectors()
    names: list[str] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    at_once, into = CAUSAL.part(q, k, v, **AT), sums()
    CAUSAL.part(q, k, v, **AT, **into)
    with Seen():
        through, other = CAUSAL.part(q, k, v, **AT), sums()
        CAUSAL.part(q, k, v, **AT, **other)
    assert {"attnspec::part", "attnspec::part_into"} <= set(names)
    for a, b in zip((*at_once, *into.values()), (*through, *other.values()), strict=True):
        assert torch.equal(a, b)
    kept = torch.ones((), requires_grad=True) * into["out"]
    CAUSAL.part(q, k, v, **AT, **into)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


@pytest.mark.slow
def test_torch_compile_sees_operators() -> None:
    """Both ways, without a graph break, and with lengths that vary."""
    torch._dynamo.reset()

    def step(q: Tensor, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        near = CAUSAL.part(q, k[:, :, :start], v[:, :, :start], q_start=start, k_start=0, n=k.shape[2])
        far = CAUSAL.part(q, k[:, :, start:], v[:, :, start:], q_start=start, k_start=start, n=k.shape[2])
        return attnspec.merge([near, far])

    def into(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Tensor:
        CAUSAL.part(q, k, v, q_start=10, k_start=0, n=k.shape[2], out=out, lse=lse)
        return out * 2

    for rows in (30, 45):
        q, k, v = (t.requires_grad_() for t in vectors(rows, rows + 10))
        want, got = step(q, k, v, 10), torch.compile(step, fullgraph=True, backend="aot_eager")(q, k, v, 10)
        torch.testing.assert_close(got, want)
        dout = torch.randn_like(want[0])
        for a, b in zip(*(torch.autograd.grad(o, (q, k, v), dout) for o in (got[0], want[0])), strict=True):
            torch.testing.assert_close(a, b)
        with torch.no_grad():
            out, lse = torch.zeros(2, 4, rows, 8), torch.full((2, 4, rows), float("-inf"))
            twice = torch.compile(into, fullgraph=True, backend="aot_eager")(q, k, v, out, lse)
        torch.testing.assert_close(twice, want[0] * 2)
        torch.testing.assert_close((out, lse), want)


@pytest.mark.slow
def test_operators_are_sound() -> None:
    q, k, v = (t.requires_grad_() for t in vectors())
    where = (10, 20, 100, -1, -1, -1, -1, -1, -1)
    given = ((q, k, v), [], None, CAUSAL.program.encoded, where)
    torch.library.opcheck(torch.ops.attnspec.part.default, (*given, True))
    with torch.no_grad():
        torch.library.opcheck(torch.ops.attnspec.part_into.default, (*given, *sums().values()))
    out, _ = CAUSAL.part(q, k, v, **AT)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.autograd.grad(out.sum(), q, create_graph=True)
