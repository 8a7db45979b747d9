"""A transport that counts the bytes that are handed to it."""

from __future__ import annotations

from collections.abc import Sequence

from attnspec.runtime.distributed.transport import Expected, Pending, Sent, Transport


class Counting:
    """Another transport, and the bytes that this rank has ``sent`` and ``received`` by it, or is about to."""

    def __init__(self, transport: Transport) -> None:
        self._transport, self.rank, self.ranks = transport, transport.rank, transport.ranks
        self.sent = self.received = 0

    def post(self, sent: Sequence[Sent], expected: Sequence[Expected]) -> Pending:
        """Begin with the messages of one step."""
        self.sent += sum(one.tensor.nbytes for one in sent)
        self.received += sum(one.tensor.nbytes for one in expected)
        return self._transport.post(sent, expected)
