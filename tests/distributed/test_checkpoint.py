"""A checkpointed layer runs an expensive attention once, counted, and a cheap one again unless it is asked not to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import attnspec
from attnspec.runtime import operators
from attnspec.runtime.distributed import spread
from tests.support.ranks import Simulated, simulate

N, DIM = 200, 8


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[None]:
    """A list with an entry for each call of a function from now on."""
    calls: list[None] = []
    function = getattr(module, name)

    def counting(*given: Any, **named: Any) -> Any:
        calls.append(None)
        return function(*given, **named)

    monkeypatch.setattr(module, name, counting)
    return calls


def gradient(call: Callable[..., Tensor], q: Tensor, windows: bool | None) -> Tensor:
    """Of a layer around an attention; checkpointed unless ``windows`` is None."""
    q = q.detach().clone().requires_grad_()

    def layer(x: Tensor) -> Tensor:
        return call(x.sin(), x * 2, x).cos()

    if windows is None:
        out = layer(q)
    else:
        contexts = functools.partial(create_selective_checkpoint_contexts, attnspec.checkpoint_policy(windows))
        out = checkpoint(layer, q, use_reentrant=False, context_fn=contexts)
    out.sum().backward()
    assert q.grad is not None
    return q.grad


def test_attention_of_one_device_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 2, N, DIM)
    causal = attnspec.compile("causal")
    calls = counted(monkeypatch, operators, "_run")
    want = gradient(causal, q, None)
    assert len(calls) == 1
    assert torch.equal(gradient(causal, q, False), want)
    assert len(calls) == 2


@pytest.mark.slow
def test_cheap_windows_run_again_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 2, N, DIM)
    window = attnspec.compile("window", width=4)
    calls = counted(monkeypatch, operators, "_run")
    want = gradient(window, q, None)
    for windows, runs in ((False, 2), (True, 1)):
        calls.clear()
        assert torch.equal(gradient(window, q, windows), want)
        assert len(calls) == runs


def test_attention_over_ranks_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, spread, "forward")
    causal = attnspec.compile("causal")

    def run(transport: Simulated) -> list[Tensor]:
        torch.manual_seed(transport.rank)
        far = attnspec.distribute(causal, transport, n=N, heads=2, dim=DIM)
        q = torch.randn(1, 2, N // 2, DIM)
        return [gradient(far, q, windows) for windows in (None, False)]

    for plain, saved in simulate(2, run).results:
        assert torch.equal(plain, saved)
    assert len(calls) == 4  # on each of two ranks once for each
