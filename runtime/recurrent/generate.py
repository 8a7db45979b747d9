"""Tokens one after another: an open segment is gone on with, and closed when it is full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.recurrent.segment import Segments
from attnspec.runtime.recurrent.state import State


class Open:
    """A segment that is not full yet: the logits of what follows it, and how it grows.

    Where the model's own attention is causal and keeps keys, a token is run by itself. Where it is not, or while what
    is recalled still changes with the tokens, the segment is run as a whole: what comes out is the same.
    """

    def __init__(self, run: Segments, state: State, tokens: Tensor, room: int) -> None:
        self.run, self.state, self.tokens, self.room = run, state, tokens, room
        self.cache: Any = None
        self.rows = 0

    def add(self, token: Tensor) -> None:
        """One more token for each batch entry, (batch, 1); a full segment is closed before."""
        if self.tokens.shape[1] == self.room:
            self.state, _, _ = self.run.run(self.state, self.tokens, None, False)
            self.tokens, self.cache, self.room = token, None, self.run.recurrence.recur.size
        else:
            self.tokens = torch.cat([self.tokens, token], 1)

    def logits(self) -> Tensor:
        """Logits of what follows the last token, (batch, vocabulary)."""
        run, decoder = self.run, self.run.decoder
        length = self.tokens.shape[1]
        vectors = run.vectors(self.tokens)
        bound = run.bind(self.state, vectors)
        if not decoder.goes_on(bound) or not run.known(length, self.state):
            self.cache = None
            _, _, found = run.run(self.state, self.tokens, None, True)
            assert found is not None
            return found[:, -1]
        start = self.state.positions if decoder.layered else 0
        if self.cache is None:
            rows = list(run.standing(self.state, vectors).items())
            names = [axis for axis, _ in rows]
            before = [t for _, t in rows[: names.index(run.recurrence.recur.axis) + 1]]
            given = torch.cat(before, 1)
            hidden, self.cache = decoder.opened(given, run.kept(self.state), start, bound)
            self.rows = given.shape[1]
        else:
            hidden = decoder.go_on(vectors[:, -1:], self.cache, start + self.rows)
            self.rows += 1
        return decoder.head(hidden[:, -1:])[:, -1]


@dataclass(frozen=True)
class Choice:
    """How many tokens are chosen, and how: see :meth:`Recurrent.generate`."""

    many: int
    do_sample: bool
    temperature: float
    top_k: int | None
    end: int | None

    def check(self, name: str) -> None:
        """Raises CallError for numbers that choose nothing."""
        if not isinstance(self.many, int) or self.many < 1:
            raise CallError(f"{name}: max_new_tokens is at least 1, not {self.many!r}")
        if not self.temperature > 0:
            raise CallError(
                f"{name}: temperature is above 0, not {self.temperature!r} (do_sample=False: the likeliest)"
            )
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise CallError(f"{name}: top_k is at least 1, not {self.top_k!r}")
        if not self.do_sample and (self.top_k is not None or self.temperature != 1.0):
            raise CallError(f"{name}: temperature and top_k have no meaning without do_sample=True")

    def next(self, logits: Tensor) -> Tensor:
        """The next token of each batch entry, (batch, 1): the likeliest, or one drawn."""
        if not self.do_sample:
            return logits.argmax(-1, keepdim=True)
        logits = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1)


@torch.no_grad()
def generate(run: Segments, tokens: Tensor, state: State, choice: Choice) -> Tensor:
    """Tokens and what follows them, (batch, length + many), or fewer where every batch entry came to its end."""
    *closed, last = torch.split(tokens, list(run.recurrence.segments(tokens.shape[1])), 1)
    for piece in closed:
        state, _, _ = run.run(state, piece, None, False)
    recur = run.recurrence.recur
    opened = Open(run, state, last, last.shape[1] if recur.ragged == "first" else recur.size)
    ended = torch.zeros((tokens.shape[0], 1), dtype=torch.bool, device=tokens.device)
    found = [tokens]
    for number in range(choice.many):
        logits = opened.logits()
        token = choice.next(logits)
        most = run.decoder.many
        if most is not None and logits.shape[-1] > most and int(token.max()) >= most:
            raise CallError(
                f"{run.pattern.spec.name}: token {int(token.max())} is chosen; there are embeddings for 0 to {most - 1}"
            )
        if choice.end is not None:
            token = token.masked_fill(ended, choice.end)
            ended = ended | (token == choice.end)
        found.append(token)
        if number == choice.many - 1 or (choice.end is not None and bool(ended.all())):
            break
        opened.add(token)
    return torch.cat(found, 1)
