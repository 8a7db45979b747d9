"""From a model and a spec that says how segments follow one another to a module: ``attnspec.recurrent``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.recurrent import arguments
from attnspec.runtime.recurrent.cost import Cost, cost
from attnspec.runtime.recurrent.decoder import Decoder, Step, Stepped
from attnspec.runtime.recurrent.generate import Choice, generate
from attnspec.runtime.recurrent.heap import trim
from attnspec.runtime.recurrent.parameters import Parameters
from attnspec.runtime.recurrent.pattern import Pattern
from attnspec.runtime.recurrent.segment import IGNORED, Segments
from attnspec.runtime.recurrent.state import State


@dataclass(frozen=True, eq=False)
class Output:
    """What a call gives: ``loss`` with labels, the mean over all that are counted; ``logits`` where asked for."""

    state: State
    loss: Tensor | None = None
    logits: Tensor | None = None


Ran = tuple[State, Tensor | None, Tensor | None]


class Recurrent(nn.Module):
    """A model that runs over segments: what :func:`recurrent` makes.

    ``model``, or ``step``, ``embed`` and ``head``, are what was given. ``own`` are the parameters beside it:
    ``own.initial[axis]`` stands before the first segment where something is carried from ``axis``,
    ``own.learned[axis]`` in every segment at an axis that nothing is carried to, and ``own.recall`` has what a recall
    asks with. ``attention`` says in words where the mask of a segment comes from.
    """

    def __init__(self, given: Mapping[str, Any], decoder: Decoder, attend: Attention, remat: bool) -> None:
        super().__init__()
        spec, self.remat = attend.spec, remat
        if spec.recurrence is None:
            raise CallError(
                f"{spec.name}: the spec does not say how segments follow one another: `recur token by 512` and "
                "`carry ... -> ...`, as in the specs rmt, hmt and transformer_xl"
            )
        self.spec, self.recurrence = spec, spec.recurrence
        pattern = Pattern(attend)
        self.attention = arguments.check_model(pattern, self.recurrence, decoder)
        for name, part in given.items():
            setattr(self, name, part)
        like = arguments.embeddings(spec.name, decoder, decoder.table)
        self.own = Parameters(self.recurrence, pattern.sizes(self.recurrence.recur.size), pattern.rows, like)
        self._run = Segments(pattern, self.recurrence, decoder, self.own)

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        state: State | None = None,
        logits: bool = False,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Output:
        """All segments of ``input_ids``, (batch, length), or of vectors in their place, (batch, length, width).

        ``labels`` are as in transformers: of the same shape, usually the ids themselves; a token is to predict the
        label of the next one, also where that is in the next segment, and -100 is not counted. The loss is the mean
        over all that are counted (NaN where none is). Logits are (batch, length, vocabulary). Where a recall reads
        tokens before they are predicted (HMT) the loss is optimistic: see :meth:`foreseen`.

        ``state``, from the output of a call before, makes this call go on from there: a stream. The last segment of a
        call is closed however short it is; what follows the last token of a call is not part of its loss. A state
        holds on to what made it: ``state.detach()`` lets go of that, where gradients need not flow from call to call.

        There is no padding: an ``attention_mask``, which tokenizers give, is refused where it leaves a token out.

        Raises CallError for tensors and states that do not fit.
        """
        tokens, targets, count, state = self._given(input_ids, labels, state, inputs_embeds, attention_mask)
        losses, found = [], []
        for piece, wanted in self._pieces(tokens, targets):
            state, loss, own = self._segment(self._cut(state), piece, wanted, logits)
            losses.append(loss)
            found.append(own)
        return self._output(state, losses, count, found)

    def segments(
        self,
        input_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        state: State | None = None,
        logits: bool = False,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Iterator[Output]:
        """The same in parts that gradients do not leave, to be trained on one after another.

        >>> import torch, attnspec
        >>> embed, head = torch.nn.Embedding(16, 8), torch.nn.Linear(8, 16)
        >>> spec = "attention a { include rmt(slots = 2, segment = 4)  horizon 2 }"
        >>> rmt = attnspec.recurrent(lambda x: x.cumsum(1).tanh(), spec, embed=embed, head=head)
        >>> ids = torch.randint(16, (1, 20))
        >>> for part in rmt.segments(ids):
        ...     part.loss.backward()

        A part has as many segments as the ``horizon`` of the spec says; one where all that is carried is ``detached``;
        all of them where nothing cuts. ``labels`` are the ids where they are not given. The losses of all parts add up
        to the loss of a call, and so do the gradients; what is kept for backward is that of one part at a time.
        """
        if labels is None:
            labels = input_ids
        tokens, targets, count, state = self._given(input_ids, labels, state, inputs_embeds, attention_mask)
        return self._parts(tokens, targets, count, state, logits)

    def generate(
        self,
        input_ids: Tensor,
        *,
        max_new_tokens: int,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        eos_token_id: int | None = None,
        state: State | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """``input_ids``, (batch, length), and what follows them, (batch, length + max_new_tokens).

        The likeliest token each time, or with ``do_sample`` one drawn, from the ``top_k`` likeliest, of logits over
        ``temperature``. A batch entry that came to ``eos_token_id`` goes on with that; it ends where all have. A
        segment is closed when it is full, and its tokens are those of a call with what there is so far: while what is
        recalled depends on tokens to come (HMT's summary reads half a segment), the segment is run again for each.
        Everything runs without gradients; call ``eval()`` before, where the model has dropout.
        """
        choice = Choice(max_new_tokens, do_sample, temperature, top_k, eos_token_id)
        choice.check(self.spec.name)
        tokens, _, _, state = self._given(input_ids, None, state, None, attention_mask, max_new_tokens)
        return generate(self._run, tokens, state, choice)

    def foreseen(self, input_ids: Tensor, state: State | None = None) -> Tensor:
        """Which tokens of a call, (length,), a recall has read before they are to be predicted: none without one.

        HMT's summary reads the first half of a segment, and the answer stands before that half. The loss of a call
        counts these tokens, as the published code does: it is lower than what comes of predicting tokens that are not
        there yet, as :meth:`generate` does. That of the others is given by ``labels =
        input_ids.masked_fill(hmt.foreseen(input_ids), -100)``.
        """
        found = torch.zeros(input_ids.shape[1], dtype=torch.bool, device=input_ids.device)
        for tokens in self.recurrence.foreseen(input_ids.shape[1], 0 if state is None else state.segments):
            found[tokens.start : tokens.stop] = True
        return found

    def cost(self, n: int, batch: int = 1, heads: int | None = None) -> Cost:
        """What a sequence of n tokens takes, before anything runs: print it.

        ``heads`` is needed where the pattern tells heads apart and a function hides how many there are.
        """
        if not (isinstance(n, int) and isinstance(batch, int) and n >= 1 and batch >= 1):
            raise CallError(f"{self.spec.name}: cost of {n} tokens in a batch of {batch}: both are integers from 1 on")
        return cost(self._run, n, batch, heads)

    def _given(
        self,
        ids: Tensor | None,
        labels: Tensor | None,
        state: State | None,
        vectors: Tensor | None,
        padding: Tensor | None,
        more: int = 0,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, State]:
        """What a call is given, checked; the token that follows each, how many are counted, and the state."""
        name, decoder = self.spec.name, self._run.decoder
        tokens = arguments.check_tokens(name, self.own.width, decoder, ids, vectors)
        arguments.check_padding(name, padding, tokens)
        if state is None:
            state = self._run.start(tokens.shape[0])
        else:
            arguments.check_state(self._run, state, tokens)
        arguments.check_positions(name, self._run, state, tokens.shape[1] + more)
        if labels is None:
            return tokens, None, None, state
        arguments.check_labels(name, labels, tokens, decoder.many)
        targets = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], 1).long()
        return tokens, targets, (targets != IGNORED).sum(), state

    def _pieces(self, tokens: Tensor, targets: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """The segments of a call, with what follows each token."""
        lengths = list(self.recurrence.segments(tokens.shape[1]))
        pieces = torch.split(tokens, lengths, 1)
        return list(
            zip(pieces, [None] * len(pieces) if targets is None else torch.split(targets, lengths, 1), strict=True)
        )

    def _cut(self, state: State) -> State:
        """The state at the boundary before a segment: without gradients where the horizon is."""
        horizon = self.recurrence.horizon
        return state.detach() if horizon and state.segments and state.segments % horizon == 0 else state

    def _segment(self, state: State, tokens: Tensor, targets: Tensor | None, logits: bool) -> Ran:
        """One segment: run again for backward, unless ``remat`` is off."""
        if not (self.remat and torch.is_grad_enabled()):
            return self._run.run(state, tokens, targets, logits)

        def run(tokens: Tensor, targets: Tensor | None, *tensors: Tensor) -> Ran:
            return self._run.run(state.with_tensors(tensors), tokens, targets, logits)

        found: Ran = checkpoint(run, tokens, targets, *state.tensors, use_reentrant=False)
        if tokens.device.type == "cpu":
            trim(found[0].segments)
        return found

    def _parts(
        self, tokens: Tensor, targets: Tensor | None, count: Tensor | None, state: State, logits: bool
    ) -> Iterator[Output]:
        losses: list[Tensor | None] = []
        found: list[Tensor | None] = []
        pieces = self._pieces(tokens, targets)
        for number, (piece, wanted) in enumerate(pieces, 1):
            state, loss, own = self._segment(self._cut(state), piece, wanted, logits)
            losses.append(loss)
            found.append(own)
            if number == len(pieces) or self._closes(state):
                yield self._output(state, losses, count, found)
                losses, found = [], []

    def _closes(self, state: State) -> bool:
        """Whether no gradient flows from the segments to come into those so far."""
        horizon, carries = self.recurrence.horizon, self.recurrence.carries
        return all(carry.detached for carry in carries) or bool(horizon and state.segments % horizon == 0)

    def _output(
        self, state: State, losses: list[Tensor | None], count: Tensor | None, logits: list[Tensor | None]
    ) -> Output:
        summed = [loss for loss in losses if loss is not None]
        found = [own for own in logits if own is not None]
        return Output(
            state,
            None if count is None else torch.stack(summed).sum() / count,
            torch.cat(found, 1) if found else None,
        )

    def extra_repr(self) -> str:
        """The spec with its parameters, how segments follow one another, and where their mask comes from."""
        params = ", ".join(f"{name}={value!r}" for name, value in self.spec.params)
        said = "; ".join(self.recurrence.lines())
        return f"{self.spec.name}({params}): {said}; attention: {self.attention}; remat={self.remat}"


def recurrent(
    model: nn.Module | Step,
    spec: str | os.PathLike[str] | Attention,
    *,
    embed: Step | None = None,
    head: Step | None = None,
    remat: bool = True,
    params: Mapping[str, Any] | None = None,
    target: str = "auto",
    **parameters: Any,
) -> Recurrent:
    """A decoder that runs over segments, with memory that outlives them.

    >>> import torch, attnspec
    >>> embed, head = torch.nn.Embedding(100, 16), torch.nn.Linear(16, 100)
    >>> mixed = torch.nn.Linear(16, 16)
    >>> rmt = attnspec.recurrent(lambda x: mixed(x.cumsum(1)).tanh(), "rmt", embed=embed, head=head, slots=2, segment=8)
    >>> ids = torch.randint(100, (3, 30))
    >>> out = rmt(ids, labels=ids)
    >>> out.loss.backward()
    >>> out.state["written"].shape, rmt.own.initial["written"].grad.shape
    (torch.Size([3, 2, 16]), torch.Size([2, 16]))
    >>> rmt.generate(ids, max_new_tokens=5).shape
    torch.Size([3, 35])

    ``model`` is a decoder of Hugging Face's transformers, ``attnspec.recurrent(model, "rmt", slots=10, segment=512)``,
    or any function ``hidden = step(vectors)`` from input vectors, (batch, positions, width), to last hidden states of
    the same shape, with ``embed`` from ids to vectors and ``head`` from hidden states to logits (which also serves
    models of transformers whose logits are more than their output embeddings give).

    Where the mask of a segment is proven to be plain causal the model's own attention serves. Where it is not, the
    attention of each layer is ours: a model of transformers is set so, and a function takes it, ``hidden =
    step(vectors, attend=attend)`` with ``attend(q, k, v, scale=None)``. The attribute ``attention`` says which.

    What is carried ``by layer`` is a model's cache of keys and values, cut to the length that is kept, whose positions
    go on through the sequence. (Detached, memory then gives no gradient to the projections to keys and values;
    Transformer-XL projects the vectors of its memory again.) A function takes and gives what it likes, ``hidden, layers
    = step(vectors, memory=memory)``: tuples with a tensor for each layer, positions in its last dimension but one,
    ``memory`` of what is kept, empty before the first segment, ``layers`` of all rows now.

    ``spec`` is what :func:`attnspec.compile` takes, with its parameters (in ``params`` where a name collides with an
    argument) and ``target``, or an attention that is compiled. It has a line ``recur``: ``rmt``, ``rmt_both_ways``,
    ``hmt``, ``transformer_xl``, ``memory_layers``, or your own. With ``remat`` (while gradients are wanted) a segment
    is run again in the backward pass, from what was carried to it: that and one number are kept of each segment, not
    its activations, with the same results, dropout included.

    Raises SpecError where the spec is wrong, CallError where it says nothing about segments or does not fit the model.
    """
    if isinstance(spec, Attention):
        if parameters or params or target != "auto":
            raise TypeError(f"{spec!r} is compiled already: target and parameters would have no effect")
        attend = spec
    else:
        attend = compile(spec, params=params, target=target, **parameters)
    recurrence = attend.spec.recurrence
    layered = recurrence is not None and any(carry.by_layer for carry in recurrence.carries)
    transformers = sys.modules.get("transformers")
    if transformers is not None and isinstance(model, transformers.PreTrainedModel):
        if embed is not None:
            raise CallError(f"{type(model).__name__} has input embeddings: embed goes with a function")
        from attnspec.runtime.recurrent.huggingface import HuggingFace

        given = {"model": model} | ({} if head is None else {"head": head})
        return Recurrent(given, HuggingFace(model, head, layered), attend, remat)
    if embed is None or head is None:
        missing = " and ".join(name for name, f in (("embed", embed), ("head", head)) if f is None)
        raise CallError(
            f"{attend.spec.name}: {type(model).__name__} is no model of transformers: give {missing}, which go with a "
            "function hidden = step(vectors): embed from ids to vectors, head from hidden states to logits"
        )
    for name, function in (("step", model), ("embed", embed), ("head", head)):
        if not callable(function):
            raise CallError(f"{attend.spec.name}: {name} is a function or a module, not {type(function).__name__}")
    return Recurrent({"step": model, "embed": embed, "head": head}, Stepped(model, embed, head, layered), attend, remat)
