"""Messages of a step, posted and received as tensors by the rank that sent them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from attnspec.codegen.ranks.schedule import Message
from attnspec.runtime.distributed import pieces
from attnspec.runtime.distributed.pieces import Part
from attnspec.runtime.distributed.stored import Form, Stored
from attnspec.runtime.distributed.transport import Expected, Pending, Sent, Transport

Blocks = Sequence[Sequence[Part]]
"""A message in blocks of rows, each of which lies in memory of its own."""


class Arrived(NamedTuple):
    """What came for a step, by the rank that sent it: blocks of rows."""

    keys: dict[int, list[Stored]]
    queries: dict[int, list[Stored]]
    results: dict[int, list[Stored]]


class Leg(NamedTuple):
    """A message as it travels: ``back`` if it is the answer to one, from that one's target to its source."""

    message: Message
    blocks: Blocks
    back: bool = False

    @property
    def source(self) -> int:
        """Who sends."""
        return self.message.target if self.back else self.message.source

    @property
    def target(self) -> int:
        """Who receives."""
        return self.message.source if self.back else self.message.target

    @property
    def made(self) -> bool:
        """Whether the source worked it out for the target, and does not hold it otherwise."""
        return self.back or self.message.kind == "results"


@dataclass(eq=False)
class Coming:
    """Messages on their way."""

    _pending: Pending | None = None
    _came: list[tuple[Leg, list[Stored]]] = field(default_factory=list)

    def wait(self) -> Arrived:
        """What has come, when it is here: once, since its memory is free when nobody else holds it."""
        if self._pending is not None:
            self._pending.wait()
        found = Arrived({}, {}, {})
        for leg, blocks in self._came:
            by_kind: dict[int, list[Stored]] = getattr(found, leg.message.kind)
            by_kind[leg.source] = blocks
        self._pending, self._came = None, []
        return found


def post(transport: Transport, form: Form, legs: Sequence[Leg], filled: Callable[[Leg], list[Tensor]]) -> Coming:
    """Send what this rank has to send of these messages, in the pieces given, and begin to receive the others."""
    sent: list[Sent] = []
    expected: list[Expected] = []
    came: list[tuple[Leg, list[Stored]]] = []
    for leg in legs:
        if leg.source == transport.rank:
            sent += [Sent(leg.target, piece) for piece in filled(leg)]
        else:
            received = [_received(form, leg, parts) for parts in leg.blocks]
            came.append((leg, [stored for stored, _ in received]))
            expected += [Expected(leg.source, piece) for _, some in received for piece in some]
    return Coming(transport.post(sent, expected) if sent or expected else None, came)


def _received(form: Form, leg: Leg, parts: Sequence[Part]) -> tuple[Stored, list[Tensor]]:
    if not leg.made:
        return pieces.coming(form, parts)
    stored, memory = pieces.made(form, parts)
    return stored, [memory] if memory.numel() else []
