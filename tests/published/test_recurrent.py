"""Models of transformers over segments against loops over segments that are written out, and what may be wrong."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import attnspec
from attnspec.runtime.recurrent.recurrent import Recurrent
from tests.support.recurrent import close, gradients, mean_loss

WORDS, SEGMENT = 32, 8
PLAIN = {"bos_token_id": 0, "eos_token_id": 0}
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, **PLAIN}
GROUPED = {**SMALL, "num_key_value_heads": 2, "vocab_size": WORDS}
DRY = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": WORDS, "n_positions": 32, **PLAIN}
MODELS: dict[str, Callable[..., Any]] = {
    "gpt2": lambda **more: transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**GPT2, **DRY, **more})),
    "llama": lambda **more: transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**GROUPED, **more})),
    "mistral": lambda **more: transformers.MistralForCausalLM(transformers.MistralConfig(**{**GROUPED, **more})),
    "qwen3": lambda **more: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**{**GROUPED, "head_dim": 4, **more})
    ),
}
IDS = torch.randint(WORDS, (2, 21), generator=torch.Generator().manual_seed(0))


def made(name: str, spec: str, dtype: torch.dtype = torch.float64, **options: Any) -> Recurrent:
    """A model with parameters that are large enough for every position to matter, over segments."""
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return attnspec.recurrent(model, spec, **options)


def hidden(model: Recurrent, vectors: Tensor, **more: Any) -> Tensor:
    found: Tensor = model.model.base_model(inputs_embeds=vectors, **more).last_hidden_state
    return found


def embedded(model: Recurrent, ids: Tensor) -> Tensor:
    found: Tensor = model.model.get_input_embeddings()(ids)
    return found


def logits_of(model: Recurrent, states: Tensor) -> Tensor:
    found: Tensor = model.model.get_output_embeddings()(states)
    return found


def rmt(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    memory = model.own.initial["written"].expand(len(ids), -1, -1)
    logits = []
    for piece in ids.split(SEGMENT, 1):
        found = hidden(model, torch.cat([memory, embedded(model, piece), memory], 1), use_cache=False)
        logits.append(logits_of(model, found[:, 3:-3]))
        memory = found[:, -3:]
    return torch.cat(logits, 1), {"written": memory}


def rmt_both_ways(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """With a mask of 4 dimensions, which transformers takes as it is."""
    memory = model.own.initial["written"].expand(len(ids), -1, -1)
    logits = []
    for piece in ids.split(SEGMENT, 1):
        rows = piece.shape[1] + 6
        mask = torch.ones(1, 1, rows, rows, dtype=torch.bool).tril()
        mask[..., :3, :3] = mask[..., -3:, -3:] = True
        vectors = torch.cat([memory, embedded(model, piece), memory], 1)
        found = hidden(model, vectors, use_cache=False, attention_mask=mask)
        logits.append(logits_of(model, found[:, 3:-3]))
        memory = found[:, -3:]
    return torch.cat(logits, 1), {"written": memory}


def hmt(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    recall, first = model.own.recall, model.own.initial["written"]
    store: list[Tensor] = []
    before, logits = embedded(model, ids[:, :0]), []
    for piece in ids.split(SEGMENT, 1):
        x, prompt = embedded(model, piece), recall.prompt.expand(len(ids), -1, -1)
        recalled = first.expand(len(ids), -1, -1)
        if store:
            asks = recall.query(hidden(model, torch.cat([prompt, x[:, :4], prompt], 1), use_cache=False)[:, -1:])
            memories = torch.cat(store[-2:], 1)
            recalled = (asks @ recall.key(memories).mT / 6**0.5).softmax(-1) @ memories
        found = hidden(model, torch.cat([recalled, before, x, recalled], 1), use_cache=False)
        logits.append(logits_of(model, found[:, 1 + before.shape[1] : -1]))
        store.append(found[:, -1:])
        before = x[:, -3:]
    return torch.cat(logits, 1), {"token": before, "written": torch.cat(store[-2:], 1)}


def transformer_xl(model: Recurrent, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Keys and values of the last 11 positions of each layer, without gradients."""
    kept: list[tuple[Tensor, Tensor]] = []
    logits, at = [], 0
    for piece in ids.split(SEGMENT, 1):
        cache = transformers.DynamicCache()
        for layer, (k, v) in enumerate(kept):
            cache.update(k, v, layer)
        places = torch.arange(at, at + piece.shape[1])[None]
        found = hidden(model, embedded(model, piece), cache=cache, use_cache=True, position_ids=places)
        logits.append(logits_of(model, found))
        kept = [(x.keys[:, :, -11:].detach(), x.values[:, :, -11:].detach()) for x in cache.layers]
        at += piece.shape[1]
    return torch.cat(logits, 1), {}


