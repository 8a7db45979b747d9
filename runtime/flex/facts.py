"""What a text takes for granted of the values of tensors: asked when it is made, and of others before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from attnspec.runtime.flex.values import Ends, ends
from attnspec.spec import expr as e


class Tensors(dict[str, Tensor]):
    """Tensors by the names of their inputs, as they are now: whatever is asked, what they hold is looked at once."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self._known: dict[tuple[str, tuple[Ends, ...]], Ends] = {}

    def held(self, name: str, at: tuple[Ends, ...]) -> Ends:
        """What a table holds where it is read."""
        if (name, at) not in self._known:
            self._known[name, at] = self._look(name, at)
        return self._known[name, at]

    def _look(self, name: str, at: tuple[Ends, ...]) -> Ends:
        name, _, run = name.partition(".")
        t = self[name]
        if run:  # where a run of numbers begins or ends
            return 0, t.shape[-1] - 1
        t = t[tuple(slice(max(low or 0, 0), None if high is None else max(high + 1, 0)) for low, high in at)]
        return (int(t.min()), int(t.max())) if t.numel() else (0, 0)  # what has no entries is never read


class Question(Protocol):
    """A question about tensors, by the names of their inputs."""

    def of(self, tensors: Tensors) -> bool:
        """The answer, as tensors are now."""
        ...


@dataclass(frozen=True)
class Rises:
    """Whether numbers never decrease along the last dimension."""

    name: str

    def of(self, tensors: Tensors) -> bool:
        """The answer, as tensors are now."""
        t = tensors[self.name]
        return bool((t[..., 1:] >= t[..., :-1]).all())


@dataclass(frozen=True)
class NotNegative:
    """Whether an index is never below 0, as far as bounds of its parts tell."""

    index: e.IntExpr

    def of(self, tensors: Tensors) -> bool:
        """The answer, as tensors are now."""
        least = ends(self.index, tensors.held)[0]
        return least is not None and least >= 0


@dataclass(frozen=True)
class Fact:
    """A question and the answer that a text rests on."""

    question: Question
    answer: bool

    def holds(self, tensors: Tensors) -> bool:
        """Whether the answer is still this."""
        return self.question.of(tensors) == self.answer


class Limit(NamedTuple):
    """What a table must hold, where that is not looked at while a text is made: ``read`` has entries for no others."""

    table: str
    low: int
    high: int
    read: str

    def require(self, tensors: Mapping[str, Tensor]) -> None:
        """Assert it when the call runs."""
        t = tensors[self.table]
        torch._assert_async(
            ((t >= self.low) & (t <= self.high)).all(),
            f"flex_attention: `{self.table}` holds numbers that `{self.read}` has no entry for",
        )


class Derived(Protocol):
    """A tensor that follows from another."""

    @property
    def name(self) -> str:
        """The other's."""
        ...

    def of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensor, as the other is now."""
        ...


@dataclass
class Facts:
    """The questions that were asked while a text was made.

    ``looks`` is False where tensors have no values to look at. With ``again`` they are asked again before each use, and
    inputs that are ``derived`` made again. ``alike`` are tensors that were views of the same and became one input.
    ``values`` says that the text has values of tensors in it beside, ``sized`` that it is for calls of these sizes.
    ``limits`` are to be asserted when a call runs.
    """

    looks: bool = True
    again: bool = False
    noted: list[Fact] = field(default_factory=list)
    derived: dict[str, Derived] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    alike: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    values: bool = False
    sized: bool = False
    limits: list[Limit] = field(default_factory=list)

    def ask(self, question: Question, tensors: Tensors) -> bool:
        """The answer, which is noted; of tensors that are not looked at nothing holds."""
        answer = self.looks and question.of(tensors)
        self.noted.append(Fact(question, answer))
        self.tensors.update(tensors)
        return answer
