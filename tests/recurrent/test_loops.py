"""A function over segments against a loop over segments that is written out: logits, states and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.recurrent.recurrent import Recurrent
from tests.support.recurrent import (
    WIDTH,
    Attending,
    Layered,
    Small,
    causal,
    close,
    gradients,
    mean_loss,
    tokens,
    wrapped,
)

LENGTH, SEGMENT = 21, 8  # 8, 8 and 5 tokens
Loop = Callable[[Recurrent, Tensor], tuple[Tensor, dict[str, Tensor]]]


def rmt(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    memory = model.own.initial["written"].expand(len(ids), -1, -1)
    slots, logits = memory.shape[1], []
    for piece in ids.split(SEGMENT, 1):
        hidden = model.step(torch.cat([memory, model.embed(piece), memory], 1))
        logits.append(model.head(hidden[:, slots:-slots]))
        memory = hidden[:, -slots:]
    return torch.cat(logits, 1), {"written": memory}


def rmt_both_ways(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    memory = model.own.initial["written"].expand(len(ids), -1, -1)
    slots, logits = memory.shape[1], []
    for piece in ids.split(SEGMENT, 1):
        rows = piece.shape[1] + 2 * slots
        mask = torch.ones(rows, rows, dtype=torch.bool).tril()
        mask[:slots, :slots] = mask[-slots:, -slots:] = True

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor = mask) -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)

        hidden = model.step(torch.cat([memory, model.embed(piece), memory], 1), attend)
        logits.append(model.head(hidden[:, slots:-slots]))
        memory = hidden[:, -slots:]
    return torch.cat(logits, 1), {"written": memory}


def hmt(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The last 3 tokens before, the memories of the last 2 segments, a summary of 4 tokens."""
    recall, first = model.own.recall, model.own.initial["written"]
    store: list[Tensor] = []
    before, logits = torch.zeros(len(ids), 0, WIDTH, dtype=first.dtype), []
    for piece in ids.split(SEGMENT, 1):
        x = model.embed(piece)
        prompt = recall.prompt.expand(len(ids), -1, -1)
        recalled = first.expand(len(ids), -1, -1)
        if store:
            asks = recall.query(model.step(torch.cat([prompt, x[:, :4], prompt], 1))[:, -1:])
            memories = torch.cat(store[-2:], 1)
            recalled = (asks @ recall.key(memories).mT / 5**0.5).softmax(-1) @ memories
        hidden = model.step(torch.cat([recalled, before, x, recalled], 1))
        logits.append(model.head(hidden[:, 1 + before.shape[1] : -1]))
        store.append(hidden[:, -1:])
        before = x[:, -3:]
    return torch.cat(logits, 1), {"token": before, "written": torch.cat(store[-2:], 1)}


