"""A spec that was traced, held against the function itself at some pairs: what tracing did not see shows there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.expressions.functions import mask_function, score_function
from attnspec.runtime.flex.tables import Call
from attnspec.runtime.flex.trace import defined, refused
from attnspec.runtime.prepare.inputs import prepare
from attnspec.spec.spec import Spec

_PAIRS = 24
_TOLERANCE = 1e-3
"""Of scores, relative to 1 + their size."""

Function = Callable[..., Any]


def require_agreement(
    mask_mod: Function | None,
    score_mod: Function | None,
    spec: Spec,
    inputs: Mapping[str, Tensor],
    call: Call,
    device: torch.device,
    rounding: float = 0.0,
) -> None:
    """Refuse a spec that says something else than the functions at one of a few pairs of a call.

    ``rounding`` is that of the types in which PyTorch computes a score, as ``torch.finfo`` has it: what it computes in
    16 bits it may add up in them, so that the largest score counts. Raises CallError, with the pair. Nothing is asked
    where the lengths of a call are not known.
    """
    if not (call.n and call.n_q):
        return
    sizes = Sizes(call.n, call.n_q, call.heads or 1, call.heads or 1, call.batch or 1, aligned_end=False)
    values = prepare(spec, sizes, inputs, wide=True)
    places = [torch.tensor(place, device=device) for place in zip(*_places(sizes), strict=True)]
    scores = torch.linspace(-3, 3, _PAIRS, device=device)
    told = _told(spec, sizes, values, places, scores)
    finite = told[1][told[1].isfinite()]
    off = 4 * rounding * float(finite.abs().max()) if finite.numel() else 0.0
    for i, at in enumerate(zip(*places, strict=True)):
        try:
            _compare(mask_mod, score_mod, at, scores[i], told[0][i], told[1][i], off)
        except IndexError:
            continue  # tensors around it are shorter than the call


def _compare(
    mask_mod: Function | None,
    score_mod: Function | None,
    at: tuple[Tensor, ...],
    score: Tensor,
    seen: Tensor,
    to: Tensor,
    off: float,
) -> None:
    """Refuse what is not the same at one pair."""
    found = None if score_mod is None else float(torch.as_tensor(score_mod(score, *at)).detach())
    said = (mask_mod is None or bool(mask_mod(*at))) and found != -torch.inf
    meant = bool(seen) and (found is None or float(to) != -torch.inf)  # a table may hold infinities
    if said != meant:
        raise _apart(mask_mod or score_mod, at, said, meant)
    if not said or found is None or found == float(to) or (found != found and bool(to.isnan())):
        return
    if not abs(found - float(to)) <= _TOLERANCE * (1 + abs(found)) + off:
        raise _apart(score_mod, at, found, float(to))


def _told(
    spec: Spec, sizes: Sizes, values: dict[str, Tensor], places: list[Tensor], scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Which pairs a spec sees, and its scores of them."""
    score = score_function(spec, sizes, values)
    mask = torch.as_tensor(mask_function(spec, sizes, values)(*places), device=scores.device)
    return mask.expand(len(scores)), scores if score is None else score(scores, *places).detach()


def _places(sizes: Sizes) -> Iterator[tuple[int, int, int, int]]:
    """Pairs near each other and far, at the corners of a call and between them; the same each time."""
    draw = random.Random(0)
    for i in range(_PAIRS):
        q = (0, sizes.n_q - 1, draw.randrange(sizes.n_q))[min(i % 6, 2)]
        k = draw.randrange(sizes.n) if i % 2 else min(max(q - draw.randrange(5) + 1, 0), sizes.n - 1)
        yield draw.randrange(sizes.batch), draw.randrange(sizes.heads), q, k


def _apart(function: Function | None, at: tuple[Tensor, ...], said: object, meant: object) -> CallError:
    b, h, q, k = map(int, at)
    return refused(
        defined(function or _apart),
        f"at b = {b}, h = {h}, q_idx = {q}, kv_idx = {k} the function gives {said}, and what it was seen to do there "
        f"gives {meant}: it does something that tracing does not see. Write it as one formula of its arguments",
    )
