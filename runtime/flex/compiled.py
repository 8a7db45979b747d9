"""``flex_attention`` while TorchDynamo traces: functions are constants, and the tensors around them go into the graph.

What functions are made of is followed once more where the trace sees it, so that a graph is for these functions and
numbers and for any tensors. What these hold is not known then, and a text takes nothing of it for granted: which tiles
there are is said by the tables of a BlockMask.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.flex.blocks import Listed, check_lengths, read_as, seen, tables
from attnspec.runtime.flex.facts import Facts, Limit
from attnspec.runtime.flex.imported import imported
from attnspec.runtime.flex.structure import Path, structure
from attnspec.runtime.flex.tables import Call

Functions = tuple[Callable[..., Any] | None, Callable[..., Any] | None]
_attentions: dict[str, Attention] = {}
"""Patterns by their texts: in graphs texts are constants."""
_codes: list[CodeType] = []


@torch.compiler.disable(  # type: ignore[untyped-decorator, no-untyped-call]
    reason="what a mask_mod or score_mod reads is not known where it is made inside what is compiled, where it makes "
    "tensors of others or looks into them (.item(), int()), and where a class or a made-up name leads to it; make such "
    "functions outside, and tensors and numbers before them, or let the graph break here"
)
def between_graphs(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call that is not traced."""
    return function(*args, **kwargs)


def found(
    functions: Functions, block_mask: Any, sizes: tuple[int, int, int, int]
) -> tuple[Attention, dict[str, Tensor], tuple[Limit, ...]] | None:
    """The pattern of functions and blocks, its inputs and what they must hold.

    None where it is not known what functions read.
    """
    if not all(map(_made_before, functions)):
        return None
    parts = _parts(*functions)
    if parts is None:
        return None
    tensors = _followed(functions, parts)
    given: dict[str, Tensor] = {}
    shapes: tuple[tuple[int, ...] | None, ...] = (None, None)
    size = (0, 0)
    if block_mask is not None and check_lengths(block_mask, sizes[2], sizes[3]):
        partial, full = tables(block_mask, *sizes)
        _check(partial, full)
        size = (block_mask.BLOCK_SIZE[0], block_mask.BLOCK_SIZE[1])
        blocks = seen(partial, full, size)
        given["any"] = read_as(blocks.any)
        shapes = (tuple(blocks.partial.shape), None)
        if blocks.full is not None:
            given["full"] = read_as(blocks.full)
            shapes = (tuple(blocks.partial.shape), tuple(blocks.full.shape))
    known = tuple(int(x) for x in sizes) if tensors or given else (None, int(sizes[1]), None, None)
    written = _text(*functions, known, shapes, size)
    if written is None:
        return None
    text, sources, limits = written
    inputs = {name: given[key] if isinstance(key, str) else tensors[key] for name, key in sources}
    return _attentions[text], inputs, limits


def _made_before(function: Any) -> bool:
    """Whether a function is there already, and not made while the trace runs: then nothing can be asked of it."""
    try:
        return function is None or function.__closure__ is None or len(function.__closure__) > 0
    except AttributeError:  # objects that can be called have none either
        return False


def _check(partial: Tensor, full: Tensor | None) -> None:
    torch._assert_async(
        ~((partial[..., -1] > 0).any() | (partial[..., :-1] > 1).any()),
        "flex_attention: block_mask names a block twice, or one that there is none of",
    )
    if full is not None:
        torch._assert_async(
            ~((full[..., -1] > 0).any() | (partial[..., :-1] + full[..., :-1] > 1).any()),
            "flex_attention: block_mask names a block twice, or one that there is none of",
        )


def _followed(functions: Functions, parts: tuple[tuple[Path, str, Any], ...]) -> list[Tensor]:
    """The tensors of functions. That all else is what it was is seen by the trace, which makes another graph if not."""
    tensors: list[Tensor] = []
    for path, kind, what in parts:
        value: Any = functions
        for step, place in path:
            if step == "cell":
                value = value.__closure__[place].cell_contents
            elif step == "attribute":
                value = getattr(value, place)
            elif step == "global":
                value = value.__globals__[place]
            else:
                value = value[place]
        if kind == "tensor":
            if what == len(tensors):
                tensors.append(value)
            elif value is not tensors[what]:  # which the trace guards where it is asked
                raise CallError("flex_attention: a tensor around a function is another one than it was")
        elif (kind == "code" and value.__code__ is not _codes[what]) or (kind == "value" and value != what):
            raise CallError("flex_attention: a function is another one than it was when it was traced")
    return tensors


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _parts(mask_mod: Any, score_mod: Any) -> tuple[tuple[Path, str, Any], ...] | None:
    """The parts of functions, where there is a way to each; codes are numbers here."""
    made_of = structure(mask_mod, score_mod, follow=True)
    if made_of is None or made_of.parts is None:
        return None
    found = []
    for path, kind, what in made_of.parts:
        if kind == "code":
            if all(code is not what for code in _codes):  # one that was read again is equal, and another one
                _codes.append(what)
            what = next(i for i, code in enumerate(_codes) if code is what)
        found.append((path, kind, what))
    return tuple(found)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _text(
    mask_mod: Any, score_mod: Any, sizes: tuple[int | None, ...], shapes: tuple[Any, ...], size: tuple[int, int]
) -> tuple[str, tuple[tuple[str, int | str], ...], tuple[Limit, ...]] | None:
    """The text of functions beside blocks, and what its inputs are: the number of a tensor, or the name of a table.

    Then what must hold of them.

    None where values of tensors went into it.
    """
    from torch.nn.attention.flex_attention import noop_mask

    mask = mask_mod
    if shapes[0] is not None:  # tables in whose place others come are told apart by what they hold
        partial = torch.ones(shapes[0], dtype=torch.bool)
        full = None if shapes[1] is None else torch.zeros(shapes[1], dtype=torch.bool)
        blocks = Listed(partial, full, size)
        mask = blocks.alone() if mask_mod is noop_mask else blocks.beside(mask_mod)
    facts = Facts(looks=False)
    pattern = imported(mask, score_mod, Call(*sizes), facts)
    if facts.values:
        return None
    own = structure(mask_mod, score_mod)
    places = {id(t): place for place, t in enumerate(() if own is None else own.tensors)}
    sources = []
    for name, t in pattern.inputs.items():
        if id(t) not in places and (t.dtype != torch.bool or shapes[0] is None or t.shape[-2:] != shapes[0][-2:]):
            return None
        sources.append((name, places.get(id(t), "any" if bool(t.any()) else "full")))
    if pattern.text not in _attentions:
        _attentions[pattern.text] = compile(pattern.text)
    return pattern.text, tuple(sources), tuple(facts.limits)
