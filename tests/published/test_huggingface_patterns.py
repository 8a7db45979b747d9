"""Patterns in the place of the masks of models: what a model gives is what eager gives with the mask of every pair."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import attnspec
import attnspec.transformers as hf
from tests.published.patterns import SPECS, dense, of_documents, positions_of, recomputed, spec_of
from tests.published.tiny import PLAIN, decoder, ids
from tests.support.marks import slow

for shipped, name, params in SPECS.values():
    hf.register(name, shipped, **params)
LEFT = torch.ones(3, 20, dtype=torch.long)
LEFT[1, :5] = LEFT[2, :11] = 0
WINDOW = "attention w { attend window(3) }"


def names() -> list[str]:
    return list(transformers.AttentionInterface._global_mapping)


def differ(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def logits(model: Any, implementation: str, *args: Any, **more: Any) -> Tensor:
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        found: Tensor = model(*args, **more).logits
    return found


@pytest.mark.parametrize("pattern", ["sinks", *map(slow, ["dilated", "window"])])
@pytest.mark.parametrize("name", ["Llama", *map(slow, ["Mistral", "GPT-2", "Qwen 3", "Phi 3"])])
def test_logits_and_tokens(name: str, pattern: str) -> None:
    """A pattern wins over a window of the model's. Padding is left out; positions count from the first real token."""
    model, spec, (_, implementation, _) = decoder(name), spec_of(pattern), SPECS[pattern]
    for mask in (torch.ones_like(LEFT), LEFT, LEFT.flip(1)):
        places = positions_of(mask)
        eager = logits(model, "eager", ids(3, 20), attention_mask=dense(spec, mask), position_ids=places)
        ours = logits(model, implementation, ids(3, 20), attention_mask=mask, position_ids=places)
        assert differ(eager[mask == 1], ours[mask == 1]) < 1e-5
    expected = recomputed(model, spec, ids(3, 20), LEFT, 15)
    model.set_attn_implementation(implementation)
    static = {"cache_implementation": "static", "disable_compile": True}
    for how in ({"past_key_values": hf.cache(model)},) if name == "Mistral" else ({}, static):  # its own drop keys
        given = {"attention_mask": LEFT, "max_new_tokens": 15, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(model.generate(ids(3, 20), **given, **how), expected)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", SPECS)
def test_padding_between_tokens(pattern: str) -> None:
    """It is not seen; positions are those in the sequence, as they are where a model has its own mask."""
    model, mask = decoder("Llama"), LEFT.clone()
    mask[0, 7:10] = mask[1, 12] = 0
    whole = dense(spec_of(pattern), mask).masked_fill(mask[:, None, None] == 0, torch.finfo(torch.float32).min)
    places = torch.arange(20).expand(3, -1)
    eager = logits(model, "eager", ids(3, 20), attention_mask=whole, position_ids=places)
    ours = logits(model, SPECS[pattern][1], ids(3, 20), attention_mask=mask, position_ids=places)
    seen = (mask == 1) & (whole[:, 0] == 0).any(2)
    assert differ(eager[seen], ours[seen]) < 1e-5


def test_padding_between_tokens_in_a_static_cache() -> None:
    """Whose tail is not written yet: what is real is said of all of it."""
    hf.register("attnspec:dense-few-sinks", attnspec.compile("sinks", start=2, recent=6, target="dense"))
    model, mask = decoder("Llama"), torch.ones(2, 20, dtype=torch.long)
    mask[0, 5:8] = mask[1, 12] = 0
    cache = transformers.StaticCache(config=model.config, max_cache_len=30)
    whole = logits(model, "attnspec:dense-few-sinks", ids(2, 20), attention_mask=mask, use_cache=False)
    for low, high in ((0, 17), (17, 20)):
        given = {"attention_mask": mask[:, :high], "past_key_values": cache}
        found = logits(model, "attnspec:dense-few-sinks", ids(2, 20)[:, low:high], **given)
        real = mask[:, low:high] == 1
        assert differ(found[real], whole[:, low:high][real]) < 1e-5


@pytest.mark.parametrize("restart", [True, slow(False)])
def test_packed_documents(restart: bool) -> None:
    """Positions begin anew in each, or go on; gradients of all parameters, also where layers run again for them."""
    implementation = f"attnspec:packed-{restart}"
    hf.register(implementation, "sinks", start=2, recent=6, restart=restart)
    model, lengths = decoder("Llama").train(), (7, 1, 19, 13)
    given = {
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "labels": ids(1, 40),
        "use_cache": False,
    }
    found = []
    for way in ("eager", implementation, "checkpointed"):
        more = {"attention_mask": of_documents(spec_of("sinks"), lengths, restart)} if way == "eager" else {}
        if way == "checkpointed":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.set_attn_implementation(way)
        model.zero_grad()
        out = model(ids(1, 40), **given, **more)
        out.loss.backward()
        found.append([out.logits, *(p.grad for p in model.parameters())])
    assert len(found[0]) > 10
    for eager, *ours in zip(*found, strict=True):
        assert all(differ(eager, one) < 1e-5 for one in ours)


@pytest.mark.slow
def test_packed_documents_of_weights_that_decay() -> None:
    """Each is as by itself: kernels of decays know that no key is later."""
    hf.register("attnspec:decay", "attention a { attend causal  linear x  decay -0.1 * (t % 3) }")
    model, places = decoder("Llama"), torch.cat([torch.arange(n) for n in (7, 9, 4)])[None]
    whole = logits(model, "attnspec:decay", ids(2, 20), position_ids=places, use_cache=False)
    for low, high in ((0, 7), (7, 16), (16, 20)):
        alone = logits(model, "attnspec:decay", ids(2, 20)[:, low:high], use_cache=False)
        assert differ(whole[:, low:high], alone) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_gradients(padded: bool) -> None:
    model, mask = decoder("Llama").train(), LEFT if padded else torch.ones_like(LEFT)
    labels = torch.where(mask.roll(1, 1) * mask == 1, ids(3, 20), -100)  # no token is predicted from padding
    found = []
    for way in ("eager", "attnspec:few-sinks", "checkpointed"):
        more = {"attention_mask": dense(spec_of("sinks"), mask) if way == "eager" else mask}
        if way == "checkpointed":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.set_attn_implementation(way)
        model.zero_grad()
        model(ids(3, 20), labels=labels, position_ids=positions_of(mask), use_cache=False, **more).loss.backward()
        found.append([p.grad for p in model.parameters()])
    for eager, *ours in zip(*found, strict=True):
        assert all(differ(eager, one) < 1e-5 for one in ours)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", SPECS)
def test_whole_graphs(pattern: str) -> None:
    """A whole graph for training, one for padding, and one for steps with a static cache."""
    torch.compiler.reset()
    model, implementation = decoder("Llama").train(), SPECS[pattern][1]
    model.set_attn_implementation(implementation)
    graph = {"fullgraph": True, "backend": "aot_eager"}
    found = []
    for way in (model, torch.compile(model, **graph)):
        model.zero_grad()
        padded = way(ids(3, 20), attention_mask=LEFT, use_cache=False).logits
        way(ids(3, 20), labels=ids(3, 20), use_cache=False).loss.backward()
        found.append([padded[LEFT == 1], *(p.grad.clone() for p in model.parameters())])
    assert all(differ(eager, whole) < 1e-5 for eager, whole in zip(*found, strict=True))
    given = {"attention_mask": LEFT, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = model.eval().generate(ids(3, 20), **given)
    model.forward = torch.compile(model.forward, **graph)
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(ids(3, 20), **given, **static), expected)


def by_layer(model: Any, masks: dict[int, Tensor]) -> Any:
    """Let layers of an eager model have masks of their own; those that are not named have the model's."""

    def give(module: Any, args: Any, more: dict[str, Any]) -> Any:
        if module.layer_idx in masks:
            more["attention_mask"] = masks[module.layer_idx]
        return args, more

    return [
        module.register_forward_pre_hook(give, with_kwargs=True)
        for module in model.modules()
        if type(module).__name__.endswith("Attention")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Gemma 2", "gpt-oss", "Gemma 3"])
@pytest.mark.parametrize(
    ("how", "own"),
    [
        ({"pattern": WINDOW}, {1: "w"}),
        ({"pattern": WINDOW, "layers": "sliding_attention"}, {0: "w"}),
        ({"pattern": WINDOW, "layers": [0, 1]}, {0: "w", 1: "w"}),
        ({"pattern": {"full_attention": WINDOW, "sliding_attention": "causal"}}, {0: "causal", 1: "w"}),
        ({"pattern": lambda i: WINDOW if i == 1 else None}, {1: "w"}),
    ],
)
def test_layers(name: str, how: dict[str, Any], own: dict[int, str]) -> None:
    """By type and by number; caps of scores and sinks that a model learns stay, other layers keep their masks."""
    model, mask = decoder(name), torch.ones(3, 20, dtype=torch.long)
    specs = {"w": attnspec.read(WINDOW), "causal": attnspec.read("causal")}
    hooks = by_layer(model, {layer: dense(specs[kind], mask) for layer, kind in own.items()})
    eager = logits(model, "eager", ids(3, 20))
    for hook in hooks:
        hook.remove()
    implementation = f"attnspec:layers-{len(names())}"
    hf.register(implementation, **how)
    assert differ(eager, logits(model, implementation, ids(3, 20))) < 1e-5


@pytest.mark.slow
def test_encoder() -> None:
    """What looks ahead may stand where nothing is predicted; padding is left out there too."""
    hf.register("attnspec:longformer", "longformer", width=4, globals=1)
    drops = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    sizes = {key: value for key, value in PLAIN.items() if key != "num_key_value_heads"}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**{**sizes, **drops})).eval()
    spec = attnspec.read("longformer", params={"width": 4, "globals": 1})
    right = LEFT.flip(1)
    found = []
    for implementation, mask in (("eager", dense(spec, right)), ("attnspec:longformer", right)):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            found.append(model(ids(3, 20), attention_mask=mask).last_hidden_state[right == 1])
    assert differ(*found) < 1e-5


