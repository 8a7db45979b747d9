"""Messages of a step, posted and received as tensors by the rank that sent them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from attnspec.codegen.ranks.schedule import Message
from attnspec.runtime.distributed.stored import Form, Part, Stored, message, nbytes
from attnspec.runtime.distributed.transport import Expected, Pending, Sent, Transport


class Arrived(NamedTuple):
    """What came for a step, by the rank that sent it."""

    keys: Mapping[int, Stored]
    queries: Mapping[int, Stored]
    results: Mapping[int, Stored]


NOTHING = Arrived({}, {}, {})


class Leg(NamedTuple):
    """A message as it travels: ``back`` if it is the answer to one, from that one's target to its source."""

    message: Message
    parts: Sequence[Part]
    back: bool = False

    @property
    def source(self) -> int:
        """Who sends."""
        return self.message.target if self.back else self.message.source

    @property
    def target(self) -> int:
        """Who receives."""
        return self.message.source if self.back else self.message.target


class Coming(NamedTuple):
    """Messages on their way."""

    pending: Pending | None
    form: Form
    legs: Sequence[Leg]

    def wait(self) -> Arrived:
        """What has come, when it is here."""
        if self.pending is None:
            return NOTHING
        found = Arrived({}, {}, {})
        for leg, memory in zip(self.legs, self.pending.wait(), strict=True):
            by_kind: dict[int, Stored] = getattr(found, leg.message.kind)
            by_kind[leg.source] = message(self.form, leg.parts, memory)
        return found


def post(transport: Transport, form: Form, legs: Sequence[Leg], filled: Callable[[Leg], Stored]) -> Coming:
    """Send what this rank has to send of these messages, and begin to receive the others."""
    sent: list[Sent] = []
    awaited: list[Leg] = []
    expected: list[Expected] = []
    for leg in legs:
        if leg.source == transport.rank:
            memory = filled(leg).memory
            assert memory is not None
            sent.append(Sent(leg.target, memory))
        else:
            awaited.append(leg)
            expected.append(Expected(leg.source, (nbytes(form, leg.parts),), torch.uint8, form.device))
    pending = transport.post(sent, expected) if sent or expected else None
    return Coming(pending, form, awaited)
