"""What is carried from one segment to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnspec.spec.recurrence import Carry, Recurrence

Piece = tuple[Tensor, ...]
"""What one segment gave: its vectors, or a tensor or two of each layer; positions in the last dimension but one."""


@dataclass(frozen=True, eq=False)
class State:
    """What the next segment gets of those before it: ``out.state`` of a call, ``state=`` of the next.

    ``carried`` holds what segments gave for each carry line of the spec, as many as are needed for the positions that
    the line keeps: they are not copied from segment to segment, so that training keeps each of them once. ``segments``
    and ``positions`` are how many were run.
    """

    recurrence: Recurrence
    batch: int
    carried: tuple[tuple[Piece, ...], ...]
    segments: int = 0
    positions: int = 0

    def __getitem__(self, source: str) -> Tensor:
        """The vectors that are carried from an axis, (batch, positions, width).

        Raises KeyError where there are none yet, or what is carried is by layer.
        """
        for number, carry in enumerate(self.recurrence.carries):
            if carry.source == source and not carry.by_layer and self.carried[number]:
                return self.joined(number)[0]
        raise KeyError(source)

    def joined(self, number: int) -> Piece:
        """What is there of a carry line, by its number: none, or tensors with all positions that it keeps."""
        pieces, last = self.carried[number], self.recurrence.carries[number].last
        whole = pieces[0] if len(pieces) == 1 else tuple(torch.cat(each, -2) for each in zip(*pieces, strict=True))
        return whole if last is None else tuple(t[..., max(t.shape[-2] - last, 0) :, :] for t in whole)

    def there(self, number: int) -> int:
        """How many positions are there of a carry line, by its number."""
        last, found = self.recurrence.carries[number].last, _length(self.carried[number])
        return found if last is None else min(last, found)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, one carry line after another."""
        return tuple(t for pieces in self.carried for piece in pieces for t in piece)

    @property
    def bytes(self) -> int:
        """How much memory they take."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> State:
        """The same with others in their places."""
        rest = iter(tensors)
        carried = tuple(tuple(tuple(next(rest) for _ in piece) for piece in pieces) for pieces in self.carried)
        return replace(self, carried=carried)

    def each(self, f: Callable[[Tensor], Tensor]) -> State:
        """The same with each tensor put through a function."""
        return self.with_tensors(tuple(map(f, self.tensors)))

    def detach(self) -> State:
        """The same without gradients: what came before is then no longer trained through."""
        return self.each(torch.Tensor.detach)

    def to(self, *to: Any, **more: Any) -> State:
        """The same on another device or of another dtype, as ``Tensor.to``."""
        return self.each(lambda t: t.to(*to, **more))

    def __repr__(self) -> str:
        said = [
            f"{carry.source} -> {', '.join(carry.targets)}: {self.there(number) or 'no'} positions"
            for number, carry in enumerate(self.recurrence.carries)
        ]
        return f"State(batch {self.batch}, after {self.segments} segments; {'; '.join(said)})"


def _length(pieces: tuple[Piece, ...]) -> int:
    return sum(piece[0].shape[-2] for piece in pieces if piece)


def after(carry: Carry, before: tuple[Piece, ...], new: Piece) -> tuple[Piece, ...]:
    """What is carried once a segment has given its own: as few pieces as hold the positions that the line keeps."""
    last = carry.last
    if last is not None:
        new = tuple(t[..., max(t.shape[-2] - last, 0) :, :] for t in new)
    # What is carried is a part of all that a run gave: a copy lets go of the rest.
    new = tuple(t.detach().clone() if carry.detached else t.clone() for t in new)
    pieces = (*before, new) if last is not None else (new,)
    while last is not None and len(pieces) > 1 and _length(pieces[1:]) >= last:
        pieces = pieces[1:]
    return pieces
