"""Patterns to FlexAttention and back: block masks of exported files beside PyTorch's, and how long an import takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from attnspec.check.check import check_text
from attnspec.codegen.flex.module import module
from attnspec.errors.diagnostic import SpecError
from attnspec.language.load import load, shipped
from attnspec.relation.lower import lower
from attnspec.runtime.bench.clock import Timing, processor_time, race
from attnspec.runtime.bench.high_water import high_water
from attnspec.runtime.flex.imported import spec_of
from attnspec.spec.spec import Spec

LENGTH = 1 << 17
SHORTER = 1 << 13
"""Where PyTorch's own runs without being compiled: there it holds all pairs at once."""
FASTER, LONGEST = 50.0, 1.0
"""How many times as fast a block mask is to be, and how many seconds an import may take."""
CASES = ("window",)
_SECONDS = 60.0


@dataclass(frozen=True)
class Made:
    """Block masks of one pattern: CPU time and memory of the file's, and of PyTorch's, compiled and (shorter) not."""

    name: str
    ours: Timing
    compiled: Timing
    eager: Timing
    used: tuple[int, int, int]
    equal: bool

    @property
    def faster(self) -> float:
        """How many times as fast as the compiled one, by medians."""
        return self.compiled.median / self.ours.median


def measure(name: str, runs: int, tick: Callable[[str], None], n: int = LENGTH, shorter: int = SHORTER) -> Made:
    """Measure a shipped pattern, whose file needs no inputs."""
    names = run(name)
    mask: Any = names.mask_mod
    own = torch.compile(create_block_mask)

    def ours() -> BlockMask:
        return names.block_mask(n)  # type: ignore[no-any-return]

    def compiled() -> BlockMask:
        return own(mask, None, None, n, n, "cpu")

    def eager() -> BlockMask:
        return create_block_mask(mask, None, None, shorter, shorter, "cpu")

    tick(f"{name}: block masks of {n:,}")
    equal = same(ours(), compiled())
    timed = race({"ours": ours, "compiled": compiled, "eager": eager}, runs, clock=processor_time, budget=_SECONDS)
    used = (_beyond(ours), _beyond(compiled), _beyond(eager))
    return Made(name, timed["ours"], timed["compiled"], timed["eager"], used, equal)


def run(name: str) -> SimpleNamespace:
    """What the file of a shipped pattern defines."""
    names: dict[str, Any] = {}
    exec(compile(module(lower(_spec(name))), f"{name}.py", "exec"), names)  # text of our own
    return SimpleNamespace(**names)


def _spec(name: str) -> Spec:
    text, _, own = load(name)
    return check_text(text, own)


def same(one: BlockMask, other: BlockMask) -> bool:
    """Whether two block masks have the same blocks, masked and not, in the same order, for queries and for keys."""
    return all(
        torch.equal(number := getattr(one, f"{kind}_num_blocks"), getattr(other, f"{kind}_num_blocks"))
        and _listed(number, getattr(one, f"{kind}_indices"), getattr(other, f"{kind}_indices"))
        for kind in ("kv", "full_kv", "q", "full_q")
    )


def _listed(number: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> bool:
    live = torch.arange(one.shape[-1]) < number[..., None]
    return torch.equal(torch.where(live, one, -1), torch.where(live, other, -1))


def _beyond(call: Callable[[], object]) -> int:
    """The peak of memory of a call above what the process has before."""
    before = high_water(anew=True)
    call()
    return max(0, high_water() - before)


def imports() -> dict[str, float]:
    """CPU seconds of the import of each shipped mask that is exported and needs no inputs."""
    found = {}
    for name in shipped():
        try:
            mask = run(name)
        except SpecError:
            continue
        if hasattr(mask, "mask_mod"):
            found[name] = processor_time(functools.partial(spec_of, mask.mask_mod))
    return found
