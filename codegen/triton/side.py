"""How a Triton kernel finds the queries and the keys of a tile, and how it reads rows of the tensors there.

Names of one side begin with ``q_`` or ``k_``. For a tile: ``_at`` are positions (of the kernel's position type),
``_live`` says which exist, and rows of a tensor are ``first + rel``: ``first`` a scalar, ``rel`` the same for every
tile where a stride leads from one to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnspec.codegen.layouts.base import Layout
from attnspec.codegen.triton.held import HeldNames

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
    """The queries (``name`` is ``"q"``) or keys (``"k"``) of a pass, ``size`` to a tile.

    ``pos`` is the type of positions; ``held`` names which of them the tensors hold. A tile has ``size`` rows for each
    of ``heads`` heads (a power of two), GROUP of which are there.
    """

    name: str
    layout: Layout
    size: int
    pos: str
    held: HeldNames
    heads: int = 1

    @property
    def rows(self) -> int:
        """How many rows a tile has."""
        return self.size * self.heads

    @property
    def listed(self) -> bool:
        """Whether positions are read from a list."""
        return self.layout.listed[0 if self.name == "q" else 1]

    @property
    def stride(self) -> int:
        """From one slot's position to the next, where no list says so."""
        return 1 if self.listed else self.layout.residues

    @property
    def paged(self) -> bool:
        """Whether a table of pages says where rows lie."""
        return self.name == "k" and self.held.paged

    @property
    def cut(self) -> bool:
        """Whether a full tile may lack some: keys that a part leaves out. (A row that is not there has no weights.)"""
        return self.name == "k" and self.held.part

    @property
    def _start(self) -> str | None:
        """Where row 0 stands; None for position 0."""
        return self.held.q_start if self.name == "q" else self.held.k_start

    @property
    def _count(self) -> str:
        """How many rows there are."""
        return self.held.rows if self.name == "q" else self.held.keys

    def begin(self) -> Iterator[str]:
        """Once for each program: the list of the residue (of the head), and which slots it holds."""
        s = self.name
        if self.layout.order:
            number, rounds = self.layout.order
            first, count = (number, 1) if s == "q" else (0, rounds)
            start = f" + {first} * n" if first else ""
            yield f"{s}_list = ORDER + (b * heads + h) * {rounds} * n{start}"
            yield f"{s}_begin, {s}_end = {first} * n, {first + count} * n"
        elif self.listed:
            yield f"{s}_list = {s.upper()}_LIST{f' + c * {s}_count' if self.layout.residues > 1 else ''}"
            yield f"{s}_begin, {s}_end = as_index({s}_first_slot), as_index({s}_first_slot) + {s}_count"

    def last_tile(self) -> str:
        """The last tile that may hold a query, or a key."""
        return divided(f"{self.name}_end - 1", self.size) if self.listed else divided(self._last(), self.size)

    def first_tile(self) -> str:
        """The first tile that may hold a query, or a key."""
        return divided(f"{self.name}_begin" if self.listed else self._first(), self.size)

    def whole_tiles(self) -> tuple[str, str]:
        """The first and last of the tiles of a part that hold nothing but positions of the part, if no list does."""
        first, last = f"{self._first()} + {self.size - 1}", f"{self._last()} + 1"
        return divided(first, self.size), f"{divided(last, self.size)} - 1"

    def slots(self, tile: str) -> tuple[str, str]:
        """The first and last slot of a tile that exist."""
        low, high = f"{tile} * {self.size}", f"{tile} * {self.size} + {self.size - 1}"
        if self.listed:
            return f"tl.maximum({low}, {self.name}_begin)", f"tl.minimum({high}, {self.name}_end - 1)"
        cut = self.name == "q" or self._start is not None
        return f"tl.maximum({low}, {self._first()})" if cut else low, f"tl.minimum({high}, {self._last()})"

    def position(self, slot: str) -> str:
        """The position of a slot, where a stride leads to it; the slot itself where a list does."""
        return f"c + {self.stride} * ({slot})" if self.stride > 1 else f"({slot})"

    def slot(self, position: str, up: bool = False) -> str:
        """The slot of a position, rounded downwards or upwards: the other way round."""
        if self.stride == 1:
            return position
        return divided(f"{position} - c{f' + {self.stride - 1}' if up else ''}", self.stride)

    def place(self, tile: str) -> Iterator[str]:
        """The positions of a tile."""
        s, shift = self.name, f" - {self._start}" if self._start else ""
        slots, there = f"tl.arange(0, {self.rows})", ""
        if self.heads > 1:
            yield f"{s}_lane = ({slots} // {self.size}).to(tl.int64)  # which of the heads that share their keys"
            slots, there = f"{slots} % {self.size}", f" & ({s}_lane < GROUP)"
        if self.listed:
            yield f"{s}_slot = {tile} * {self.size} + {slots}"
            yield f"{s}_at = positions({s}_list, {s}_slot, {s}_begin, {s}_end).to({self.pos})"
            yield f"{s}_live = ({s}_at != EMPTY){there}" if there else f"{s}_live = {s}_at != EMPTY"
            yield f"{s}_at = tl.where({s}_live, {s}_at, 0)"
            yield f"{s}_first, {s}_rel = as_index(0), {s}_at.to(tl.int64){shift}"
            return
        start = "c + " if self.stride > 1 else ""
        yield f"{s}_first = {start}{tile} * {self.stride * self.size}{shift}"
        slots = f"({slots})" if there and self.stride > 1 else slots
        yield f"{s}_rel = {slots}{'' if self.stride == 1 else f' * {self.stride}'}"
        first = f"({s}_first + {self._start})" if shift else f"{s}_first"
        yield f"{s}_at = {first}.to({self.pos}) + {s}_rel"
        yield f"{s}_live = rows_in({s}_rel, {s}_first, {self._count}){there}"
        if self.paged:
            yield "k_row = k_first + k_rel"
            yield "k_page = tl.load(k_pages + k_row // page_size, mask=k_live, other=0).to(tl.int64)"

    def line(self) -> str:
        """The number of each row among those of the program's heads, in tensors without gaps."""
        lane = f" + {self.name}_lane * {self._count}" if self.heads > 1 else ""
        return f"{self.name}_first + {self.name}_rel{lane}"

    def read(self, to: str, base: str, stride: str, all_parts: tuple[Part, ...], guard: str) -> Iterator[str]:
        """Rows of a tensor as (size, width) blocks ``to``0, ``to``1; ``guard`` says where rows may not be live."""
        for number, part in enumerate(all_parts):
            live, whole = self._live(part), guard if part.real == part.width else "True"
            yield f"{to}{number} = load({self._address(base, stride, part)}, {live}, {whole})"

    def write(self, base: str, stride: str, blocks: str, all_parts: tuple[Part, ...], add: bool) -> Iterator[str]:
        """Rows of a tensor from blocks: written, or added to what is there."""
        for number, part in enumerate(all_parts):
            yield f"to = {self._address(base, stride, part)}"
            value = f"{blocks}{number}"
            if add:
                value = f"({value} + tl.load(to, mask={self._live(part)}, other=0.0))"
            yield f"tl.store(to, {value}.to(to.dtype.element_ty), mask={self._live(part)})"

    def _address(self, base: str, stride: str, part: Part) -> str:
        s, d = self.name, f"tl.arange(0, {part.width})[None, :]"
        if self.paged:
            row = f"(k_page * {stride[:-1]}b + k_row % page_size * {stride})[:, None]"
            return f"{base} + ({row} + {f'{part.start} + ' if part.start else ''}{d})"
        inside = (
            f"{s}_rel[:, None] * {stride} + {d}"
            if not part.start
            else f"{s}_rel[:, None] * {stride} + {part.start} + {d}"
        )
        first = "" if self.listed else f" + {s}_first * {stride}"
        if self.heads > 1:
            inside = f"{s}_lane[:, None] * {stride[:-1]}h + {inside}"
        return f"{base}{first} + ({inside})"

    def _live(self, part: Part) -> str:
        live = f"{self.name}_live[:, None]"
        return live if part.real == part.width else f"{live} & (tl.arange(0, {part.width}) < {part.real})[None, :]"

    def _first(self) -> str:
        """The first slot, where no list says so."""
        if self._start is None:
            return "as_index(0)"
        return f"-{divided(f'c - {self._start}', self.stride)}" if self.stride > 1 else self._start

    def _last(self) -> str:
        """The last slot, where no list says so."""
        end = self.held.q_end if self.name == "q" else self.held.k_end
        return divided(f"{end} - 1 - c", self.stride) if self.stride > 1 else f"{end} - 1"


def divided(text: str, by: int) -> str:
    """A quotient, rounded downwards."""
    return text if by == 1 else f"floor_div({text}, {by})"
