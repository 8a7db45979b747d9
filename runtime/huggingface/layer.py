"""The attention of a layer whose mask a pattern has taken the place of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.asked import Asked
from attnspec.runtime.huggingface.attention import attention as own_attention
from attnspec.runtime.huggingface.bounded import Filler, Layer, kept_by
from attnspec.runtime.huggingface.choice import Choice, layer_types
from attnspec.runtime.huggingface.own import check_own, own_pattern
from attnspec.runtime.huggingface.pattern import SINKS, Pattern
from attnspec.runtime.huggingface.standin import Row, is_standin, numbers_of, unpacked
from attnspec.runtime.huggingface.standing import Standing, number_of, of_layer, standing
from attnspec.spec.placed import DOCUMENT, KEY, QUERY, REAL, START, STOP

_LIES = "_attnspec_lies"
Attend = Callable[..., tuple[Tensor, None]]


class Lies(NamedTuple):
    """How the sequences of a batch lie in the tensors of a layer.

    ``rows`` are those of the stand-in, four numbers for each batch entry (None while torch.compile traces), ``inputs``
    what is declared by :func:`attnspec.spec.placed.placed`.
    """

    ways: tuple[str, ...]
    inputs: dict[str, Tensor]
    rows: tuple[Row, ...] | None


def patterned(choice: Choice) -> Attend:
    """The interface of attention of transformers that puts patterns in the place of masks."""
    number, any_pattern = number_of(choice), choice.patterned

    def attention(*given: Any, **more: Any) -> tuple[Tensor, None]:
        """Attention of (batch, heads, rows, dim): (batch, rows, heads, dim), and no weights."""
        asked = Asked.of(*given, **more)
        stands = of_layer(number, asked.module) if any_pattern and not crosses(asked.module) else None
        kept = kept_by(asked.key)
        if kept is not None:
            _check_kept(kept, stands, asked.module)
            out = _from_cache(kept, asked)
        elif stands is None:
            return own_attention(asked)
        else:
            out = _attend(stands, asked)
        return out.transpose(1, 2).contiguous(), None

    return attention


def crosses(module: nn.Module) -> bool:
    """Whether it attends from a decoder to another sequence: a pattern has no place there. Models say it in 3 ways."""
    if getattr(module, "is_cross_attention", False) or "CrossAttention" in type(module).__name__:
        return True
    return getattr(module, "is_causal", None) is False and bool(getattr(module.config, "is_decoder", False))


def _attend(stands: Standing, asked: Asked) -> Tensor:
    _check(stands, asked)
    query, key, value, mask, sinks = asked.query, asked.key, asked.value, asked.mask, asked.s_aux
    (batch, heads, rows, _), (_, kv_heads, keys, _) = query.shape, key.shape
    compiling = torch.compiler.is_compiling()
    lies = _lies(stands, mask, batch, rows, keys) if compiling or mask is None else _known(stands, mask, query, key)
    if lies.rows is None:
        _check_whole(stands, asked)
    else:
        first, key_start = lies.rows[0][:2]
        if key_start:
            _check_reach(stands.pattern, lies.rows, (heads, kv_heads, batch), asked.name)
        if first + rows < key_start + keys:  # the tail of a static cache is not written yet
            key, value = (t[:, :, : first + rows - key_start] for t in (key, value))
    inputs = lies.inputs if sinks is None else {**lies.inputs, SINKS: sinks}
    inputs = {name: t[:, : key.shape[2]] if name in (REAL, DOCUMENT) else t for name, t in inputs.items()}
    scale, of_branches = stands.scales(asked.scaling)
    attend = stands.attention(lies.ways, asked.softcap, sinks is not None, of_branches)
    return attend(query, key, value, scale=scale, inputs=inputs)


def _check(stands: Standing, asked: Asked) -> None:
    """Raises CallError for what a layer asks for and a pattern cannot give."""
    module = asked.module
    config: Any = getattr(module, "config", None)
    if torch.compiler.is_compiling():
        check_model(stands, config)
    elif stands.model is not config:
        check_model(stands, config)
        stands.model = config
    if asked.position_bias is not None:
        raise CallError(f"{stands.name}: {asked.name} adds a bias to its scores, for which a pattern has no place")
    if asked.is_causal is not False and getattr(module, "is_causal", True) and getattr(config, "is_causal", True):
        stands.check_past(asked.query.shape[1], asked.key.shape[1])


def _known(stands: Standing, mask: Tensor, query: Tensor, key: Tensor) -> Lies:
    """How sequences lie, found once for all layers that are given the same mask and do not differ in what it means."""
    asked = stands.restart, query.shape[0], query.shape[2], key.shape[2]
    found: dict[tuple[bool, int, int, int], Lies] | None = getattr(mask, _LIES, None)
    if found is None:
        setattr(mask, _LIES, found := {})
    if asked not in found:
        found[asked] = _lies(stands, mask, *asked[1:])
    return found[asked]


def _check_kept(kept: Layer, stands: Standing | None, module: nn.Module) -> None:
    """Raises CallError for a cache of another pattern than the layer has now, or with tokens of another model."""
    kept.refuse_graph()
    name, layers = type(module).__name__, kept.layers
    now, then = stands and stands.pattern, None if kept.own else kept.pattern
    if stands is not (then and standing(then)):
        raise CallError(_unlike(f"{name} attends by {now or 'its own mask'}", str(then or "its own mask")))
    found = kept.filled_by and kept.filled_by.module()
    if found is module:
        return
    if kept.filled_by is not None:
        whose = "another model" if found is None else f"a {type(found).__name__} of another model"
        raise CallError(
            f"attnspec.transformers: the tokens in this cache are of {whose}, and {name} would go on with them: call "
            "cache.reset(), or make a cache for each model, attnspec.transformers.cache(model)"
        )
    if len(layer_types(module.config)) != layers:
        has = f"{name} is one of {len(layer_types(module.config))} layers"
        raise CallError(_unlike(has, f"a model of {layers}"))
    if kept.own and (own := own_pattern(module.config, module.layer_idx)) != kept.pattern:  # type: ignore[arg-type]
        raise CallError(_unlike(f"{name} attends by its own mask, {own}", str(kept.pattern)))
    kept.filled_by = Filler(module)


def _unlike(now: str, then: str) -> str:
    return (
        f"attnspec.transformers: {now}, and its cache was made for {then}: make one for the model as it is now, "
        "attnspec.transformers.cache(model)"
    )


def _from_cache(kept: Layer, asked: Asked) -> Tensor:
    """Attention to the keys of a bounded cache."""
    stands, mask, query, key = standing(kept.pattern), asked.mask, asked.query, asked.key
    _check(stands, asked)
    if mask is None or not is_standin(mask):
        raise CallError(f"{stands.name}: a layer with a bounded cache was given no mask of ours")
    if "holes" in _known(stands, mask, query, key).ways:
        raise CallError(
            f"{stands.name}: a batch entry has padding between its tokens, and a cache that drops keys has it "
            "only before them: pad on the left"
        )
    structure = mask.shape[1]
    if kept.own and kept.checked != structure:  # which may be another in a later turn, with images
        number: Any = asked.module.layer_idx
        check_own(asked.module.config, number, mask)
        kept.checked = structure
    scales = stands.scales(asked.scaling)
    return kept.attend(query, key, asked.value, numbers_of(mask), scales, asked.softcap, asked.s_aux)


def check_model(stands: Standing, config: Any) -> None:
    """Raises CallError where a model cannot have a pattern in the place of its masks."""
    name = stands.name
    if getattr(config, "is_encoder_decoder", False):
        raise CallError(
            f"{name}: masks of a model of encoder and decoder are of several kinds, its cross-attention's too, and "
            "there is one config for all of them: leave it its own masks, attnspec.transformers.register(name) without "
            "a pattern"
        )
    if stands.turns and (rotates := _rotates(config)):
        raise CallError(
            f"{name}: the pattern has a `rotate` line, and the model turns queries and keys itself ({rotates}): leave "
            "the line out"
        )


def _rotates(config: Any) -> str:
    """The setting of a config that says that a model turns queries and keys; empty if it does not."""
    for setting in ("rope_parameters", "rope_scaling", "rope_theta", "rotary_dim", "rotary_pct", "rotary_emb_base"):
        if getattr(config, setting, None):
            return setting
    return ""


def _lies(stands: Standing, mask: Tensor | None, batch: int, rows: int, keys: int) -> Lies:
    """How sequences lie. Raises CallError for a mask that is no stand-in, and where none came and it is not known."""
    name = stands.name
    if mask is None:
        if rows != keys:
            raise CallError(
                f"{name}: no mask came to a layer with {rows} queries and {keys} keys: where do they stand?"
            )
        return Lies((), {}, None)
    if not is_standin(mask):
        raise CallError(
            f"{name}: a mask of all pairs came to a layer, {tuple(mask.shape)}, and the pattern stands in its place: "
            "give an attention_mask of 2 dimensions, which says what is padding, or none"
        )
    structure, found = unpacked(mask, batch, keys)
    fields = {field.name: field for field in structure.fields}
    inputs: dict[str, Tensor] = {}
    ways: list[str] = []
    if "doc" in fields:
        ways.append("packed" if stands.restart else "apart")
        inputs[DOCUMENT] = found["doc"]
    if "real" in fields:
        ways.append("holes")
        inputs[REAL] = found["real"]
    at = None
    if torch.compiler.is_compiling():
        if "doc" not in fields:
            ways += ["padded", "offset"]
    else:
        at = numbers_of(mask)
        end = at[0][0] + rows
        if any(start > 0 or stop < end for _, _, start, stop in at):
            ways.append("padded")
        if at[0][1]:
            ways.append("offset")
    for way, names in (("padded", (START, STOP)), ("offset", (QUERY, KEY))):
        inputs |= {one: found[one] for one in names if way in ways}
    return Lies(tuple(ways), inputs, at)


def _check_whole(stands: Standing, asked: Asked) -> None:
    """Raises CallError where a graph is made for a cache that drops what the pattern sees: it keeps the last keys."""
    (_, heads, rows, _), (_, kv_heads, keys, _) = asked.query.shape, asked.key.shape
    number: Any = getattr(asked.module, "layer_idx", None)
    if rows == keys or number is None or layer_types(asked.module.config)[number] == "full_attention":
        return
    span = stands.span(heads, kv_heads)
    if span < 0 or keys - rows < span:
        raise CallError(
            f"{stands.name}: the cache of {asked.name} drops keys that the pattern sees, as the model's own mask lets "
            "it: generate with past_key_values=attnspec.transformers.cache(model) and without torch.compile, or set "
            "sliding_window to None in the model's config"
        )


def _check_reach(pattern: Pattern, rows: tuple[Row, ...], sizes: tuple[int, int, int], layer: str) -> None:
    """Raises CallError where the first keys are not there any more, and the pattern may see them."""
    kept = pattern.kept(*sizes)
    for query, key, start, _ in rows:
        if start < key and (kept.growing or kept.fixed or query - kept.span < key):
            raise CallError(
                f"{pattern.spec.name}: the cache of {layer} has dropped all keys before position {key}, as the "
                f"model's own mask lets it, and the pattern sees more ({kept}): generate with past_key_values="
                "attnspec.transformers.cache(model)"
            )