def forward(name: str, implementation: str, **more: Any) -> Any:
    model = decoder(name)
    model.set_attn_implementation(implementation)
    return model(ids(2, 9), **more)


@pytest.mark.parametrize(
    ("pattern", "how", "said"),
    [
        ("packed", {}, "reads `input doc: int[batch, n] sorted`; documents are known by position_ids"),
        ("padded", {}, "reads `input length: int[batch]`; nobody gives it inside a model"),
        ("hierarchical", {}, "the pattern has axes"),
        ("rmt", {}, "attnspec.recurrent(model, ...)"),
        ("reformer", {}, "a computed order"),
        ("attention a { attend q - n_q < k }", {}, "reads `n_q`"),
        ("attention a { attend causal and b == 0 }", {}, "reads `b`"),
        ("attention a { attend causal and q < batch }", {}, "reads `batch`"),
        ({}, {}, "there are no patterns"),
        ({"full_attention": "causal"}, {"layers": 0}, "which layers they are for"),
        (lambda i: "causal", {"layers": 0}, "says itself which layers"),
        ("causal", {"layers": 1.5}, "layers are numbers or types"),
        (attnspec.read("window"), {"width": 3}, "has its parameters already"),
        (None, {"width": 3}, "there is none"),
    ],
)
def test_what_cannot_be_registered(pattern: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(attnspec.CallError, match=re.escape(said)):
        hf.register("attnspec:wrong", pattern, **how)
    assert "attnspec:wrong" not in names()


def test_names() -> None:
    """The same again is nothing; another pattern, or a name of transformers' own, is refused."""

    def first_alone(number: int) -> str | None:
        return None if number else "causal"

    for _ in range(2):
        hf.register("attnspec:first", first_alone)
    hf.register("attnspec:few-sinks", "sinks", start=2, recent=6)
    with pytest.raises(attnspec.CallError, match="'attnspec:few-sinks' stands for another pattern already"):
        hf.register("attnspec:few-sinks", "sinks", start=2, recent=7)
    with pytest.raises(attnspec.CallError, match="'sdpa' is an attention of somebody else's"):
        hf.register("sdpa", "causal")
    for name in ("attnspec:flashy", "mine/causal", "paged|causal", ""):
        with pytest.raises(attnspec.CallError, match=re.escape(f"{name!r} is no name for an attention")):
            hf.register(name, "causal")


@pytest.mark.parametrize(
    ("name", "pattern", "how", "more", "said"),
    [
        ("Llama", "longformer", {}, {}, "query 0 may see key 1 (n = 2), and the model is a decoder"),
        ("Llama", "attention a { attend k <= q and k >= n - 5 }", {}, {}, "query 0 sees key 0 as the last of n = 1"),
        ("Llama", "attention a { attend causal  score s * log(n + 1) }", {}, {}, "Write q + 1 in the place of n"),
        ("Llama", "rope", {}, {}, "the model turns queries and keys itself (rope_parameters)"),
        ("Llama", "causal", {"layers": "sliding_attention"}, {}, "no layer that attends is 'sliding_attention'"),
        ("Llama", "causal", {}, {"attention_mask": torch.ones(2, 9, 9)}, "attention_mask has the shape (2, 9, 9)"),
        (
            "Gemma 2",
            "lolcats",
            {"layers": [0, 1]},
            {},
            "the model has a cap of its scores, and weights that are products of features",
        ),
        ("Llama", "causal", {"layers": [2]}, {}, "no layer that attends is '2': this model has 2 layers"),
        ("Gemma 2", {"local": "causal"}, {}, {}, "of types full_attention, sliding_attention"),
        ("gpt-oss", "attention a { attend causal  sink 0.0 }", {"layers": [0, 1]}, {}, "learns sinks of its own"),
        (
            "Llama",
            "causal",
            {},
            {"attention_mask": torch.ones(2, 1, 9, 9).bool()},
            "a mask of all pairs came to a layer, (2, 1, 9, 9)",
        ),
        ("Llama", "causal", {}, {"output_attentions": True}, "output_attentions"),
    ],
)
def test_what_cannot_be_called(name: str, pattern: Any, how: dict[str, Any], more: dict[str, Any], said: str) -> None:
    implementation = f"attnspec:bad-{len(names())}"
    hf.register(implementation, pattern, **how)
    with pytest.raises(attnspec.CallError, match=re.escape(said)):
        forward(name, implementation, **more)


BRANCHES = {
    "scale": "branch share 0.5 { attend k < 3  scale 0.9 }  branch share 0.5 { attend window(4) }",
    "linear": "branch { attend k <= q - 4  linear elu(x) + 1  divide total }  branch { attend window(4) }",
}
"""Branches for which the scale of a model is not; it is for the one that ends with a window."""


@pytest.mark.parametrize("how", BRANCHES)
def test_the_scale_of_a_model_is_for_branches_that_have_none(how: str) -> None:
    """Not for a branch with a `scale` line, nor for products of features, which are not scores."""
    text, name = f"attention a {{ within causal  mix {{ {BRANCHES[how]} }} }}", f"attnspec:branches-{how}"
    hf.register(name, attnspec.compile(text, target="dense"))
    q, k, v = torch.randn(3, 2, 4, 20, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    layer = decoder("Llama").model.layers[0].self_attn
    out = transformers.AttentionInterface._global_mapping[name](layer, q, k, v, None, scaling=0.1)[0].transpose(1, 2)
    told = attnspec.compile(text.replace("window(4)", "window(4)  scale 0.1"), target="dense")
    torch.testing.assert_close(out.double(), told(q.double(), k.double(), v.double()), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", BRANCHES)
def test_that_scale_in_a_cache(how: str) -> None:
    """Where the other branches are told a scale themselves everything is the same."""
    model, text = decoder("Llama"), f"attention a {{ within causal  mix {{ {BRANCHES[how]} }} }}"
    hf.register(f"attnspec:cached-{how}", text)
    hf.register(f"attnspec:told-{how}", text.replace("window(4)", "window(4)  scale 0.1"))
    for layer in model.model.layers:
        layer.self_attn.scaling = 0.1
    expected = logits(model, f"attnspec:told-{how}", ids(2, 20))
    torch.testing.assert_close(logits(model, f"attnspec:cached-{how}", ids(2, 20)), expected, atol=1e-5, rtol=1e-5)
    kept = hf.cache(model)
    parts = [
        logits(model, f"attnspec:cached-{how}", ids(2, 20)[:, low:high], past_key_values=kept)
        for low, high in ((0, 12), (12, 13), (13, 20))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-5, rtol=1e-5)
    model.model.layers[0].self_attn.scaling = 0.2
    with pytest.raises(attnspec.CallError, match=r"scale is 0\.2 now, and was 0\.1 for the tokens in this cache"):
        logits(model, f"attnspec:cached-{how}", ids(2, 1), past_key_values=kept)


@pytest.mark.slow
def test_one_forward_is_as_its_steps() -> None:
    """Where the length is read and does not matter, and where the position of a query is in its place."""
    hf.register("attnspec:lengths", "attention a { attend causal and k >= min(q, n - 1) - 4  score s * log(q + 2) }")
    model = decoder("Llama")
    model.set_attn_implementation("attnspec:lengths")
    with torch.no_grad():
        whole = model(ids(2, 20), use_cache=False).logits
        for kept in (transformers.DynamicCache(), hf.cache(model)):
            pieces = ids(2, 20).split([7, 6, *[1] * 7], 1)
            steps = [model(piece, past_key_values=kept).logits for piece in pieces]
            assert differ(torch.cat(steps, 1), whole) < 1e-5


@pytest.mark.slow
def test_a_cache_that_drops_what_the_pattern_sees() -> None:
    """The sliding cache of a model keeps what the model's own mask sees."""
    hf.register("attnspec:causal", "causal")
    model = decoder("Mistral")
    model.set_attn_implementation("attnspec:causal")
    with pytest.raises(
        attnspec.CallError, match=r"dropped all keys before position \d+, .*transformers.cache\(model\)"
    ):
        model.generate(ids(1, 20), attention_mask=torch.ones(1, 20), max_new_tokens=3, do_sample=False)
    hf.register("attnspec:four", "window", width=4)
    model.set_attn_implementation("attnspec:four")
    expected = recomputed(decoder("Mistral"), attnspec.read("window", params={"width": 4}), ids(1, 20), LEFT[:1], 9)
    given = {"attention_mask": LEFT[:1], "max_new_tokens": 9, "do_sample": False}
    for how in ({}, {"cache_implementation": "static", "disable_compile": True}):
        assert torch.equal(model.generate(ids(1, 20), **given, **how), expected)
