"""What a wrapper and its calls may be given: refused here, by name and with sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.recurrent.decoder import Decoder
from attnspec.runtime.recurrent.pattern import Pattern
from attnspec.runtime.recurrent.segment import IGNORED, Segments
from attnspec.runtime.recurrent.state import State
from attnspec.spec.recurrence import Recurrence

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def check_model(pattern: Pattern, recurrence: Recurrence, decoder: Decoder) -> str:
    """Where the mask of a segment comes from, in words. Raises CallError where a spec and a model do not fit."""
    spec = pattern.spec
    if spec.inputs:
        raise CallError(
            f"{spec.name}: segments are run without inputs, and the spec reads {', '.join(i.name for i in spec.inputs)}"
        )
    layered = [carry for carry in recurrence.carries if carry.by_layer]
    if layered and (len(layered) > 1 or layered[0].targets != (spec.axes[0].name,)):
        said = "; ".join(map(str, layered))
        raise CallError(
            f"{spec.name}: layers keep one axis, which is declared first, as their caches have it: here `{said}`, and "
            f"first comes `{spec.axes[0]}`"
        )
    shorter = any(recurrence.grows(carry) and not recurrence.store(carry) for carry in recurrence.carries)
    size = recurrence.recur.size
    if shorter and pattern.why_not_causal and not pattern.plain:
        raise CallError(
            f"{spec.name}: axes of tokens are shorter at first, which patterns with scores, rotations, sinks, orders "
            "or mixtures cannot be"
        )
    rows = sum(pattern.sizes(size)[axis] for axis in pattern.rows)
    most = decoder.most()
    if most is not None and rows > most:
        beside = rows - size
        raise CallError(
            f"{spec.name}: a segment takes {rows} positions ({size} tokens, {beside} beside them), and the model has a "
            f"table of {most}: take segments of at most {most - beside} tokens"
        )
    return decoder.check(pattern.bind(size, {}))


def embeddings(name: str, decoder: Decoder, table: Any) -> Tensor:
    """A table of embeddings, or some of them: what parameters are drawn like."""
    weight = getattr(table, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 2:
        return weight
    with torch.no_grad():
        found = decoder.embed(torch.zeros((1, 1), dtype=torch.long))
    if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[:2] != (1, 1):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise CallError(
            f"{name}: embed gives {shape} for tokens of (1, 1): it must give vectors, (batch, length, width)"
        )
    return found[0]


def check_tokens(name: str, width: int, decoder: Decoder, ids: object, vectors: object) -> Tensor:
    """The tokens of a call: ids or vectors. Raises CallError."""
    most = decoder.many
    if (ids is None) == (vectors is None):
        raise CallError(f"{name}: give input_ids or inputs_embeds, one of the two")
    label, given = ("input_ids", ids) if vectors is None else ("inputs_embeds", vectors)
    if not isinstance(given, Tensor):
        raise CallError(f"{name}: {label} must be a tensor, not {type(given).__name__}")
    shape = tuple(given.shape)
    if vectors is None:
        if given.dtype not in _INTEGERS:
            raise CallError(f"{name}: input_ids are integers, not {given.dtype}")
        if given.dim() != 2:
            raise CallError(f"{name}: input_ids are (batch, length), not {shape}")
    elif not given.is_floating_point() or given.dim() != 3 or shape[2] != width:
        raise CallError(f"{name}: inputs_embeds are (batch, length, {width}), not {shape} of {given.dtype}")
    elif not torch.is_autocast_enabled(given.device.type):
        dtype = getattr(getattr(decoder.table, "weight", None), "dtype", given.dtype)
        if dtype.is_floating_point and dtype != given.dtype:
            raise CallError(f"{name}: inputs_embeds are {given.dtype}, and the model's embeddings {dtype}")
    if not given.shape[0] or not given.shape[1]:
        raise CallError(f"{name}: {label} of {shape}: there is no token")
    if vectors is None and most is not None and not given.is_meta:
        low, high = (int(x) for x in given.aminmax())
        if low < 0 or high >= most:
            raise CallError(f"{name}: input_ids reach from {low} to {high}; there are embeddings for 0 to {most - 1}")
    return given if vectors is not None else given.long()


def check_padding(name: str, mask: object, tokens: Tensor) -> None:
    """Raises CallError for a mask of padding that leaves a token out: segments are run whole."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.shape != tokens.shape[:2]:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise CallError(f"{name}: attention_mask is (batch, length) as the tokens, {tuple(tokens.shape[:2])}: {shape}")
    if not mask.is_meta and (out := int((mask == 0).sum())):
        raise CallError(
            f"{name}: attention_mask leaves {out} tokens out, and segments are run without padding: put sequences of "
            "one length in a batch. (For a loss alone pad behind them without a mask, with labels of -100 there; what "
            "is carried then knows of the padding.)"
        )


