"""Sequences in pieces: the same outputs, final state and gradients, wherever they are cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.states.operator import attend_from
from attnspec.runtime.states.whole import whole
from tests.support.linear import TOLERANCE
from tests.support.marks import slow
from tests.support.oracle import close, tensors
from tests.support.state_cases import CASES
from tests.support.states import BATCH, DIM, HEADS, KV_HEADS, REGIMES, N, cut_anywhere, pieces

QUICK = ["linear", "retention", "gated_delta", "chunks", "blocks by head", "numbers of heads", "all lines"]
KERNELS = [
    "linear",
    "retention",
    "mamba2",
    "gla",
    "tost",
    "strict",
    "linear_documents",
    "chunks",
    "segments",
    "blocks",
    "favor",
    "by head",
    "latte",
    "exponentials by head",
    "exponentials in chunks",
    "exponentials in documents",
    "exponentials packed",
    "running",
    "running, decaying",
    "numbers of heads",
    "heads apart",
    "blocks by head",
    "delta",
    "gated_delta",
    "infini",
    "all lines",
]


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in CASES])
def test_dense_sequences_in_pieces(name: str) -> None:
    cut_anywhere(CASES[name], "dense", torch.float64, (1e-11, 1e-11), "random")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_dense_sequences_cut_everywhere(name: str) -> None:
    cut_anywhere(CASES[name], "dense", torch.float64, (1e-11, 1e-11), "random", everywhere=True)


@pytest.mark.parametrize(
    ("name", "regime"),
    [
        (name, regime)
        if (name, regime) in (("gla", "resets"), ("gated_delta", "mixed"), ("each and gates", "zeros"))
        else slow(name, regime)
        for name in ("mamba2", "gla", "gated_delta", "each and gates")
        for regime in REGIMES
    ],
)
def test_gates_of_any_size(name: str, regime: str) -> None:
    cut_anywhere(CASES[name], "dense", torch.float64, (1e-11, 1e-11), regime)


@pytest.mark.parametrize("name", [name if name == "linear" else slow(name) for name in KERNELS])
def test_kernels(name: str) -> None:
    cut_anywhere(CASES[name], "cpp", torch.float32, TOLERANCE[torch.float32], "random")


@pytest.mark.parametrize(("threads", "gradients"), [(3, False), slow(1, True), slow(3, True)])
def test_kernels_begin_and_end_with_states(threads: int, gradients: bool) -> None:
    """Through many tiles, and where threads share out a sequence."""
    vectors = [t.detach().requires_grad_(gradients) for t in tensors(1100, 1100, 1, 1, 1, DIM, 5)]
    of_state = torch.randn(1, 1, DIM, 6)
    attend, dense = attnspec.compile("linear"), attnspec.compile("linear", target="dense")
    assert whole(attend.program.encoded, 1, 1, 1) is not None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out, state = pieces(attend, vectors, {}, [1030])
        exact = [t.detach().double().requires_grad_(gradients) for t in vectors]
        want, end = dense(*exact, return_state=True)
        close("out", out, want, 2e-5)
        close("state", state, end, 2e-5)
        if gradients:
            torch.autograd.backward([out, state], [vectors[2].detach(), of_state])
            torch.autograd.backward([want, end], [exact[2].detach(), of_state.double()])
            for name, got, wanted in zip("qkv", vectors, exact, strict=True):
                assert got.grad is not None
                assert wanted.grad is not None
                close(f"d{name}", got.grad, wanted.grad, 1e-4)
    finally:
        torch.set_num_threads(before)


def test_kernels_that_do_all_of_a_piece() -> None:
    """They need a state that all see, of one pass, without decay."""
    found = {name: whole(attnspec.compile(CASES[name].text).program.encoded, 4, 2, 1) for name in KERNELS}
    assert {name for name, program in found.items() if program is not None} >= {"linear", "strict"}
    assert not {name for name, program in found.items() if program is not None} & {
        "retention",
        "mamba2",
        "gla",
        "latte",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba2", "gla", "gated_delta"])
@pytest.mark.parametrize("regime", REGIMES)
def test_kernels_with_gates_of_any_size(regime: str, name: str) -> None:
    cut_anywhere(CASES[name], "cpp", torch.float32, TOLERANCE[torch.float32], regime)


@pytest.mark.parametrize("dtype", [torch.bfloat16, slow(torch.float16)])
def test_half_precision(dtype: torch.dtype) -> None:
    """States stay float32."""
    attend, vectors = attnspec.compile("linear"), tensors(N, N, HEADS, KV_HEADS, BATCH, DIM, 5, dtype)
    out, state = pieces(attend, vectors, {}, [3, 17])
    assert (out.dtype, state.dtype, state.shape) == (dtype, torch.float32, (BATCH, KV_HEADS, DIM, 6))
    want = attnspec.compile("linear", target="dense")(*(t.double() for t in vectors), return_state=True)
    for name, x, y in zip(("out", "state"), (out, state), want, strict=True):
        close(name, x, y, TOLERANCE[dtype][0])


@pytest.mark.parametrize(
    ("target", "dtype"), [("dense", torch.float64), slow("cpp", torch.float32), slow("dense", torch.float32)]
)
def test_states_of_exponentials_of_any_size(target: str, dtype: torch.dtype) -> None:
    """A state counts from the largest key of each feature: later keys may be much larger, or much smaller."""
    for shift in (torch.linspace(-1e4, 1e4, N), torch.linspace(1e4, -1e4, N)):
        q, k, v = (t.detach() for t in tensors(N, N, HEADS, KV_HEADS, BATCH, DIM, 5))
        k = k + shift[:, None]
        given = [t.to(dtype) for t in (q, k, v)]
        out, _ = pieces(attnspec.compile("latte", target=target), given, {}, [1, 2, 20, 33])
        want = attnspec.compile("latte", target="dense")(q.double(), k.double(), v.double())
        close("out", out, want, 2e-5)


def test_gradients_of_what_was_handed_over() -> None:
    """A state is an argument like others."""
    attend = attnspec.compile("gated_delta", target="dense")
    q, k, v = (t.double().detach() for t in tensors(5, 5, 1, 1, 1, 3, 2))
    given = {"beta": torch.rand(1, 1, 5).double(), "gate": -torch.rand(1, 1, 5).double()}
    state = torch.randn(1, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda state: attend(q, k, v, state=state, return_state=True, inputs=given), state, fast_mode=True
    )


def test_the_logarithm_of_the_total_and_the_whole_sequence() -> None:
    attend = attnspec.compile("linear", target="dense")
    q, k, v = tensors(20)
    out, lse = attend(q, k, v, return_lse=True)
    _, state = attend(q[:, :, :8], k[:, :, :8], v[:, :, :8], return_state=True)
    more, after = attend(q[:, :, 8:], k[:, :, 8:], v[:, :, 8:], state=state, return_lse=True)
    close("out", more, out[:, :, 8:], 1e-6)
    close("lse", after, lse[:, :, 8:], 1e-6)
    empty, same = attend(q[:, :, :0], k[:, :, :0], v[:, :, :0], state=state, return_state=True)
    assert empty.shape[2] == 0
    assert torch.equal(same, state)


def test_tokens_without_queries_and_keys() -> None:
    attend, v = attnspec.compile("tost"), torch.randn(1, 2, 9, 4)
    out, state = attend(v=v, return_state=True)
    close("sums", attend(v=v, state=state), out + v.sum(2, keepdim=True), 1e-6)


@pytest.mark.slow
def test_compiled_without_breaks() -> None:
    """By torch.compile, with gradients, and the operator by itself."""
    attend = attnspec.compile("linear")
    q, k, v = tensors(N, N, HEADS, KV_HEADS, BATCH, DIM, 5)
    state = torch.rand(BATCH, KV_HEADS, DIM, 6, requires_grad=True)

    def two(*x: Tensor) -> Any:
        return attend(*x[:3], state=x[3], return_state=True, return_lse=True)

    whole: Callable[..., Any] = torch.compile(two, fullgraph=True, backend="aot_eager")
    found, wanted = whole(q, k, v, state), two(q, k, v, state)
    up = [torch.randn_like(x) for x in wanted]
    sources = (q, k, v, state)
    for name, x, y in zip(("out", "lse", "state"), found, wanted, strict=True):
        close(name, x, y, 1e-6)
    for x, y in zip(*(torch.autograd.grad(r, sources, up) for r in (found, wanted)), strict=True):
        close("gradient", x, y, 1e-6)
    given = [q, k, v], [], state, None, None, True, attend.program.encoded
    torch.library.opcheck(attend_from, given, test_utils=("test_schema", "test_faketensor"))


SECOND = {
    "linear": (),
    "latte": (),
    "gated_delta": ("gate", "beta"),
    """attention a {
        input beta: float[batch, heads, n]  attend causal  linear elu(x) + 1  delta beta[b, h, k]  divide total + 0.5
    }""": ("beta",),
}


@pytest.mark.slow
@pytest.mark.parametrize("text", SECOND)
def test_second_derivatives_are_refused_or_right(text: str) -> None:
    """Those of kernels are refused, also where the gradient that arrives has none: they are not dropped."""
    vectors = tensors(9, 9, HEADS, KV_HEADS, BATCH, DIM, 5)
    given = {name: torch.rand(BATCH, HEADS, 9) * (-1 if name == "gate" else 1) for name in SECOND[text]}
    sources = [*vectors, *(t.requires_grad_() for t in given.values())]
    kernels, dense = (attnspec.compile(text, target=target) for target in ("cpp", "dense"))
    refused = 0
    for result in (0, 1):
        wanted, *_ = torch.autograd.grad(
            dense(*vectors, inputs=given, return_state=True)[result].sum(), sources[1:], create_graph=True
        )
        wanted = torch.autograd.grad(wanted.square().sum(), sources, materialize_grads=True)
        found = kernels(*vectors, inputs=given, return_state=True)[result].sum()
        found, *_ = torch.autograd.grad(found, sources[1:], create_graph=True)
        for source, x in zip(sources, wanted, strict=True):
            try:
                got = torch.autograd.grad(
                    found.square().sum(), source, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            except NotImplementedError:
                refused += 1
            else:
                close("second derivative", got[0], x, 1e-4)
    assert refused


@pytest.mark.slow
@pytest.mark.parametrize("transform", [torch.func.vmap, lambda f: torch.func.grad(lambda q: f(q).sum())])
def test_transforms_are_refused(transform: Callable[..., Any]) -> None:
    q, k, v = (t.detach() for t in tensors(9, 9, HEADS, KV_HEADS, BATCH, DIM, 5))
    for text in ("linear", "latte", "attention a { attend causal  linear x  delta 0.5 }"):
        attend = attnspec.compile(text)
        run = transform(lambda q, attend=attend: attend(q, k, v, return_state=True)[0])
        with pytest.raises(CallError, match="rules for torch"):
            run(q[None] if transform is torch.func.vmap else q)


@pytest.mark.parametrize("returned", [True, False])
def test_traced_shapes(returned: bool) -> None:
    """What traces a call is told the shapes that it gives."""
    attend, dtype = attnspec.compile("linear"), torch.bfloat16
    q, k, v = (t.detach().to("meta", dtype) for t in tensors(N, N, HEADS, KV_HEADS, BATCH, DIM, 5))
    found = attend_from([q, k, v], [], None, None, None, returned, attend.program.encoded)
    shapes = (BATCH, HEADS, N, 5), (BATCH, HEADS, N), (BATCH, KV_HEADS, DIM, 6) if returned else (0,)
    assert tuple(tuple(t.shape) for t in found) == shapes
    assert [t.dtype for t in found] == [dtype, torch.float32, torch.float32]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("causal", "attnspec.Cache"),
        ("forgetting", "attnspec.Cache"),
        ("linear_window", "0 states and 1,023 keys are to be kept"),
        ("linear_dilated", "0 states and"),
        ("latte_bidirectional", "query 0 sees key 1"),
        ("performer_causal", "`stable = none` have a state"),
        ("attention a { attend causal  linear q: [x, x]  linear k: [exp(x), x]  divide each total }", "beside other"),
        ("attention a { attend causal  attend k < 9  linear x }", "the first positions of the sequence"),
        ("attention a { mix { branch { attend causal } branch { attend k < q } } linear x }", "attend.branches"),
        ("attention a { attend causal  linear x  rotate xpos() }", "turn by more than"),
        ("attention a { attend causal  linear x  decay -0.1 * t }", "positions are counted from a cut on"),
        ("attention a { attend causal  linear x  divide n }", "the length of the call"),
        (
            "attention a { attend causal and (h == 0 or q - k < 9)  linear x }",
            "head 1: after 4,096 tokens 0 states and 8",
        ),
        ("attention a { attend causal or h == 1  linear x }", "head 1: query 0 sees key 1"),
        ("attention a { input keep: bool[n]  attend causal and keep[k]  linear x }", "`keep`"),
        ("attention a { input doc: int[n]  attend causal and doc[q] == doc[k]  linear x }", "`doc`"),
        ("attention a { align start  attend causal  linear x }", "align start"),
    ],
)
def test_patterns_without_a_state_say_why(text: str, message: str) -> None:
    attend = attnspec.compile(text, target="dense")
    q, k, v = tensors(12)
    given = {
        declared.name: torch.ones(12).to(torch.bool if declared.kind == "bool" else torch.int64)
        for declared in attend.spec.inputs
    }
    given = {"gate": -torch.rand(1, 2, 12)} if "gate" in given else given
    with pytest.raises(attnspec.errors.diagnostic.AttnspecError, match=message):
        attend(q, k, v, return_state=True, inputs=given)


def test_places_where_a_sequence_cannot_be_cut() -> None:
    attend = attnspec.compile(CASES["chunks"].text, target="dense")
    q, k, v = tensors(12)
    state = torch.zeros(1, 2, 16, 17)
    with pytest.raises(CallError, match=r"after 10 tokens .* keep 2 states, .* multiples of 4"):
        attend(q[:, :, :10], k[:, :, :10], v[:, :, :10], return_state=True)
    with pytest.raises(CallError, match="q_start must say"):
        attend(q, k, v, state=state)
    with pytest.raises(CallError, match="after 6 tokens"):
        attend(q, k, v, state=state, q_start=6)
    with pytest.raises(CallError, match="turn by their positions"):
        attnspec.compile("retention", target="dense")(q, k, v, state=torch.zeros(1, 2, 16, 16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": torch.zeros(1, 2, 16, 16)}, r"= \(1, 2, 16, 17\), float32"),
        ({"state": torch.zeros(1, 2, 16, 17).half()}, "float16"),
        ({"state": 1}, "must be a tensor, not int"),
        ({"q_start": -1}, "whole number"),
        ({"q_start": 1.0}, "whole number"),
    ],
)
def test_states_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    q, k, v = tensors(12)
    attend = attnspec.compile("linear")
    with pytest.raises(CallError, match=message):
        attend(q, k, v, **arguments)
    with pytest.raises(CallError, match="as many queries as keys"):
        attend(q[:, :, 4:], k, v, return_state=True)
    with pytest.raises(CallError, match="a cache keeps states"):
        attend(q, cache=object(), return_state=True)  # type: ignore[call-overload]
