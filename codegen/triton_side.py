"""How a Triton kernel finds the queries and the keys of a tile, and how it reads rows of the tensors there.

Names of one side begin with ``q_`` or ``k_``. For a tile: ``_at`` are positions (kernel's position type), ``_live`` says
which exist, and rows of a tensor are ``first + rel``: ``first`` a scalar, ``rel`` the same for every tile where a stride
leads from one to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnspec.codegen.layout import Layout, Slots

LEAST = 16
"""The least width of an operand of a matrix product."""


@dataclass(frozen=True)
class Part:
    """A part of a head: ``width`` dimensions (a power of two) from ``start`` on, of which ``real`` exist."""

    start: int
    width: int
    real: int


def parts(dim: int) -> tuple[Part, ...]:
    """A head as one or two parts whose widths are powers of two.

    >>> parts(80)
    (Part(start=0, width=64, real=64), Part(start=64, width=16, real=16))
    >>> parts(120)
    (Part(start=0, width=128, real=120),)
    """
    first = 1 << (dim.bit_length() - 1)
    if first == dim and dim >= LEAST:
        return (Part(0, dim, dim),)
    rest = max(LEAST, 1 << (dim - first - 1).bit_length()) if dim > first else 0
    if first < LEAST or rest >= first:
        width = max(LEAST, 1 << (dim - 1).bit_length())
        return (Part(0, width, dim),)
    return Part(0, first, first), Part(first, rest, dim - first)


@dataclass(frozen=True)
class Side:
    """The queries (``name`` is ``"q"``) or keys (``"k"``) of a pass, ``size`` to a tile."""

    name: str
    layout: Layout
    size: int
    pos: str

    @property
    def listed(self) -> bool:
        """Whether positions are read from a list."""
        return self.layout.listed[0 if self.name == "q" else 1]

    @property
    def stride(self) -> int:
        """From one slot's position to the next, where no list says so."""
        return 1 if self.listed else self.layout.residues

    def begin(self) -> Iterator[str]:
        """Once for each program: the list of the residue (of the head), and which slots it holds."""
        s = self.name
        if isinstance(self.layout, Slots):
            yield f"{s}_list = ORDER + (b * heads + h) * {self.layout.rounds} * n"
            first, count = (self.layout.round, 1) if s == "q" else (0, self.layout.rounds)
            yield f"{s}_begin = {first} * n"
            yield f"{s}_end = {first + count} * n"
            if s == "q":
                yield "q_list += q_begin"
        elif self.listed:
            yield f"{s}_list = {s.upper()}_LIST + c * {s}_count"
            yield f"{s}_begin = as_index({s}_first_slot)"
            yield f"{s}_end = {s}_begin + {s}_count"

    def last_tile(self) -> str:
        """The last tile that may hold a query, or a key."""
        if self.listed:
            return f"floor_div({self.name}_end - 1, {self.size})"
        last = "offset + n_q - 1 - c" if self.name == "q" else "n - 1 - c"
        return f"floor_div({last}, {self.stride * self.size})"

    def first_tile(self) -> str:
        """The first tile that may hold a query, or a key."""
        if self.listed:
            return f"floor_div({self.name}_begin, {self.size})"
        if self.name == "k":
            return "as_index(0)"
        return f"floor_div(-floor_div(c - offset, {self.stride}), {self.size})"

    def slots(self, tile: str) -> tuple[str, str]:
        """The first and last slot of a tile that exist."""
        low, high = f"{tile} * {self.size}", f"{tile} * {self.size} + {self.size - 1}"
        if self.listed:
            return f"tl.maximum({low}, {self.name}_begin)", f"tl.minimum({high}, {self.name}_end - 1)"
        if self.name == "k":
            return low, f"tl.minimum({high}, floor_div(n - 1 - c, {self.stride}))"
        begin, end = f"-floor_div(c - offset, {self.stride})", f"floor_div(offset + n_q - 1 - c, {self.stride})"
        return f"tl.maximum({low}, {begin})", f"tl.minimum({high}, {end})"

    def place(self, tile: str) -> Iterator[str]:
        """The positions of a tile."""
        s, shift = self.name, " - offset" if self.name == "q" else ""
        if self.listed:
            yield f"{s}_slot = {tile} * {self.size} + tl.arange(0, {self.size})"
            yield f"{s}_at = positions({s}_list, {s}_slot, {s}_begin, {s}_end).to({self.pos})"
            yield f"{s}_live = {s}_at != EMPTY"
            yield f"{s}_at = tl.where({s}_live, {s}_at, 0)"
            yield f"{s}_first = as_index(0)"
            yield f"{s}_rel = {s}_at.to(tl.int64){shift}"
            return
        by = "" if self.stride == 1 else f" * {self.stride}"
        yield f"{s}_rel = tl.arange(0, {self.size}){by}"
        yield f"{s}_first = c + {tile} * {self.stride * self.size}{shift}"
        yield f"{s}_at = ({s}_first{' + offset' if shift else ''} + {s}_rel).to({self.pos})"
        if s == "q":
            yield "q_live = (q_first + q_rel >= 0) & (q_first + q_rel < n_q)"
        else:
            yield "k_live = k_first + k_rel < n"

    def read(self, to: str, base: str, stride: str, all_parts: tuple[Part, ...], guard: str) -> Iterator[str]:
        """Rows of a tensor as (size, width) blocks ``to``0, ``to``1; ``guard`` says where rows may not be live."""
        s = self.name
        for number, part in enumerate(all_parts):
            d = f"{part.start} + tl.arange(0, {part.width})" if part.start else f"tl.arange(0, {part.width})"
            at = f"{base} + {s}_first * {stride} + ({s}_rel[:, None] * {stride} + ({d})[None, :])"
            live, whole = f"{s}_live[:, None]", guard
            if part.real != part.width:
                live, whole = f"{live} & (tl.arange(0, {part.width}) < {part.real})[None, :]", "True"
            yield f"{to}{number} = load({at}, {live}, {whole})"

    def write(self, base: str, stride: str, blocks: str, all_parts: tuple[Part, ...], add: bool) -> Iterator[str]:
        """Rows of a tensor from blocks: written, or added to what is there."""
        s = self.name
        for number, part in enumerate(all_parts):
            d = f"{part.start} + tl.arange(0, {part.width})" if part.start else f"tl.arange(0, {part.width})"
            yield f"to = {base} + {s}_first * {stride} + ({s}_rel[:, None] * {stride} + ({d})[None, :])"
            live = f"{s}_live[:, None]"
            if part.real != part.width:
                live = f"{live} & (tl.arange(0, {part.width}) < {part.real})[None, :]"
            value = f"{blocks}{number}"
            if add:
                value = f"{value} + tl.load(to, mask={live}, other=0.0)"
            yield f"tl.store(to, ({value}).to(to.dtype.element_ty), mask={live})"
