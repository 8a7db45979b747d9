"""``spec_of``: mask and score functions of FlexAttention's as a spec of ours, and the tensors that they read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnspec.check.check import check_text
from attnspec.errors.diagnostic import SpecError
from attnspec.language.words import RESERVED
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.flex.agreement import require_agreement
from attnspec.runtime.flex.bits import Unlike
from attnspec.runtime.flex.captured import captured, outside_transforms
from attnspec.runtime.flex.facts import Facts
from attnspec.runtime.flex.formula import formula
from attnspec.runtime.flex.idioms import rewritten
from attnspec.runtime.flex.reach import require_inside
from attnspec.runtime.flex.tables import Call, Tables
from attnspec.runtime.flex.text import text
from attnspec.runtime.flex.trace import MASK, SCORE, Step, defined, refused, trace
from attnspec.runtime.flex.unseen import apart
from attnspec.runtime.flex.values import real
from attnspec.runtime.flex.wrapped import unwrapped, unwrapped_mask
from attnspec.spec import expr as e
from attnspec.spec import make
from attnspec.spec import real as r


class Imported(NamedTuple):
    """A pattern that was a function: the spec, and the tensors around the function by the names of its inputs."""

    text: str
    inputs: dict[str, Tensor]


def spec_of(
    mask_mod: Callable[..., Any] | None = None,
    B: int | None = None,  # noqa: N803  (FlexAttention's names)
    H: int | None = None,  # noqa: N803
    Q_LEN: int | None = None,  # noqa: N803
    KV_LEN: int | None = None,  # noqa: N803
    *,
    score_mod: Callable[..., Any] | None = None,
    name: str | None = None,
) -> Imported:
    """A ``mask_mod``, a ``score_mod`` or both as a spec.

    >>> import torch
    >>> doc = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    >>> def packed(b, h, q_idx, kv_idx):
    ...     return (doc[q_idx] == doc[kv_idx]) & (q_idx >= kv_idx)
    >>> found = spec_of(packed, KV_LEN=8)
    >>> print(found.text, end="")
    attention packed {
        input doc: int[n] sorted
        align start
        attend doc[q] == doc[k]
        within q >= k
    }
    >>> found.inputs["doc"] is doc
    True

    ``attnspec.compile(found.text)`` computes it: ``attend(q, k, v, inputs=found.inputs)``. The functions run twice, on
    single positions; what they do becomes the formula. ``B``, ``H``, ``Q_LEN`` and ``KV_LEN`` are as
    ``create_block_mask`` has them: a dimension of a tensor that is as long and is read by that index is declared
    ``batch``, ``heads``, ``n_q`` or ``n``, and the spec serves all such sizes; without them it is declared as long
    as it is. ``name`` is that of the attention, else the function's. Whether an index is inside its tensor is asked for
    the sizes that are given (PyTorch fails where it is not; our kernels read nothing there).

    Tensors around the functions are inputs, under their names there (``_`` is added to words of the language), and are
    read when the pattern is called: what they hold then counts, and gradients flow to those that a score reads. An int
    tensor whose values never decrease along the sequence is declared `sorted`, which calls check, and one that holds
    where its runs begin or end is no input: it is `first(doc, q)` or `last(doc, q)`. Numbers, and what a function
    computes from tensors without a position, are as they are now. Where a score is minus infinity the pair is not
    seen. Scores are computed in float32, whatever the types of what they read. Where both lengths are given the spec is
    held against the functions at some pairs.

    Raises CallError, with the user's line, for what is no formula of positions (branches, side effects, random numbers)
    and for operations that the language has nothing for.
    """
    if mask_mod is None and score_mod is None:
        raise CallError("spec_of wants a mask_mod, a score_mod or both")
    with outside_transforms(mask_mod, score_mod):
        return imported(mask_mod, score_mod, Call(B, H, Q_LEN, KV_LEN), Facts(), name)


def imported(
    mask_mod: Callable[..., Any] | None,
    score_mod: Callable[..., Any] | None,
    call: Call,
    facts: Facts,
    name: str | None = None,
) -> Imported:
    """The same, with what it takes for granted of tensors noted in ``facts``."""
    functions = [function for function in (mask_mod, score_mod) if function is not None]
    around = {key: item for function in reversed(functions) for key, item in captured(function).items()}
    tables = Tables({key: known for key, (known, _) in around.items()}, facts=facts)
    device = next((t.device for _, t in around.values() if t.device.type not in ("cpu", "meta")), torch.device("cpu"))
    mask = None if mask_mod is None else _mask(mask_mod, tables, device)
    score, rounding = None, 0.0
    if score_mod is not None:
        seen, score, rounding = _score(score_mod, tables, device)
        mask = seen if mask is None else make.conjunction([mask, seen])
    mask = None if mask is None else rewritten(unwrapped_mask(mask), tables, call)
    score = None if score is None else unwrapped(score, mask)
    tables.check_devices()
    for function in functions[:1]:
        require_inside(mask, score, tables, call, defined(function))
    found = text(
        _legal(name or str(getattr(functions[0], "__name__", "") if functions else "")), mask, score, tables, call
    )
    try:
        spec = check_text(found)
    except SpecError as err:
        raise refused(defined(functions[0]), f"the language cannot say what this function computes:\n{err}") from None
    inputs = {table.name: table.tensor for table in tables.read_by((mask, score))}
    if facts.looks:
        require_agreement(mask_mod, score_mod, spec, inputs, call, device, rounding)
    return Imported(found, inputs)


def _mask(function: Callable[..., Any], tables: Tables, device: torch.device) -> e.Pred:
    tables.reals = False
    seen = trace(function, MASK, device)
    found = formula(seen, tables)
    if not isinstance(found, e.Pred):
        kind = "a float" if isinstance(found, r.RealExpr) else "an integer"
        raise refused(
            seen.place, f"the mask_mod returns {kind}, and a mask says True or False: compare it, as in `x != 0`"
        )
    return found


def _score(function: Callable[..., Any], tables: Tables, device: torch.device) -> tuple[e.Pred, r.RealExpr, float]:
    """Which pairs a score leaves in, what it is for them, and how its steps are rounded in types of 16 bits."""
    tables.reals = True
    seen = trace(function, SCORE, device)
    try:
        return *apart(real(formula(seen, tables))), max(map(_rounding, seen.steps), default=0.0)
    except Unlike as err:
        raise refused(seen.place, str(err)) from None


def _rounding(step: Step) -> float:
    return torch.finfo(step.dtype).eps if step.dtype in (torch.float16, torch.bfloat16) else 0.0


def _legal(name: str) -> str:
    """A name that an attention may have."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_").lstrip("0123456789")
    if not name or name == "lambda":
        return "imported"
    return f"{name}_" if name in RESERVED else name
