"""Calls past the dispatcher: when, the same results as through it, and what is kept is never stale."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import attnspec
from attnspec.runtime import operators, prepared
from attnspec.runtime.core.direct import direct
from attnspec.runtime.core.request import solved
from attnspec.runtime.cpp import prepared as kernels
from attnspec.runtime.cpp import turn
from attnspec.runtime.cpp.packed import Packed
from tests.support.marks import slow
from tests.support.oracle import agree, tensors


class Seen(TorchDispatchMode):
    """The operators of this package that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "attnspec":
            self.names.append(func._schema.name.removeprefix("attnspec::"))
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """A mode that does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Own(Tensor):
    """A class of tensors that does nothing."""


def contexts() -> Iterator[tuple[str, Callable[[], AbstractContextManager[Any]]]]:
    yield "a dispatch mode", Seen
    yield "a function mode", Functions
    yield "a profiler", lambda: profile(activities=[ProfilerActivity.CPU])
    yield "forward mode", forward_ad.dual_level
    yield "fake tensors", lambda: torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)


@pytest.mark.parametrize("context", [pytest.param(context, id=name) for name, context in contexts()])
def test_not_where_something_listens(context: Callable[[], AbstractContextManager[Any]]) -> None:
    x = torch.randn(2)
    assert direct(x)
    with context():
        assert not direct(x)
    assert direct(x)


def test_not_inside_transforms_and_traces() -> None:
    found = []

    def ask(x: Tensor) -> Tensor:
        found.append(direct(torch.ones(2)))  # nor of tensors that have nothing to do with it
        return x.sum()

    x = torch.randn(2, 3)
    for run in (torch.vmap(ask), torch.func.grad(ask), make_fx(ask), make_fx(ask, pre_dispatch=True)):
        run(x)
    torch.jit.trace(ask, x, check_trace=False)
    assert len(found) == 5
    assert not any(found)
    torch.compile(ask, backend="eager", fullgraph=True)(x)
    assert found[-1] is False


def test_not_for_other_tensors() -> None:
    x = torch.randn(2, 3)
    negated = torch.randn(2, 3, dtype=torch.complex64).conj().imag
    others = {
        "a subclass": x.as_subclass(Own),
        "meta": x.to("meta"),
        "sparse": x.to_sparse(),
        "nested": torch.nested.nested_tensor([x, x]),
        "negated": negated,
        "without memory": torch._efficientzerotensor((2, 3)),
        "no tensor": 3,
    }
    for name, other in others.items():
        assert not direct(x, other), name
    with torch.inference_mode():
        made = torch.randn(2)
        assert direct(made, x)
    assert direct(x, torch.nn.Parameter(x), made, x.t(), x.bfloat16(), torch.ones(2, dtype=torch.int64))
    with torch.no_grad():
        assert direct(x)


def test_what_is_negated_when_read() -> None:
    """The dispatcher writes it down before a kernel sees it."""
    q = torch.randn(1, 2, 40, 16, dtype=torch.complex64).conj().imag
    assert q.is_neg()
    attend, k = attnspec.compile("causal"), torch.randn(1, 2, 40, 16)
    assert torch.equal(attend(q, k, k), attend(q.resolve_neg().clone(), k, k))


def test_a_profiler_and_a_mode_see_calls() -> None:
    q, k, v = tensors(40)
    attend = attnspec.compile("causal")
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        attend(q, k, v).sum().backward()
    names = {event.name for event in seen.events()}
    assert {"attnspec::attend_bare", "attnspec::attend_bare_backward"} <= names
    with Seen() as mode:
        out = attend(q, k, v)
    assert mode.names == ["attend_bare"]
    with Seen() as mode:
        out.sum().backward()
    assert mode.names == ["attend_bare_backward"]


PATTERNS: dict[str, tuple[str, dict[str, Any]]] = {
    "mask": ("attend causal", {}),
    "scalar": ("input length: int[batch]  attend k < length[b]", {"length": torch.tensor([23])}),
    "rotations": ("attend causal  rotate rope()", {}),
    "score": ("input far: float[heads]  attend causal  score s + far[h] * (k - q)", {"far": torch.tensor([0.1, -0.2])}),
    "sink": ("input logit: float[heads]  attend causal  sink logit[h]", {"logit": torch.tensor([0.5, -1.0])}),
    "detached": ("mix w in [4, 9] weights detached { attend |q - k| < w }", {}),
    "order": ("order by lsh(buckets = 4)  attend q.slot // 8 == k.slot // 8", {}),
    "documents": ("input doc: int[n] sorted  attend doc[q] == doc[k]", {"doc": torch.arange(40) // 7}),
    "tables": ("attend (q - k) % 3 == 0 or k * k < 5 * q", {}),
}
_QUICK = ("mask", "scalar", "rotations")


@pytest.mark.parametrize("name", [name if name in _QUICK else slow(name) for name in PATTERNS])
def test_the_same_bits_as_through_the_dispatcher(name: str) -> None:
    text, inputs = PATTERNS[name]
    attend = attnspec.compile(f"attention a {{ {text} }}")

    def results(grads: bool, context: AbstractContextManager[Any]) -> list[Tensor]:
        leaves = [t.detach().requires_grad_(grads) for t in tensors(40)]
        given = {key: t.clone().requires_grad_(grads and t.is_floating_point()) for key, t in inputs.items()}
        with context:
            out, lse, largest = attend(*leaves, inputs=given, return_lse=True, return_max=True)
            if not grads:
                return [out, lse, largest]
            wanted = [*leaves, *(t for t in given.values() if t.requires_grad)]
            return [out, lse, largest, *torch.autograd.grad(out.square().sum() + lse.sum(), wanted)]

    for grads in (False, True):
        mode = Seen()
        at_once, through = results(grads, torch.enable_grad()), results(grads, mode)
        assert any(name.startswith("attend") for name in mode.names)
        for a, b in zip(at_once, through, strict=True):
            assert torch.equal(a, b)


def test_second_derivatives_and_changes_in_place_are_refused() -> None:
    q, k, v = tensors(20)
    attend = attnspec.compile("causal")
    (dq,) = torch.autograd.grad(attend(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        dq.sum().backward()
    out = attend(q, k, v)
    with torch.no_grad():
        v.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# What is kept


def test_a_call_sees_what_has_changed() -> None:
    """Nothing of these is kept from one call to the next."""
    q, k, v = (t.detach() for t in tensors(40))
    length = torch.tensor([40])
    attend = attnspec.compile(f"attention a {{ {PATTERNS['scalar'][0]} }}")

    def check(*given: Tensor, scale: float | None = None) -> None:
        agree(attend, *(t.detach().requires_grad_() for t in given), scale=scale, inputs={"length": length})
        with torch.no_grad():
            out = attend(*given, scale=scale, length=length)
        torch.testing.assert_close(out, attend(*(t.clone() for t in given), scale=scale, length=length.clone()))
        want = attnspec.compile(attend.program.text, target="dense")(*given, scale=scale, length=length)
        torch.testing.assert_close(out, want, atol=3e-5, rtol=1e-4)

    check(q, k, v)
    length.fill_(7)
    check(q, k, v)
    length.data[0] = 9
    check(q, k, v)
    check(q, k, v, scale=2.0)
    k[:, :, :5] += 1.0
    check(q, k, v)
    across = k.transpose(2, 3).contiguous().transpose(2, 3)
    assert across.stride() != k.stride()
    check(q, across, v)
    check(q[:, :, 10:30], k, v)
    check(q, k[..., :30, :], v[..., :30, :])
    for wrong in (torch.tensor([1 << 30]), torch.tensor([1.0]), torch.tensor([3, 4])):
        with pytest.raises(attnspec.CallError, match="length"):
            attend(q, k, v, length=wrong)
    with pytest.raises(attnspec.CallError, match="head size"):
        attend(q, k[..., :8], v)


def test_integers_of_all_types_and_strides() -> None:
    """Kernels read those of 64 bits where they are. Gradients are of what they held in the forward pass."""
    attend = attnspec.compile(f"attention a {{ {PATTERNS['scalar'][0]} }}")
    leaves = [torch.cat((t, t.flip(2))).detach().requires_grad_() for t in tensors(40)]
    length = torch.tensor([7, 31])

    def results(given: Tensor) -> list[Tensor]:
        out = attend(*leaves, length=given)
        given.fill_(39)
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    mode = Seen()
    with mode:
        want = results(length.clone())
    assert mode.names
    with torch.no_grad():
        assert torch.equal(attend(*leaves, length=length), want[0])
    others = [length.clone(), length.int(), length.short(), torch.stack((length, length + 5), 1)[:, 0]]
    for given in others:
        for a, b in zip(results(given), want, strict=True):
            assert torch.equal(a, b)


def test_results_of_inference_mode() -> None:
    attend, (q, k, v) = attnspec.compile("causal"), tensors(40)
    with torch.inference_mode():
        assert all(t.is_inference() for t in attend(q, k, v, return_lse=True))
    with torch.no_grad():
        assert not any(t.is_inference() for t in attend(q, k, v, return_lse=True))


@pytest.mark.slow
def test_inputs_of_other_strides() -> None:
    far = torch.randn(1, 40)
    attend = attnspec.compile("attention a { input far: float[heads, n]  score s + far[h, k] }")
    q, k, v = (t.detach() for t in tensors(40))
    for bias in (far.expand(2, 40), far.expand(2, 40).contiguous(), torch.randn(40, 2).t()):
        want = attnspec.compile(attend.program.text, target="dense")(q, k, v, far=bias)
        torch.testing.assert_close(attend(q, k, v, far=bias), want, atol=3e-5, rtol=1e-4)


def test_threads_and_scales_come_with_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, ...]] = []
    real = Packed.__call__

    def spied(self: Packed, *values: float) -> bytes:
        seen.append(values)
        return real(self, *values)

    monkeypatch.setattr(Packed, "__call__", spied)
    q, k, v = (t.detach() for t in tensors(40))
    attend, before = attnspec.compile("causal"), torch.get_num_threads()
    try:
        for count, scale in ((1, 0.5), (2, 0.5), (2, 0.25)):
            torch.set_num_threads(count)
            attend(q, k, v, scale=scale)
            assert seen[-1][-2:] == (scale, count)
    finally:
        torch.set_num_threads(before)


def test_tensors_are_not_kept_alive() -> None:
    attend = attnspec.compile(f"attention a {{ {PATTERNS['scalar'][0]} }}")
    for grads in (False, True):
        q, k, v = (t.detach().requires_grad_(grads) for t in tensors(40))
        length = torch.tensor([11])
        out, lse = attend(q, k, v, length=length, return_lse=True)
        if grads:
            (out.sum() + lse.sum()).backward()
        left = [weakref.ref(t) for t in (q, k, v, length, out, lse)]
        del q, k, v, length, out, lse
        gc.collect()
        assert [ref() for ref in left] == [None] * 6


def test_what_is_kept_is_bounded() -> None:
    kept = (prepared.prepared, kernels.forward, kernels.backward, kernels._inputs, turn._argument)
    for cached in (*kept, operators._beside, kernels.moving, solved):
        assert cached.cache_info().maxsize is not None
    attend = attnspec.compile("causal")
    most = kernels.forward.cache_info().maxsize or 0
    for n in range(1, most + 20):
        x = torch.ones(1, 1, n, 16)
        assert float(attend(x, x, x)[0, 0, 0, 0]) == pytest.approx(1.0)
    assert kernels.forward.cache_info().currsize == most


def test_lengths_come_with_calls_of_few_queries() -> None:
    """A key more in each step, as generation has it: nothing is made for a length, and the results are right."""
    attend, dense = (attnspec.compile("window", width=20, target=target) for target in ("cpp", "dense"))
    q, k, v = (t.detach() for t in tensors(60))
    attend(q[:, :, :1], k[:, :, :9], v[:, :, :9])
    before = kernels.moving.cache_info().misses
    for n in range(10, 60):
        now = q[:, :, n - 1 : n], torch.cat([k[:, :, :n]], 2), v[:, :, :n]
        torch.testing.assert_close(attend(*now), dense(*now), atol=3e-5, rtol=1e-4)
    assert kernels.moving.cache_info().misses == before


def test_tables_that_were_made_in_inference_mode() -> None:
    """They serve gradients later."""
    attend = attnspec.compile("attention a { attend causal  rotate rope(theta = 77.0) }")
    q, k, v = tensors(33)
    with torch.inference_mode():
        first = attend(q, k, v)
    out = attend(q, k, v)
    out.sum().backward()
    assert torch.equal(first, out)


def test_threads_of_python() -> None:
    """Calls of other forms, at the same time, and with other integers."""
    attend = attnspec.compile(f"attention a {{ {PATTERNS['scalar'][0]} }}")
    q, k, v = (t.detach() for t in tensors(64))
    cases = [(n, min(n, 3 + 5 * n % 17)) for n in range(20, 64, 4)]
    want = [attend(q[:, :, :n], k[:, :, :n], v[:, :, :n], length=torch.tensor([m])) for n, m in cases]
    kernels.forward.cache_clear()
    wrong: list[int] = []

    def work(shift: int) -> None:
        for i in range(200):
            at = (i * shift) % len(cases)
            n, m = cases[at]
            found = attend(q[:, :, :n], k[:, :, :n], v[:, :, :n], length=torch.tensor([m]))
            if not torch.equal(found, want[at]):
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in (1, 2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_attention_can_be_copied_after_calls() -> None:
    q, k, v = (t.detach() for t in tensors(40))
    attend = attnspec.compile("causal")
    assert torch.equal(attend(q, k, v), copy.deepcopy(attend)(q, k, v))
