"""What ranks compute and send, as values: items with a place and a step, and the messages that they ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from attnspec.codegen.ranks.runs import Run, Runs

Heads = tuple[int, int]
"""Query heads from the first to before the second; they share no key head with heads outside."""


class Item(NamedTuple):
    """A rectangle of pairs, which one rank computes: ``queries`` x ``keys`` of ``heads`` (None: all) of a ``branch``.

    ``asker`` is the rank that holds the queries, ``keeper`` the one that holds the keys, ``place`` (one of both) the
    one that computes, in ``step``: 0 for what needs nothing of others. ``pairs`` counts those that the pattern has
    there, over the heads; at most so many where inputs say which there are.
    """

    branch: int
    heads: Heads | None
    queries: Run
    keys: Run
    asker: int
    keeper: int
    place: int
    step: int
    pairs: int

    def within(self, rows: Run) -> Item | None:
        """What it has of some rows; ``pairs`` are still those of all."""
        met = self.queries.meet(rows)
        return None if met is None else self._replace(queries=met._replace(step=self.queries.step))

    def text(self, most: str = "") -> str:
        """As it is written; ``most`` stands before the number of pairs."""
        of = "" if self.asker == self.keeper else f" of rank {self.keeper if self.place == self.asker else self.asker}"
        who = _who(self.heads) + (f", branch {self.branch}" if self.branch else "")
        queries, keys = (of, "") if self.place == self.keeper else ("", of)
        pairs = f"{who}: {most}{self.pairs:,} pairs"
        return f"step {self.step}: queries {self.queries}{queries} x keys {self.keys}{keys}{pairs}"

    def __str__(self) -> str:
        return self.text()


class Slice(NamedTuple):
    """Positions of some heads: ``heads`` are query heads (None: all), whatever is sent; ``branch`` only of results."""

    heads: Heads | None
    runs: Runs
    branch: int = 0

    def __str__(self) -> str:
        return " and ".join(map(str, self.runs)) + _who(self.heads) + (f", branch {self.branch}" if self.branch else "")


@dataclass(frozen=True)
class Message:
    """What one rank sends another for one step.

    Forward: ``keys`` are keys and values, needed in ``step``; ``queries`` are queries, needed in ``step``; ``results``
    are outputs and log-sum-exps of such queries, computed in ``step`` by the sender and added by the receiver after
    it, for each branch.

    Backward: ``keys`` again; ``queries`` with what their gradients come from, of the ``branches`` (the slices of the
    results forward); and ``results`` are the gradients of what was sent (``of``: keys or queries), after ``step``.
    """

    step: int
    source: int
    target: int
    kind: Literal["keys", "queries", "results"]
    slices: tuple[Slice, ...]
    of: Literal["keys", "queries"] = "queries"
    branches: tuple[Slice, ...] = ()

    def __str__(self) -> str:
        what = f"{self.kind} of {self.of}" if self.kind == "results" else self.kind
        return f"step {self.step}: sends rank {self.target} {what} {'; '.join(map(str, self.slices))}"


def _who(heads: Heads | None) -> str:
    return "" if heads is None else f", heads {heads[0]}..{heads[1] - 1}"


def returned(sent: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages backward for those that go between two ranks forward: what comes again, and its gradients."""
    results = {message.target: message.slices for message in sent if message.kind == "results"}
    found: list[Message] = []
    for one in sent:
        if one.kind == "keys":
            found += [one, Message(one.step, one.target, one.source, "results", one.slices, "keys")]
        elif one.kind == "queries":
            found.append(replace(one, branches=results[one.source]))
            found.append(Message(one.step, one.target, one.source, "results", one.slices, "queries"))
    return tuple(found)
