"""One segment: what stands at its axes, the run of the model, and what is carried on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.recurrent.decoder import Decoder
from attnspec.runtime.recurrent.parameters import Parameters
from attnspec.runtime.recurrent.pattern import Bound, Pattern
from attnspec.runtime.recurrent.state import State, after
from attnspec.spec.recurrence import Carry, Recurrence

IGNORED = -100
"""The label that is not counted."""


class Segments:
    """How a model runs over one segment, with the parameters that stand where nothing was carried yet."""

    def __init__(self, pattern: Pattern, recurrence: Recurrence, decoder: Decoder, own: Parameters) -> None:
        self.pattern, self.recurrence, self.decoder, self.own = pattern, recurrence, decoder, own
        self.carry_to = {axis: number for number, carry in enumerate(recurrence.carries) for axis in carry.targets}
        self.stored = next((n for n, carry in enumerate(recurrence.carries) if recurrence.store(carry)), None)
        self.layered = next((n for n, carry in enumerate(recurrence.carries) if carry.by_layer), None)

    def start(self, batch: int) -> State:
        """What stands before the first segment."""
        sizes = self.pattern.sizes(self.recurrence.recur.size)
        carried = tuple(
            ()
            if self.recurrence.grows(carry)
            else ((self.own.before(carry.source, sizes[carry.targets[0]]).expand(batch, -1, -1),),)
            for carry in self.recurrence.carries
        )
        return State(self.recurrence, batch, carried)

    def run(
        self, state: State, tokens: Tensor, targets: Tensor | None, logits: bool
    ) -> tuple[State, Tensor | None, Tensor | None]:
        """One segment: the state after it, the sum of its losses, its logits.

        ``tokens`` are ids, (batch, length), or vectors, (batch, length, width); ``targets`` what follows each of them.
        """
        vectors = self.vectors(tokens)
        standing = self.standing(state, vectors)
        hidden, layers = self.decoder.run(
            torch.cat(list(standing.values()), 1), self.kept(state), state.positions, self.bind(state, vectors)
        )
        at = places(standing)
        outputs = hidden[:, at[self.recurrence.recur.axis]]
        found = self._logits(outputs) if logits or targets is not None else None
        loss = None if targets is None or found is None else self._loss(found, targets)
        carried = tuple(
            after(carry, before, self._gives(carry, vectors, hidden, layers, at))
            for carry, before in zip(self.recurrence.carries, state.carried, strict=True)
        )
        new = replace(state, carried=carried, segments=state.segments + 1, positions=state.positions + hidden.shape[1])
        return new, loss, found if logits else None

    def vectors(self, tokens: Tensor) -> Tensor:
        """The input vectors of tokens."""
        return tokens if tokens.is_floating_point() else self.decoder.embed(tokens)

    def standing(self, state: State, vectors: Tensor) -> dict[str, Tensor]:
        """The input vectors at each axis of rows, in their order: (batch, positions, width)."""
        found = self._carried(state, vectors)
        recall = self.recurrence.recall
        if recall is not None:
            answer = self._answer(state, vectors, found)
            found |= dict.fromkeys(recall.targets, answer.to(vectors.dtype))
        return {axis: found[axis] for axis in self.pattern.rows if axis in found}

    def bind(self, state: State, vectors: Tensor, whole: bool = True) -> Bound:
        """The pattern of a run: which positions are not there; of the run that asks a store if it is not the whole."""
        missing = {}
        every = self.pattern.sizes(vectors.shape[1])
        for axis, number in self.carry_to.items():
            if axis in every and self.recurrence.grows(self.recurrence.carries[number]):
                missing[axis] = every[axis] - (state.there(number) if whole or self._asks_with(number) else 0)
        return self.pattern.bind(vectors.shape[1], missing)

    def kept(self, state: State) -> tuple[Tensor, ...]:
        """What layers keep."""
        return () if self.layered is None or not state.carried[self.layered] else state.joined(self.layered)

    def known(self, length: int, state: State) -> bool:
        """Whether what stands beside so many tokens of a segment remains as more come."""
        return length >= self._asking() or self.recurrence.recall is None or not self._store(state)

    def given(self, carry: Carry) -> int:
        """How many positions a whole segment gives to be carried."""
        return self.pattern.sizes(self.recurrence.recur.size)[carry.source]

    def _asking(self) -> int:
        """How many tokens of a whole segment the run that asks a store has."""
        recall, size = self.recurrence.recall, self.recurrence.recur.size
        return 0 if recall is None else recall.tokens(size)

    def _asks_with(self, number: int) -> bool:
        """Whether what a line carries, by its number, is there in the run that asks a store."""
        carry = self.recurrence.carries[number]
        return carry.source != self.recurrence.recur.axis or carry.by_layer

    def _store(self, state: State) -> bool:
        """Whether there is something in the store."""
        return self.stored is not None and state.there(self.stored) > 0

    def _carried(self, state: State, vectors: Tensor, whole: bool = True) -> dict[str, Tensor]:
        found = {self.recurrence.recur.axis: vectors}
        for axis in self.pattern.rows:
            if axis in self.own.learned:
                found[axis] = self.own.learned[axis].expand(vectors.shape[0], -1, -1).to(vectors.dtype)
            number = self.carry_to.get(axis)
            if number is not None and state.carried[number] and (whole or self._asks_with(number)):
                found[axis] = state.joined(number)[0].to(vectors.dtype)
        return found

    def _answer(self, state: State, vectors: Tensor, found: Mapping[str, Tensor]) -> Tensor:
        recall = self.recurrence.recall
        assert recall is not None
        assert self.own.recall is not None
        assert self.stored is not None
        if not self._store(state):
            first: Tensor = self.own.initial[self.own.store]
            return first.expand(vectors.shape[0], -1, -1)
        read = vectors[:, : self._asking()]
        asking = self._carried(state, read, whole=False)
        prompt = self.own.recall.prompt.expand(vectors.shape[0], -1, -1).to(vectors.dtype)
        asking |= dict.fromkeys(recall.targets, prompt)
        standing = {axis: asking[axis] for axis in self.pattern.rows if axis in asking}
        asked, bound = torch.cat(list(standing.values()), 1), self.bind(state, read, whole=False)
        hidden, _ = self.decoder.run(asked, self.kept(state), state.positions, bound)
        store = state.joined(self.stored)[0].to(hidden.dtype)
        answer: Tensor = self.own.recall(hidden[:, places(standing)[recall.targets[-1]]], store)
        return answer

    def _gives(
        self, carry: Carry, vectors: Tensor, hidden: Tensor, layers: tuple[Tensor, ...], at: Mapping[str, slice]
    ) -> tuple[Tensor, ...]:
        """What a segment gives to be carried."""
        if carry.by_layer:
            return tuple(t[..., at[carry.source], :] for t in layers)
        if carry.source == self.recurrence.recur.axis:
            return (vectors,)
        if hidden.shape[2] != vectors.shape[2]:
            raise CallError(
                f"{self.pattern.spec.name}: hidden states have {hidden.shape[2]} numbers and input vectors "
                f"{vectors.shape[2]}: `{carry}` needs as many of both"
            )
        return (hidden[:, at[carry.source]].to(vectors.dtype),)

    def _logits(self, hidden: Tensor) -> Tensor:
        found = self.decoder.head(hidden)
        if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[:2] != hidden.shape[:2]:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise CallError(
                f"{self.pattern.spec.name}: head gives {shape} for hidden states of {tuple(hidden.shape)}: it must "
                "give logits, (batch, length, vocabulary)"
            )
        return found

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        name, most, many = self.pattern.spec.name, logits.shape[-1], self.decoder.many
        few = many is None or most < many
        if few and not targets.is_meta and (last := int(targets.max())) >= most:
            raise CallError(f"{name}: head gives logits for 0 to {most - 1}, and labels reach {last}")
        return summed(logits, targets)


def places(standing: Mapping[str, Tensor]) -> dict[str, slice]:
    """Where each axis lies among the rows of a run."""
    found: dict[str, slice] = {}
    at = 0
    for axis, t in standing.items():
        found[axis] = slice(at, at + t.shape[1])
        at += t.shape[1]
    return found


def summed(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of the losses of what is counted; in float32 where logits have fewer bits."""
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
