"""What stands for a mask where a model hands one to its layers: integers that say where the queries and keys lie.

It is a tensor of int32, (batch, structure, keys, 4 + more), of which all rows of the two dimensions in the middle are
one. Four dimensions: models, device maps and checkpointing take it for a mask that is ready. Integers: a model that
adds it to scores fails. What the mask is, its :class:`Structure`, is known by the size of a dimension, so that
torch.compile sees it while it traces; so is for how many keys it was made (:func:`keys_of`). Each batch entry then has

- the position of the first query, and that of the first key that is given;
- the position of the first key that is no padding, and one past the last of them;
- the numbers of its structure: the width of a window, the size of chunks;
- the fields of its structure, with a number for each key that is given: documents, blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.constant import Numbered, constant

PLACES = ("query_start", "key_start", "real_start", "real_stop")
"""Inputs of every structure, ``int[batch]``: the first four numbers."""
Row = tuple[int, int, int, int]
"""Where a batch entry lies: its first query and its first key, its first real key and one past the last."""
_KEPT = "_attnspec_numbers"


@dataclass(frozen=True)
class Field:
    """An input with a value for each key that is given: ``int[batch, n]``, maybe sorted, or ``bool[batch, n]``."""

    name: str
    kind: str = "int"
    sorted: bool = False

    @property
    def declared(self) -> str:
        """As a spec says it."""
        return f"input {self.name}: {self.kind}[batch, n]{' sorted' if self.sorted else ''}"


@dataclass(frozen=True)
class Structure:
    """A mask but for its numbers: what is seen, other lines of a spec, and the inputs that these read besides PLACES.

    Queries stand ``align start``: query row 0 of the call is q = 0, its first key is k = 0. Their positions in the
    sequence are q + query_start and k + key_start. In ``seen`` the query stands at the place of its own key: without
    ``shifted`` that is row 0 at key 0, as in training, where tiles are known better. Padding is left out by a line that
    every structure has.
    """

    seen: str = ""
    lines: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    shifted: bool = False

    def text(self, more: Sequence[str] = (), parameters: str = "") -> str:
        """The spec, with more lines."""
        at = " at (q + query_start - key_start, k)" if self.shifted else ""
        lines = [
            "align start",
            *(f"input {name}: int[batch]" for name in (*PLACES, *self.numbers)),
            *(field.declared for field in self.fields),
            "within k + key_start >= real_start and k + key_start < real_stop",
            *([f"attend ({self.seen}){at}"] if self.seen else []),
            *self.lines,
            *more,
        ]
        body = "".join(f"    {line}\n" for line in lines)
        return f"attention huggingface{parameters} {{\n{body}}}\n"

    @property
    def number(self) -> int:
        """The size of the dimension that says which it is: at least 2, as 1 is no size of its own to PyTorch."""
        fields = tuple([(field.name, field.kind, field.sorted) for field in self.fields])
        return _number(self.seen, self.lines, self.numbers, fields, self.shifted)

    @classmethod
    def numbered(cls, number: int) -> Structure | None:
        """The one with this number."""
        found: Structure | None = _STRUCTURES.numbered(number)
        return found


_STRUCTURES = Numbered(first=2)


@constant
def _number(
    seen: str,
    lines: tuple[str, ...],
    numbers: tuple[str, ...],
    fields: tuple[tuple[str, str, bool], ...],
    shifted: bool,
) -> int:
    """The number of a structure."""
    structure = Structure(seen, lines, numbers, tuple(Field(*field) for field in fields), shifted)
    return _STRUCTURES.number(structure, lambda _: structure)


def packed(
    structure: Structure,
    batch: int,
    keys: int,
    columns: Sequence[int | Tensor],
    fields: Sequence[Tensor] = (),
    device: torch.device | str | None = None,
) -> Tensor:
    """The stand-in: ``columns`` are the four numbers and those of the structure, each one for all or (batch,).

    ``fields`` are (batch or 1, keys). Without padding the first real key may be said to be at 0 and the last at any
    position that is late enough. Its third size is one more than there are keys, or 1: so that a model which takes it
    for a mask of its own can never add it to scores.
    """
    if all(isinstance(column, int) for column in columns):
        rows = torch.tensor([columns], dtype=torch.int32, device=device).expand(batch, -1)
    else:
        parts = [
            column.to(device=device, dtype=torch.int32).reshape(-1).expand(batch)
            if isinstance(column, Tensor)
            else torch.full((batch,), column, dtype=torch.int32, device=device)
            for column in columns
        ]
        rows = torch.stack(parts, 1)
    if fields:
        rows = torch.cat([rows, *(t.to(device=device, dtype=torch.int32).expand(batch, keys) for t in fields)], 1)
    return rows[:, None, None].expand(batch, structure.number, 1 if fields else keys + 1, -1)


def keys_of(mask: Tensor) -> int:
    """For how many keys a stand-in was made: its fields have a number for each, without them a dimension says it.

    So one that is copied, to another device say, grows with the keys and not with their square.
    """
    structure = Structure.numbered(mask.shape[1])
    if structure is None or not structure.fields:
        return mask.shape[2] - 1
    return (mask.shape[3] - len(PLACES) - len(structure.numbers)) // len(structure.fields)


def is_standin(mask: Tensor) -> bool:
    """Whether a tensor is one: no other mask has integers of 32 bits."""
    return mask.dtype is torch.int32 and mask.dim() == 4


def numbers_of(mask: Tensor) -> tuple[Row, ...]:
    """The first four numbers of a stand-in for each batch entry: read once for all layers."""
    found: tuple[Row, ...] | None = getattr(mask, _KEPT, None)
    if found is None:
        found = tuple((a, b, c, d) for a, b, c, d in mask[:, 0, 0, : len(PLACES)].tolist())
        setattr(mask, _KEPT, found)
    return found


def unpacked(mask: Tensor, batch: int, keys: int) -> tuple[Structure, dict[str, Tensor]]:
    """What it says for a layer with so many batch entries and keys: its structure, and the inputs by name.

    Outside of torch.compile that is found once for all layers. Raises CallError where it was made for others.
    """
    if torch.compiler.is_compiling():
        return _unpacked(mask, batch, keys)
    known: tuple[int, int, Structure, dict[str, Tensor]] | None = getattr(mask, _KNOWN, None)
    if known is None or known[:2] != (batch, keys):
        known = (batch, keys, *_unpacked(mask, batch, keys))
        setattr(mask, _KNOWN, known)
    return known[2], dict(known[3])


_KNOWN = "_attnspec_unpacked"


def _unpacked(mask: Tensor, batch: int, keys: int) -> tuple[Structure, dict[str, Tensor]]:
    of, number, _, width = mask.shape
    structure = Structure.numbered(number)
    if structure is None:
        raise CallError(
            f"attnspec.transformers: a mask of integers, {tuple(mask.shape)}, is none: give one of booleans, True "
            "where a query sees a key"
        )
    made_for = keys_of(mask)
    if (of, made_for) != (batch, keys):
        raise CallError(
            f"attnspec.transformers: the mask is of {of} batch entries and {made_for} keys, and a layer has {batch} "
            f"and {keys}: layers of a kind must keep equally many keys"
        )
    names = (*PLACES, *structure.numbers)
    if width != len(names) + len(structure.fields) * keys:
        raise CallError(
            f"attnspec.transformers: the mask has {width} numbers of {len(names) + len(structure.fields) * keys}: the "
            "model cuts it"
        )
    rows = mask[:, 0, 0]
    columns = rows[:, : len(names)].t().contiguous()  # no views of the mask, which keeps them
    inputs = dict(zip(names, columns.unbind(0), strict=True))
    for at, field in enumerate(structure.fields):
        start = len(names) + at * keys
        t = rows[:, start : start + keys]
        inputs[field.name] = t.bool() if field.kind == "bool" else t.clone()
    return structure, inputs