def transformer_xl(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Keys and values of the last 11 vectors, projected again, without gradients."""
    memory: tuple[Tensor, ...] = ()
    logits = []
    for piece in ids.split(SEGMENT, 1):
        hidden, (own,) = model.step(model.embed(piece), memory)
        logits.append(model.head(hidden))
        memory = (torch.cat([*memory, own], 1)[:, -11:].detach(),)
    return torch.cat(logits, 1), {}


def compressors(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """AutoCompressors: summaries by learned vectors, of which the last 3 of all segments are read."""
    own, logits = model.own.learned["summary"].expand(len(ids), -1, -1), []
    memory = model.own.initial["summary"].expand(len(ids), -1, -1)
    for piece in ids.split(SEGMENT, 1):
        hidden = model.step(torch.cat([memory, model.embed(piece), own], 1))
        logits.append(model.head(hidden[:, 3:-2]))
        memory = torch.cat([memory, hidden[:, -2:]], 1)[:, -3:]
    return torch.cat(logits, 1), {"summary": memory}


def near_and_far(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Two lines from one axis that keep unlike numbers of positions."""
    own, logits = model.own.learned["written"].expand(len(ids), -1, -1), []
    far = model.own.initial["written"].expand(len(ids), -1, -1)
    near = far[:, -2:]
    for piece in ids.split(SEGMENT, 1):
        hidden = model.step(torch.cat([far, near, model.embed(piece), own], 1))
        logits.append(model.head(hidden[:, 5:-2]))
        near = hidden[:, -2:]
        far = torch.cat([far, near], 1)[:, -3:]
    return torch.cat(logits, 1), {"written": near}


def remembering(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """HMT whose layers remember: in the run that asks, too."""
    recall, first = model.own.recall, model.own.initial["recalled"]
    store: list[Tensor] = []
    memory: tuple[Tensor, ...] = ()
    logits = []
    for piece in ids.split(SEGMENT, 1):
        x, recalled = model.embed(piece), first.expand(len(ids), -1, -1)
        if store:
            asks = recall.query(model.step(torch.cat([x[:, :6], recall.prompt.expand(len(ids), -1, -1)], 1), memory)[0])
            memories = torch.cat(store, 1)
            recalled = (asks[:, -1:] @ recall.key(memories).mT / 2.0).softmax(-1) @ memories
        hidden, (own,) = model.step(torch.cat([x, recalled], 1), memory)
        logits.append(model.head(hidden[:, :-1]))
        store.append(hidden[:, -1:])
        memory = (torch.cat([*memory, own[:, :-1]], 1)[:, -5:],)
    return torch.cat(logits, 1), {"recalled": torch.cat(store, 1)}


REMEMBERING = f"""attention remembering {{
    axis memory[5] keys  axis token[n]  axis recalled[1]
    token -> memory: true  token -> token: causal
    recalled -> memory: true  recalled -> token: true  recalled -> recalled: true
    recur token by {SEGMENT}
    carry token -> memory last 5 by layer
    carry recalled -> store last 9
    recall recalled from store by summary(part = 3 / 4, dim = 4)
}}"""
COMPRESSORS = f"""attention compressors {{
    axis read[3]  axis token[n]  axis summary[2]
    read -> read: causal  token -> read: true  token -> token: causal
    summary -> read: true  summary -> token: true  summary -> summary: causal
    recur token by {SEGMENT}
    carry summary -> read last 3
}}"""
NEAR_AND_FAR = f"""attention near_and_far {{
    axis far[3]  axis near[2]  axis token[n]  axis written[2]
    far -> far: causal  near -> far: true  near -> near: causal
    token -> far: true  token -> near: true  token -> token: causal
    written -> far: true  written -> near: true  written -> token: true  written -> written: causal
    recur token by {SEGMENT}
    carry written -> near
    carry written -> far last 3
}}"""
CASES: dict[str, tuple[Callable[[], Small], str, Loop, dict[str, object]]] = {
    "rmt": (Small, "rmt", rmt, {"slots": 2}),
    "rmt_both_ways": (Attending, "rmt_both_ways", rmt_both_ways, {"slots": 2, "target": "dense"}),
    "hmt": (Small, "hmt", hmt, {"before": 3, "store": 2, "dim": 5}),
    "transformer_xl": (Layered, "transformer_xl", transformer_xl, {"length": 11}),
    "compressors": (Small, COMPRESSORS, compressors, {}),
    "near_and_far": (Small, NEAR_AND_FAR, near_and_far, {}),
    "remembering": (Layered, REMEMBERING, remembering, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_call_is_a_loop_over_segments(name: str) -> None:
    step, spec, loop, options = CASES[name]
    model = wrapped(step(), spec, **(options if "{" in spec else {**options, "segment": SEGMENT}))
    ids = tokens(3, LENGTH)
    labels = ids.masked_fill(tokens(3, LENGTH, seed=1) < 5, -100)
    logits, states = loop(model, ids)
    out = model(ids, labels=labels, logits=True)
    found = {source: out.state[source] for source in states}
    close({"logits": out.logits, **found}, {"logits": logits, **states})
    close({"loss": out.loss}, {"loss": mean_loss(logits, labels)})
    weight = sum((t.sin().sum() for t in states.values()), start=torch.tensor(0.0))
    mine = gradients(model, out.loss + sum(t.sin().sum() for t in found.values()))
    close(mine, gradients(model, mean_loss(logits, labels) + weight))
    assert float(min(t.abs().max() for t in mine.values())) > 0, "no parameter without a gradient"


@pytest.mark.parametrize("name", CASES)
def test_a_stream_is_one_sequence(name: str) -> None:
    step, spec, _, options = CASES[name]
    model = wrapped(step(), spec, **(options if "{" in spec else {**options, "segment": SEGMENT}))
    ids = tokens(2, LENGTH)
    whole = model(ids, logits=True)
    first = model(ids[:, : 2 * SEGMENT], logits=True)
    second = model(ids[:, 2 * SEGMENT :], logits=True, state=first.state)
    close({"logits": torch.cat([first.logits, second.logits], 1)}, {"logits": whole.logits})
    assert second.state.segments == whole.state.segments == 3
    flat = zip(second.state.tensors, whole.state.tensors, strict=True)
    assert all(torch.equal(a, b) for a, b in flat)


def test_the_short_segment_may_stand_first() -> None:
    text = "attention a { axis read[2] axis token[n] axis written[2] token -> read: true token -> token: causal"
    text = f"{text} written -> read: true written -> token: true written -> written: causal read -> read: causal"
    model = wrapped(Small(), f"{text} recur token by 8 ragged first carry written -> read, written }}")
    ids = tokens(2, 21)
    first = model(ids[:, :5], logits=True)
    rest = model(ids[:, 5:], logits=True, state=first.state)
    assert torch.equal(model(ids, logits=True).logits, torch.cat([first.logits, rest.logits], 1))


@pytest.mark.slow
def test_kernels_have_the_mask_of_a_segment() -> None:
    """Also before all of a memory is there, where rows and keys are parts of what the kernel knows."""
    text = f"""attention a {{
        axis near[4]  axis token[n]  axis out[1]
        near -> near: true  token -> near: k > q  token -> token: |q - k| <= 3  out -> token: true  out -> near: true
        recur token by {SEGMENT}
        carry token -> near last 4
    }}"""
    ids = tokens(2, 19)
    dense = wrapped(Attending(), text, torch.float32, target="dense")
    kernel = wrapped(Attending(), text, torch.float32)
    assert kernel.attention.startswith("attnspec's, of a")
    want, got = (model(ids, labels=ids, logits=True) for model in (dense, kernel))
    close({"logits": got.logits}, {"logits": want.logits}, 1e-5)
    close(gradients(kernel, got.loss), gradients(dense, want.loss), 1e-5)


def test_where_the_mask_comes_from_is_said() -> None:
    assert wrapped(Small(), "rmt", slots=2).attention.startswith("step's own")
    model = wrapped(Attending(), "rmt_both_ways", slots=2)
    assert "attention: attnspec's, of rmt_both_ways" in repr(model)
    assert isinstance(causal(*torch.zeros(3, 1, 1, 2, 4)), Tensor)


def test_vectors_stand_in_for_tokens() -> None:
    model = wrapped(Small(), "rmt", slots=2, segment=SEGMENT)
    ids = tokens(2, LENGTH)
    vectors = model.embed(ids).detach().requires_grad_()
    out = model(inputs_embeds=vectors, labels=ids)
    assert torch.equal(out.loss, model(ids, labels=ids).loss)
    assert torch.autograd.grad(out.loss, vectors)[0].abs().sum(-1)[:, :-1].min() > 0


def test_a_compiled_attention_is_a_spec() -> None:
    attend = attnspec.compile("rmt", slots=2, segment=SEGMENT)
    ids = tokens(2, LENGTH)
    named = wrapped(Small(), "rmt", slots=2, segment=SEGMENT)
    assert torch.equal(wrapped(Small(), attend)(ids).state["written"], named(ids).state["written"])
