"""What every target must compute is one suite: patterns for a target, and what is quick on each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import attnspec
from attnspec.runtime.attention import Attention
from tests.support.marks import slow

TARGETS = ("cpp", "triton")


def compiled(text: str, target: str, **options: Any) -> Attention:
    """A pattern for a target.

    Triton kernels run in triton's interpreter, in which a call takes a second or more: tiles and lengths are small
    there, and most calls are slow tests.
    """
    if target == "triton":
        pytest.importorskip("triton")
        options = {"tile": (32, 32), **options}
    return attnspec.compile(text, target=target, **options)


MOSTLY_CPP = ("cpp", slow("triton"))
"""Targets of tests that say of kernels what follows from others."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Inside, kernels have so many threads: one walks the key heads; more than key heads walk tiles."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def results(attend: Attention, *given: torch.Tensor) -> list[torch.Tensor]:
    """Output, log-sum-exp and the gradients of a function of both that is not linear in them."""
    out, lse = attend(*given, return_lse=True)
    safe = lse.nan_to_num(neginf=0.0)
    return [out, lse, *torch.autograd.grad((out * out.cos()).sum() + safe.sin().sum(), given)]


def same_bits(attend: Attention, *given: torch.Tensor, times: int = 1) -> None:
    """Assert that a call gives the same results, to the bit, whenever it is made."""
    first = results(attend, *given)
    for _ in range(times):
        assert all(torch.equal(a, b) for a, b in zip(first, results(attend, *given), strict=True))
