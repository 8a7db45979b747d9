"""What does not fit is refused by name; tokens are generated as a call would have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnspec
from attnspec.runtime.recurrent.recurrent import Recurrent
from tests.support.recurrent import WIDTH, WORDS, Attending, Layered, Small, tokens, wrapped

IDS = tokens(2, 21)


def rmt(**options: Any) -> Recurrent:
    return wrapped(Small(), "rmt", slots=2, segment=8, **options)


def stepped(step: Any, head: Any = None) -> Recurrent:
    head = nn.Linear(WIDTH, WORDS) if head is None else head
    return attnspec.recurrent(step, "rmt", embed=nn.Embedding(WORDS, WIDTH), head=head, slots=2, segment=8)


class _Forgetful(Layered):
    """Gives no layers."""

    def forward(self, vectors: Tensor, memory: tuple[Tensor, ...]) -> Any:
        return super().forward(vectors, memory)[0]


STATE = rmt()(IDS).state
CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "no token": (lambda: rmt()(IDS[:, :0]), "input_ids of (2, 0): there is no token"),
    "no entry": (lambda: rmt()(IDS[:0]), "input_ids of (0, 21): there is no token"),
    "nothing": (lambda: rmt()(), "give input_ids or inputs_embeds, one of the two"),
    "both": (lambda: rmt()(IDS, inputs_embeds=torch.zeros(2, 21, WIDTH)), "one of the two"),
    "floats": (lambda: rmt()(IDS.float()), "input_ids are integers, not torch.float32"),
    "bools": (lambda: rmt()(IDS > 3), "input_ids are integers, not torch.bool"),
    "a list": (lambda: rmt()([1, 2]), "input_ids must be a tensor, not list"),  # type: ignore[arg-type]
    "one dimension": (lambda: rmt()(IDS[0]), "input_ids are (batch, length), not (21,)"),
    "too large": (lambda: rmt()(IDS + WORDS), f"there are embeddings for 0 to {WORDS - 1}"),
    "negative": (lambda: rmt()(IDS - 30), "input_ids reach from -30"),
    "other vectors": (lambda: rmt()(inputs_embeds=torch.zeros(2, 21, 5)), "inputs_embeds are (batch, length, 16)"),
    "vectors of another dtype": (
        lambda: rmt()(inputs_embeds=torch.zeros(2, 21, WIDTH)),
        "inputs_embeds are torch.float32, and the model's embeddings torch.float64",
    ),
    "other labels": (
        lambda: rmt()(IDS, labels=IDS[:, 1:]),
        "labels are (batch, length) as the tokens, (2, 21), not (2, 20)",
    ),
    "float labels": (lambda: rmt()(IDS, labels=IDS.float()), "labels are integers, as input_ids, not torch.float32"),
    "labels too large": (lambda: rmt()(IDS, labels=IDS + WORDS), "labels reach from"),
    "labels negative": (lambda: rmt()(IDS, labels=IDS - 90), "but -100, which is not counted"),
    "other batch": (
        lambda: rmt()(tokens(3, 9), state=STATE),
        "the state is of a batch of 2; this call has a batch of 3",
    ),
    "other spec": (
        lambda: wrapped(Small(), "rmt", slots=3, segment=9)(IDS, state=STATE),
        "the state is of another spec, whose lines about segments are\nrecur token by 8",
    ),
    "other slots": (
        lambda: wrapped(Small(), "rmt", slots=3, segment=8)(IDS, state=STATE),
        "the state has 2 positions of `written`; here there are 3",
    ),
    "other width": (
        lambda: rmt()(IDS, state=STATE.each(lambda t: t[..., :4])),
        "the state has vectors of 4 numbers; this model's have 16",
    ),
    "other device": (lambda: rmt()(IDS, state=STATE.to("meta")), "the state is on meta, the tokens on cpu"),
    "entries of another batch": (
        lambda: rmt()(IDS, state=STATE.each(lambda t: t[:1])),
        "the state has tensors of 1 entries, and says 2",
    ),
    "padding": (
        lambda: rmt()(IDS, attention_mask=(IDS > 0).long()),
        "segments are run without padding: put sequences of one length in a batch",
    ),
    "padding in parts": (lambda: rmt().segments(IDS, attention_mask=IDS > 0), "segments are run without padding"),
    "padding before": (
        lambda: rmt().generate(IDS, max_new_tokens=1, attention_mask=IDS > 0),
        "segments are run without padding",
    ),
    "a mask of pairs": (
        lambda: rmt()(IDS, attention_mask=torch.ones(2, 21, 21)),
        "attention_mask is (batch, length) as the tokens, (2, 21): (2, 21, 21)",
    ),
    "no state": (lambda: rmt()(IDS, state=3), "state is what a call gives, out.state, not int"),  # type: ignore[arg-type]
    "no new token": (lambda: rmt().generate(IDS, max_new_tokens=0), "max_new_tokens is at least 1, not 0"),
    "cold": (
        lambda: rmt().generate(IDS, max_new_tokens=1, do_sample=True, temperature=0.0),
        "temperature is above 0, not 0.0",
    ),
    "no choice": (lambda: rmt().generate(IDS, max_new_tokens=1, do_sample=True, top_k=0), "top_k is at least 1, not 0"),
    "not sampled": (
        lambda: rmt().generate(IDS, max_new_tokens=1, top_k=5),
        "temperature and top_k have no meaning without do_sample=True",
    ),
    "cost of nothing": (lambda: rmt().cost(0), "cost of 0 tokens in a batch of 1"),
    "cost of a float": (lambda: rmt().cost(1e6), "both are integers from 1 on"),  # type: ignore[arg-type]
    "no function": (lambda: stepped(3), "step is a function or a module, not int"),
    "no function of hidden states": (lambda: stepped(torch.tanh, head=3), "head is a function or a module, not int"),
    "another width": (
        lambda: stepped(lambda x: x[..., :8], head=nn.Linear(8, WORDS))(IDS),
        "hidden states have 8 numbers and input vectors 16: `carry written -> read, written` needs as many of both",
    ),
    "a head that gives no logits": (
        lambda: stepped(torch.tanh, head=lambda x: x.mean(-1))(IDS, logits=True),
        "head gives (2, 8) for hidden states of (2, 8, 16)",
    ),
    "few logits": (
        lambda: stepped(torch.tanh, head=nn.Linear(WIDTH, 5))(IDS, labels=IDS),
        "head gives logits for 0 to 4, and labels reach",
    ),
    "a token without an embedding": (
        lambda: stepped(torch.tanh, head=lambda x: torch.arange(WORDS + 9.0) + 0 * x[..., :1]).generate(
            IDS, max_new_tokens=2
        ),
        f"token {WORDS + 8} is chosen; there are embeddings for 0 to {WORDS - 1}",
    ),
    "no recur": (lambda: wrapped(Small(), "causal"), "the spec does not say how segments follow one another"),
    "inputs": (
        lambda: wrapped(
            Attending(), "attention a { axis token[n] input bias: float[heads] score s * bias[h] recur token by 4 }"
        ),
        "segments are run without inputs, and the spec reads bias",
    ),
    "no embed": (lambda: attnspec.recurrent(Small(), "rmt"), "Small is no model of transformers: give embed and head"),
    "an embed that gives no vectors": (
        lambda: attnspec.recurrent(Small(), "rmt", embed=lambda ids: ids, head=nn.Linear(WIDTH, 3)),
        "embed gives (1, 1) for tokens of (1, 1)",
    ),
    "a mask that is not causal": (
        lambda: wrapped(Small(), "rmt_both_ways"),
        "as position 0 of `read` sees position 1 of `read`, which comes after it: step must take it",
    ),
    "no layers": (lambda: wrapped(Small(), "transformer_xl"), "layers keep positions: step must take them"),
    "a step that gives other rows": (
        lambda: attnspec.recurrent(
            lambda x: x[:, 1:], "rmt", embed=nn.Embedding(WORDS, WIDTH), head=nn.Linear(WIDTH, WORDS)
        )(IDS),
        "step gives (2, 40, 16) for vectors of (2, 41, 16)",
    ),
    "layers that are not given": (
        lambda: wrapped(_Forgetful(), "transformer_xl", segment=8)(IDS),
        "step must give `hidden, layers`, a tensor for each layer with 8 positions",
    ),
    "two memories": (
        lambda: wrapped(
            Layered(),
            "attention a { axis near[2] keys axis far[4] keys axis token[n] token -> near: true token -> token: causal "
            "recur token by 4 carry token -> near last 2 by layer carry token -> far last 4 by layer }",
        ),
        "layers keep one axis, which is declared first",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_does_not_fit_is_refused(name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises(attnspec.CallError, match=re.escape(message)):
        call()


def test_a_mask_that_leaves_nothing_out_may_come_with_the_tokens() -> None:
    model = rmt()
    given = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(model(**given, logits=True).logits, model(IDS, logits=True).logits)


def test_what_is_compiled_has_its_parameters() -> None:
    with pytest.raises(TypeError, match="is compiled already"):
        wrapped(Small(), attnspec.compile("rmt"), slots=2)


@pytest.mark.parametrize("name", ["rmt", "hmt"])
def test_tokens_come_as_a_call_has_them(name: str) -> None:
    """Across the end of a segment; what HMT recalls changes with the first half of one."""
    more = {"rmt": {"slots": 2}, "hmt": {"before": 3, "store": 2, "dim": 5}}[name]
    model = wrapped(Small(), name, segment=8, **more)
    want = IDS
    for _ in range(13):
        want = torch.cat([want, model(want, logits=True).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(IDS, max_new_tokens=13), want)
    state = model(IDS[:, :16]).state
    assert torch.equal(model.generate(IDS[:, 16:], max_new_tokens=13, state=state), want[:, 16:])


def test_tokens_are_drawn() -> None:
    model = rmt()
    torch.manual_seed(1)
    drawn = torch.cat([model.generate(IDS, max_new_tokens=1, do_sample=True, top_k=3)[:, -1:] for _ in range(60)], 1)
    best = model(IDS, logits=True).logits[:, -1].topk(3).indices
    assert [set(row.tolist()) for row in drawn] == [set(row.tolist()) for row in best]
    cold = model.generate(IDS, max_new_tokens=5, do_sample=True, temperature=1e-4)
    assert torch.equal(cold, model.generate(IDS, max_new_tokens=5))


def test_generation_ends() -> None:
    model = rmt()
    free = model.generate(IDS, max_new_tokens=8)[:, 21:]
    end = int(free[0, 2])
    found = model.generate(IDS, max_new_tokens=8, eos_token_id=end)[:, 21:]
    stop = [row.tolist().index(end) if end in row else 8 for row in free]
    assert found.shape[1] == min(8, max(stop) + 1)
    for row, own, at in zip(found.tolist(), free.tolist(), stop, strict=True):
        assert row[:at] == own[: min(at, len(row))]
        assert all(token == end for token in row[at:])