def check_labels(name: str, labels: object, tokens: Tensor, most: int | None) -> None:
    """Raises CallError for labels that are not those of the tokens. ``most`` is how many there are, if known."""
    if not isinstance(labels, Tensor) or labels.dtype not in _INTEGERS:
        raise CallError(
            f"{name}: labels are integers, as input_ids, not {getattr(labels, 'dtype', type(labels).__name__)}"
        )
    if labels.shape != tokens.shape[:2]:
        raise CallError(
            f"{name}: labels are (batch, length) as the tokens, {tuple(tokens.shape[:2])}, not {tuple(labels.shape)} "
            "(a label is moved to the token before it here)"
        )
    if labels.is_meta:
        return
    counted = labels[labels != IGNORED]
    if counted.numel():
        low, high = (int(x) for x in counted.aminmax())
        if low < 0 or (most is not None and high >= most):
            raise CallError(
                f"{name}: labels reach from {low} to {high}; "
                f"{'there are none below 0' if most is None else f'there are 0 to {most - 1}'} but {IGNORED}, which is "
                "not counted"
            )


def check_state(run: Segments, state: object, tokens: Tensor) -> None:
    """Raises CallError for a state that is not for this call."""
    name, recurrence, width = run.pattern.spec.name, run.recurrence, run.own.width
    if not isinstance(state, State):
        raise CallError(f"{name}: state is what a call gives, out.state, not {type(state).__name__}")
    if state.recurrence != recurrence:
        raise CallError(
            f"{name}: the state is of another spec, whose lines about segments are\n{state.recurrence}\nand not\n"
            f"{recurrence}"
        )
    if state.batch != tokens.shape[0]:
        raise CallError(f"{name}: the state is of a batch of {state.batch}; this call has a batch of {tokens.shape[0]}")
    for number, (carry, pieces) in enumerate(zip(recurrence.carries, state.carried, strict=True)):
        there, wanted = state.there(number), run.pattern.sizes(recurrence.recur.size).get(carry.targets[0])
        if not recurrence.grows(carry) and there != wanted:
            raise CallError(f"{name}: the state has {there} positions of `{carry.source}`; here there are {wanted}")
        for t in (t for piece in pieces for t in piece):
            if not carry.by_layer and t.shape[0] != state.batch:
                raise CallError(f"{name}: the state has tensors of {t.shape[0]} entries, and says {state.batch}")
            if not carry.by_layer and t.shape[-1] != width:
                raise CallError(f"{name}: the state has vectors of {t.shape[-1]} numbers; this model's have {width}")
            if t.device != tokens.device:
                raise CallError(f"{name}: the state is on {t.device}, the tokens on {tokens.device}: state.to(device)")


def check_positions(name: str, run: Segments, state: State, length: int) -> None:
    """Raises CallError where layers that keep positions count them beyond a model's table."""
    most = run.decoder.most()
    if most is None or not run.decoder.layered:
        return
    rows = sum(run.pattern.sizes(own)[axis] for own in run.recurrence.segments(length) for axis in run.pattern.rows)
    if state.positions + rows > most:
        raise CallError(
            f"{name}: what layers keep has positions of the whole sequence, {state.positions + rows} so far, and the "
            f"model has a table of {most}: take a model with rotary positions, or shorter sequences"
        )