LOOPS: dict[str, tuple[Callable[[Recurrent, Tensor], tuple[Tensor, dict[str, Tensor]]], dict[str, Any]]] = {
    "rmt": (rmt, {"slots": 3}),
    "rmt_both_ways": (rmt_both_ways, {"slots": 3, "target": "dense"}),
    "hmt": (hmt, {"before": 3, "store": 2, "dim": 6}),
    "transformer_xl": (transformer_xl, {"length": 11}),
}


QUICK = {("gpt2", "rmt"), ("llama", "rmt"), ("gpt2", "hmt"), ("llama", "transformer_xl"), ("gpt2", "rmt_both_ways")}
QUICK |= {("mistral", "rmt"), ("qwen3", "rmt")}
BOTH = [
    pytest.param(name, spec, marks=[] if (name, spec) in QUICK else pytest.mark.slow, id=f"{name}-{spec}")
    for name in MODELS
    for spec in (*LOOPS, "same length")
]


@pytest.mark.parametrize(("name", "spec"), [one for one in BOTH if one.values[1] != "same length"])
def test_a_call_is_a_loop_over_segments(name: str, spec: str) -> None:
    """Logits, states and every gradient in float64; the loop runs the model as it was, with its own attention."""
    loop, options = LOOPS[spec]
    model = made(name, spec, segment=SEGMENT, **options)
    twin = copy.deepcopy(model)
    labels = IDS.masked_fill(IDS < 4, -100)
    logits, states = loop(twin, IDS)
    want = gradients(twin, mean_loss(logits, labels) + sum(t.sin().sum() for t in states.values()))
    out = model(IDS, labels=labels, logits=True)
    found = {source: out.state[source] for source in states}
    close({"logits": out.logits, **found}, {"logits": logits, **states})
    mine = gradients(model, out.loss + sum(t.sin().sum() for t in found.values()))
    close(mine, want)
    assert model.attention.startswith("attnspec's" if spec == "rmt_both_ways" else type(model.model).__name__)


