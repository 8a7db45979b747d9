"""What runs over the positions of a segment: a function on vectors, or a model of Hugging Face's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.recurrent.pattern import Bound

Step = Callable[..., Any]


class Shape(NamedTuple):
    """What of a model tells what it computes.

    ``numbers`` are those that a position is multiplied by, ``of_head`` those that a token's hidden state is;
    ``dim`` is that of a head, and all ``layers`` have as many ``heads`` and ``kv_heads``.
    """

    numbers: int
    of_head: int
    layers: int
    heads: int
    kv_heads: int
    dim: int

    @property
    def layered(self) -> int:
        """How many numbers all layers keep of a position."""
        return 2 * self.layers * self.kv_heads * self.dim


class Decoder(Protocol):
    """What a wrapper needs to know of a model."""

    layered: bool
    """Whether a run takes what layers keep, and gives what is to be kept."""

    @property
    def table(self) -> Any:
        """What gives the input vectors of tokens."""
        ...

    @property
    def many(self) -> int | None:
        """How many tokens there are, and how many logits: None where that is not known."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Input vectors of tokens, (batch, length) to (batch, length, width)."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of last hidden states, after the final norm."""
        ...

    def run(
        self, vectors: Tensor, kept: tuple[Tensor, ...], start: int, bound: Bound
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Last hidden states of vectors, (batch, rows, width), and what each layer has at these rows, if ``layered``.

        ``kept`` is what layers keep of positions before, ``start`` how many positions were run before.
        """
        ...

    def goes_on(self, bound: Bound) -> bool:
        """Whether a run can be gone on with, token by token: then there are ``opened`` and ``go_on``."""
        ...

    def opened(self, vectors: Tensor, kept: tuple[Tensor, ...], start: int, bound: Bound) -> tuple[Tensor, Any]:
        """A run, and what :meth:`go_on` needs of it."""
        ...

    def go_on(self, vectors: Tensor, cache: Any, start: int) -> Tensor:
        """Last hidden states of more vectors, in the model's own causal attention; ``cache`` grows."""
        ...

    def most(self) -> int | None:
        """How many positions its table of positions has; None where it has none."""
        ...

    def shape(self) -> Shape | None:
        """What tells what it computes; None where that is not known."""
        ...

    def check(self, bound: Bound) -> str:
        """How the mask of a run comes about, in words. Raises CallError where it cannot."""
        ...


class Stepped:
    """A function ``hidden = step(vectors)`` with functions from tokens to vectors and from hidden states to logits."""

    def __init__(self, step: Step, embed: Step, head: Step, layered: bool) -> None:
        self.step, self._embed, self._head, self.layered = step, embed, head, layered
        self.takes = _names(step)

    @property
    def table(self) -> Any:
        """The function that was given."""
        return self._embed

    @property
    def many(self) -> int | None:
        """As many as a table of embeddings has."""
        return getattr(self._embed, "num_embeddings", None)

    def embed(self, ids: Tensor) -> Tensor:
        """As the function given."""
        found: Tensor = self._embed(ids)
        return found

    def head(self, hidden: Tensor) -> Tensor:
        """As the function given."""
        found: Tensor = self._head(hidden)
        return found

    def run(
        self, vectors: Tensor, kept: tuple[Tensor, ...], start: int, bound: Bound
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Calls the function with what it takes."""
        more: dict[str, Any] = {}
        if "attend" in self.takes:
            more["attend"] = bound
        if self.layered:
            more["memory"] = kept
        found = self.step(vectors, **more)
        name, rows = bound.pattern.spec.name, vectors.shape[1]
        pair = isinstance(found, tuple) and len(found) == 2
        if self.layered and not (pair and all(isinstance(t, Tensor) and t.shape[-2:-1] == (rows,) for t in found[1])):
            raise CallError(
                f"{name}: layers keep positions: step must give `hidden, layers`, a tensor for each layer with {rows} "
                "positions, those of its vectors, in its last dimension but one"
            )
        hidden, layers = found if self.layered else (found, ())
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != vectors.shape[:2]:
            shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise CallError(
                f"{name}: step gives {shape} for vectors of {tuple(vectors.shape)}: it must give "
                "last hidden states, (batch, positions, width)"
            )
        return hidden, tuple(layers)

    def goes_on(self, bound: Bound) -> bool:
        """A function runs a segment as a whole."""
        return False

    def opened(self, vectors: Tensor, kept: tuple[Tensor, ...], start: int, bound: Bound) -> tuple[Tensor, Any]:
        """Not there."""
        raise NotImplementedError

    def go_on(self, vectors: Tensor, cache: Any, start: int) -> Tensor:
        """Not there."""
        raise NotImplementedError

    def most(self) -> int | None:
        """What the function does with positions is not known."""
        return None

    def shape(self) -> Shape | None:
        """What the function computes is not known."""
        return None

    def check(self, bound: Bound) -> str:
        """Its own where that is causal; else it must take ours."""
        name = bound.pattern.spec.name
        if self.layered and "memory" not in self.takes:
            raise CallError(
                f"{name}: layers keep positions: step must take them, `hidden, layers = step(vectors, memory=...)`, "
                "both tuples with a tensor for each layer"
            )
        if "attend" in self.takes:
            return f"attnspec's, of {name}, handed to step"
        if why := bound.pattern.why_not_causal:
            raise CallError(
                f"{name}: the mask of a segment is not plain causal, as {why}: step must take it, `hidden = "
                "step(vectors, attend=...)`, where attend(q, k, v) is the attention of each layer"
            )
        return "step's own, which must be causal: so is the mask of a segment"


def _names(step: Step) -> frozenset[str]:
    """The names of what a function takes; none where it does not say."""
    function = step.forward if isinstance(step, torch.nn.Module) else step
    try:
        return frozenset(inspect.signature(function).parameters)
    except ValueError:  # of a function that is not written in Python
        return frozenset()
