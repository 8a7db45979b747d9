"""The mask functions of transformers as predicates of our language: known by their code, never called or traced.

Functions are made anew at each forward, so what is compared is their code, and what they close over is read: numbers
and tensors become inputs, so that one text serves all of them. In the predicates ``q`` and ``k`` are positions among
the keys that are given: those of the sequence less ``key_start``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor
from transformers import masking_utils as made

from attnspec.runtime.huggingface.standin import Field

MaskFunction = Callable[[Any, Any, Any, Any], Any]


CAUSAL = "k <= q"


class Unknown(Exception):
    """What a mask function does that cannot be written."""


@dataclass
class Written:
    """What is collected while a mask function is read.

    ``keys`` is how many keys are given, from ``start`` on. Where positions begin anew in each document, ``position`` is
    the input that holds them.
    """

    keys: int
    start: int
    position: str = ""
    numbers: list[tuple[str, int | Tensor]] = field(default_factory=list)
    fields: list[tuple[Field, Tensor]] = field(default_factory=list)

    def number(self, name: str, value: int | Tensor) -> str:
        """The name of an input with this value: the same value has one name."""
        for known, other in self.numbers:
            if other is value or (isinstance(other, int) and isinstance(value, int) and other == value):
                return known
        name = self._free(name)
        self.numbers.append((name, value))
        return name

    def values(self, name: str, tensor: Tensor, kind: str = "int", sorted: bool = False) -> str:
        """The name of an input with a value for each key: their part of a tensor, (batch or none, positions)."""
        if tensor.dim() not in (1, 2) or tensor.shape[-1] < self.start + self.keys:
            raise Unknown(
                f"a tensor of {tuple(tensor.shape)} is not of batch entries and {self.start + self.keys} keys"
            )
        for known, other in self.fields:
            if other is tensor:
                return known.name
        name = self._free(name)
        self.fields.append((Field(name, kind, sorted), tensor))
        return name

    def number_documents(self, tensor: Tensor, text: str) -> str:
        """Say of a tensor that it holds the documents, which stand one after the other: a text that calls it so."""
        name = next(known.name for known, other in self.fields if other is tensor)
        self.fields = [(Field("doc", "int", True) if t is tensor else known, t) for known, t in self.fields]
        return text.replace(f"{name}[b, ", "doc[b, ")

    def clear(self) -> None:
        """Begin anew."""
        self.numbers, self.fields = [], []

    def _free(self, name: str) -> str:
        taken = [known for known, _ in self.numbers] + [known.name for known, _ in self.fields]
        return name if name not in taken else self._free(f"{name}2")


def predicate(function: MaskFunction, written: Written) -> str | None:
    """The predicate of a mask function; None where it holds for all pairs. Raises Unknown for one that is not known."""
    if function is made.causal_mask_function:
        return CAUSAL
    if function is made.bidirectional_mask_function:
        return None
    reader = _READERS.get(function.__code__) if isinstance(function, FunctionType) else None
    if reader is None:
        raise Unknown(getattr(function, "__qualname__", repr(function)))
    return reader(_closed(function), written)


def _closed(function: MaskFunction) -> dict[str, Any]:
    """What a function closes over, by name."""
    assert isinstance(function, FunctionType)
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return dict(zip(function.__code__.co_freevars, cells, strict=True))


def _all(closed: dict[str, Any], written: Written) -> str | None:
    functions = closed["mask_functions"]
    if len(functions) == 2 and _code(functions[0]) is _REMAP and _code(functions[1]) is _PACKED:
        return _restarting(functions, written)
    found = [text for one in functions if (text := predicate(one, written))]
    return " and ".join(f"({text})" for text in found) or None


def _any(closed: dict[str, Any], written: Written) -> str | None:
    found = [predicate(one, written) for one in closed["mask_functions"]]
    return None if None in found else " or ".join(f"({text})" for text in found)


def _sliding(closed: dict[str, Any], written: Written) -> str:
    return f"q - k < {written.number('window', closed['sliding_window'])}"


def _sliding_both_ways(closed: dict[str, Any], written: Written) -> str:
    return f"|q - k| <= {written.number('window', closed['sliding_window'])}"


def _chunked(closed: dict[str, Any], written: Written) -> str:
    chunk = written.number("chunk", closed["chunk_size"])
    left = written.number("chunk_start", closed["left_padding"])
    k, q = (f"{written.position}[b, {at}]" if written.position else f"{at} + key_start" for at in "kq")
    return f"({k} - {left}) // {chunk} == ({q} - {left}) // {chunk}"


def _blocks(closed: dict[str, Any], written: Written) -> str:
    block = written.values("block", closed["block_sequence_ids"])
    return f"{block}[b, q] == {block}[b, k] and {block}[b, q] >= 0"


def _padded(closed: dict[str, Any], written: Written) -> str:
    mask = closed["padding_mask"]
    return f"{written.values('there', mask, 'bool')}[b, k]"


def _packed(closed: dict[str, Any], written: Written) -> str:
    doc = closed["packed_sequence_mask"]
    ascending = not bool((doc[:, 1:] < doc[:, :-1]).any())
    name = written.values("doc", doc, sorted=ascending)
    return f"{name}[b, q] == {name}[b, k]"


def _restarting(functions: tuple[MaskFunction, ...], written: Written) -> str:
    """Documents whose positions begin anew: within one they differ as places do, so only chunks read them."""
    inner, doc = _closed(functions[0]), _closed(functions[1])["packed_sequence_mask"]
    positions = inner["position_ids"].expand(doc.shape)
    if not bool(((positions.diff() == 1) | (doc.diff() != 0)).all()):
        raise Unknown("positions that do not go on within a document")
    same = _packed(_closed(functions[1]), written)
    if _reads_positions(inner["mask_function"]):
        written.position = written.values("position", positions)
    text = predicate(inner["mask_function"], written)
    written.position = ""
    return same if text is None else f"({same}) and ({text})"


def _reads_positions(function: MaskFunction) -> bool:
    """Whether it is more than the difference of two positions that decides."""
    inner = _closed(function).get("mask_functions", ()) if isinstance(function, FunctionType) else ()
    return _code(function) is _CHUNKED or any(_reads_positions(one) for one in inner)


def _code(function: MaskFunction) -> CodeType | None:
    return getattr(function, "__code__", None)


_ONE = torch.zeros(1, 1, dtype=torch.long)
_PACKED = made.packed_sequence_mask_function(_ONE).__code__
_REMAP = (
    made.remap_positions_for_packed_sequence(made.causal_mask_function, _ONE).__code__
    if hasattr(made, "remap_positions_for_packed_sequence")  # from 5.24 on
    else None
)
_CHUNKED = made.chunked_overlay(1, _ONE[0]).__code__
_READERS: dict[CodeType, Callable[[dict[str, Any], Written], str | None]] = {
    made.and_masks(made.causal_mask_function).__code__: _all,
    made.or_masks(made.causal_mask_function).__code__: _any,
    made.sliding_window_overlay(1).__code__: _sliding,
    made.sliding_window_bidirectional_overlay(1).__code__: _sliding_both_ways,
    _CHUNKED: _chunked,
    made.blockwise_overlay(_ONE).__code__: _blocks,
    made.padding_mask_function(_ONE).__code__: _padded,
    _PACKED: _packed,
}