@pytest.mark.parametrize(("name", "spec"), [one for one in BOTH if one.values[0] in ("gpt2", "llama")])
def test_tokens_come_as_a_call_has_them(name: str, spec: str) -> None:
    """With a cache inside of a segment where the model's own attention serves."""
    text, options = (
        ("transformer_xl", {"length": 5, "same_length": True}) if spec == "same length" else (spec, LOOPS[spec][1])
    )
    model = made(name, text, segment=SEGMENT, **{**options, "target": "dense"})
    many = 11 if name == "gpt2" else 20  # GPT-2 has 32 positions, of the whole sequence where layers keep them
    want = IDS
    for _ in range(many):
        want = torch.cat([want, model(want, logits=True).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(IDS, max_new_tokens=many), want)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_our_kernels_in_their_layers(name: str) -> None:
    """C++ kernels in float32: blocks that see both ways, and a window over a memory that fills."""
    for spec, more in (("rmt_both_ways", {"slots": 3}), ("transformer_xl", {"length": 5, "same_length": True})):
        model = made(name, spec, torch.float32, segment=SEGMENT, **more)
        dense = made(name, spec, torch.float32, segment=SEGMENT, target="dense", **more)
        got, want = (m(IDS, labels=IDS, logits=True) for m in (model, dense))
        close({"logits": got.logits}, {"logits": want.logits}, 1e-4)
        close(gradients(model, got.loss), gradients(dense, want.loss), 1e-4)


def test_a_model_that_took_our_attention_is_itself_alone() -> None:
    model = made("llama", "rmt_both_ways", slots=3, segment=SEGMENT, target="dense")
    want = model.model(IDS).logits
    model(IDS)
    assert torch.equal(model.model(IDS).logits, want)
    assert torch.equal(model.model.generate(IDS, max_new_tokens=3), model.model.generate(IDS, max_new_tokens=3))


def test_encoders_take_our_attention() -> None:
    """BERT is not causal; a segment whose every position sees all of it."""
    config = transformers.BertConfig(
        **SMALL, vocab_size=WORDS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = transformers.BertForMaskedLM(config)
    text = "attention a { axis read[2] axis token[n] token -> read: true token -> token: true read -> read: true "
    text += "read -> token: true recur token by 8 ragged first carry read -> read }"
    twin = copy.deepcopy(model.bert)
    own = attnspec.recurrent(model.eval(), text, head=model.cls, target="dense")
    assert own.attention == "attnspec's, of a, as BertForMaskedLM is not causal"
    want, memory = [], own.own.initial["read"].expand(2, -1, -1)
    for piece in IDS.split([5, 8, 8], 1):
        found = twin(inputs_embeds=torch.cat([memory, twin.embeddings.word_embeddings(piece)], 1)).last_hidden_state
        want.append(model.cls(found[:, 2:]))
        memory = found[:, :2]
    close({"logits": own(IDS, logits=True).logits}, {"logits": torch.cat(want, 1)}, 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("spec", ["rmt", pytest.param("rmt_both_ways", marks=pytest.mark.slow)])
def test_gradient_checkpointing_and_dropout(name: str, spec: str) -> None:
    """The same bits with the model's own checkpointing, inside of segments that run again and without."""
    found = []
    for checkpointing, remat in ((False, True), (True, True), (True, False)):
        more = {"resid_pdrop": 0.2} if name == "gpt2" else {}
        torch.manual_seed(0)
        model = MODELS[name](**more).train()
        own = attnspec.recurrent(model, spec, slots=3, segment=SEGMENT, remat=remat)
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(3)
        loss = own(IDS, labels=IDS).loss
        found.append({"loss": loss, **gradients(own, loss)})
    for other in found[1:]:
        assert all(torch.equal(t, other[key]) for key, t in found[0].items())


def test_half_precision_and_autocast() -> None:
    model = made("llama", "rmt", torch.float32, slots=3, segment=SEGMENT)
    want = model(IDS, labels=IDS).loss
    with torch.autocast("cpu", torch.bfloat16):
        got = model(IDS, labels=IDS)
    got.loss.backward()
    close({"loss": got.loss}, {"loss": want}, 0.2)
    model = model.bfloat16()
    close({"loss": model(IDS, labels=IDS).loss}, {"loss": want}, 0.2)
    assert model(IDS).state["written"].dtype == torch.bfloat16


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a short table": (
        lambda: attnspec.recurrent(MODELS["gpt2"](n_positions=32), "rmt", slots=3, segment=27),
        "a segment takes 33 positions (27 tokens, 6 beside them), and the model has a table of 32: take segments of at "
        "most 26 tokens",
    ),
    "a sequence beyond the table": (
        lambda: made("gpt2", "transformer_xl", segment=8, length=8)(IDS.repeat(1, 2)),
        "positions of the whole sequence, 42 so far, and the model has a table of 32",
    ),
    "a narrower window": (
        lambda: attnspec.recurrent(MODELS["mistral"](sliding_window=6), "rmt", slots=3, segment=8),
        "see the last 6 positions only (sliding_window), and a segment has 14",
    ),
    "an encoder with a decoder": (
        lambda: attnspec.recurrent(
            transformers.T5ForConditionalGeneration(
                transformers.T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, vocab_size=WORDS)
            ),
            "rmt",
        ),
        "is an encoder with a decoder",
    ),
    "no head": (
        lambda: attnspec.recurrent(transformers.LlamaModel(transformers.LlamaConfig(**GROUPED)), "rmt"),
        "LlamaModel has no output embeddings: give head=",
    ),
    "logits that are capped": (
        lambda: attnspec.recurrent(
            transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**GROUPED, head_dim=4, sliding_window=64)), "rmt"
        ),
        "(final_logit_softcapping): give head=",
    ),
    "an embed beside": (
        lambda: attnspec.recurrent(MODELS["llama"](), "rmt", embed=torch.nn.Embedding(3, 16)),
        "LlamaForCausalLM has input embeddings",
    ),
    "dropout of weights": (
        lambda: attnspec.recurrent(MODELS["gpt2"](attn_pdrop=0.1).train(), "rmt_both_ways", slots=2, segment=8)(IDS),
        "dropout of weights, here 0.1: set attn_pdrop or attention_dropout to 0",
    ),
    "layers that are checkpointed": (
        lambda: _checkpointed()(IDS),
        "with gradient checkpointing LlamaForCausalLM drops the keys that layers keep",
    ),
    "a state of other layers": (
        lambda: made("llama", "transformer_xl", segment=8, length=8)(IDS, state=_of_one_layer()),
        "the state is of a model of 1 layers; this one has 2",
    ),
}


def _checkpointed() -> Recurrent:
    model = MODELS["llama"]().train()
    model.gradient_checkpointing_enable()
    return attnspec.recurrent(model, "transformer_xl", segment=8, length=8)


def _of_one_layer() -> Any:
    model = MODELS["llama"](num_hidden_layers=1).double()
    return attnspec.recurrent(model, "transformer_xl", segment=8, length=8)(IDS).state


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(attnspec.CallError, match=re.escape(message)):
        call()


def test_the_cost_is_that_of_the_model() -> None:
    """Of positions by parameters, as a count of what runs has it, which leaves out attention; and of pairs by heads."""
    from torch.utils.flop_counter import FlopCounterMode

    model = made("llama", "rmt", torch.float32, slots=3, segment=SEGMENT)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(IDS[:1], logits=True)
    cost = model.cost(21)
    assert (cost.segments, cost.positions) == (3, 21 + 3 * 6)
    assert cost.operations is not None
    assert cost.pairs == 2 * (14 * 15 // 2) + 11 * 12 // 2
    assert cost.operations - 4 * cost.pairs * 2 * 16 == counter.get_total_flops()


def test_importing_the_package_imports_no_transformers() -> None:
    import subprocess
    import sys

    code = "import sys, attnspec; attnspec.recurrent; print('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
