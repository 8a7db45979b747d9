"""What layers cost and keep, before anything runs, and the small Llama that the command line trains and runs."""

from __future__ import annotations

import doctest
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import attnspec
import attnspec.report.model
import attnspec.runtime.huggingface.cache
import attnspec.runtime.huggingface.register
import attnspec.transformers as hf
from tests.published.tiny import BOTH, DECODERS, PLAIN, decoder, ids
from tests.support.command import read_json, run
from tests.support.marks import slow

N = 100


def test_of_a_pattern() -> None:
    """Costs are those of the pattern by itself; the cache is what is then held, but for room."""
    hf.register("attnspec:report", "sinks", start=2, recent=30)
    model = decoder("Llama")
    model.set_attn_implementation("attnspec:report")
    found = hf.report(model, n=N, batch=3)
    (layers,) = found.layers
    alone = attnspec.compile("sinks", start=2, recent=30)
    assert layers.cost == alone.cost(n=N, heads=4, kv_heads=2, batch=3, dim=8)
    assert (layers.numbers, layers.own, layers.kept) == ((0, 1), False, "ring of 29 + 2 fixed")
    assert (found.flops, found.cache) == (2 * layers.cost.flops, 2 * layers.cache)
    position = 3 * 2 * 2 * 8 * 4  # batch, key heads, keys and values, dim, float32
    assert (layers.cache, layers.all_keys) == (31 * position, N * position)
    kept = hf.cache(model)
    with torch.no_grad():
        model(ids(3, N), past_key_values=kept, use_cache=True)
    assert found.cache <= kept.bytes <= found.cache + 2 * 32 * position
    text = str(found)
    assert text.startswith("LlamaForCausalLM  2 layers, 4 heads (2 for keys), dim 8, float32, n = 100, batch 3\n")
    assert re.search(r"^0-1 +sinks\(start=2, recent=30\) .* 31\.0% +ring of 29 \+ 2 fixed$", text, re.MULTILINE)
    assert json.loads(json.dumps(found.to_dict()))["layers"][0]["kept"] == layers.kept


@pytest.mark.parametrize("name", ["Gemma 2", *(slow(name) for name in DECODERS if name != "Gemma 2")])
def test_of_own_masks(name: str) -> None:
    """Of a model with any attention, here eager's."""
    model = decoder(name)
    found = hf.report(model, n=N)
    assert all(one.own for one in found.layers)
    kinds: Any = getattr(model.config, "layer_types", None) or ["full_attention"] * 2
    for one in found.layers:
        near = kinds[one.numbers[0]] != "full_attention" or name == "Mistral"
        assert (one.kept == "ring of 7") == near
        assert one.cost.pairs < (4 * N * 8 + 1 if near else 4 * N * (N + 1) // 2 + 1)
    assert str(found).count("its own: ") == len(found.layers)


_ENCODER = {key: value for key, value in PLAIN.items() if key != "num_key_value_heads"}
_NEO = {"vocab_size": 48, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64}
_NEAR = {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPTNeoForCausalLM": ("GPTNeo", {**_NEO, "attention_types": [[["global", "local"], 1]], "window_size": 4}),
    "BertModel": ("Bert", _ENCODER),
    "BertLMHeadModel": ("Bert", {**_ENCODER, "is_decoder": True}),
    "ModernBertModel": ("ModernBert", {**_ENCODER, **_NEAR}),
    "Gemma3TextModel": ("Gemma3Text", {**PLAIN, **BOTH, "use_bidirectional_attention": True}),
}


@pytest.mark.parametrize("name", [*OTHERS, *map(slow, DECODERS)])
def test_own_masks_are_what_eager_attention_sees(name: str) -> None:
    """Where it has weights."""
    if name in OTHERS:
        kind, more = OTHERS[name]
        model = getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**more)).eval()
    else:
        model = decoder(name)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(ids(1, 20), output_attentions=True).attentions
    reported = hf.report(model, n=20).layers
    for number, seen in enumerate(weights):
        (layers,) = [one for one in reported if number in one.numbers]
        assert layers.cost.pairs == int((seen > 0).sum())


def test_own_masks_that_are_not_known() -> None:
    config = transformers.LongformerConfig(**{**_ENCODER, "attention_window": 8})
    with pytest.raises(attnspec.CallError, match="Longformer computes its attention itself, and what it attends to is"):
        hf.report(transformers.LongformerModel(config), n=64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", [attnspec.runtime.huggingface.register, attnspec.runtime.huggingface.cache, attnspec.report.model]
)
def test_docstrings(module: Any) -> None:
    """Which are not collected elsewhere: they want transformers."""
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 5
    assert not found.failed


def test_wrong_sizes() -> None:
    with pytest.raises(attnspec.CallError, match="Linear has no config, as models of transformers do"):
        hf.report(torch.nn.Linear(2, 2), n=4)
    with pytest.raises(attnspec.CallError, match="n is a whole number from 1 on, not 0"):
        hf.report(decoder("Llama"), n=0)


@pytest.mark.slow
def test_run(tmp_path: Path) -> None:
    """It learns, writes with a cache that is smaller than all keys, and is compared with the whole sequence."""
    text = tmp_path / "text.txt"
    text.write_text("round and round the rugged rock the ragged rascal ran. " * 40)
    words = ("run", "--hf", "TINY", "--text", str(text), "-n", "200", "recent=40")
    found = read_json(*words, "--steps", "40")
    assert found["agrees"]
    assert found["bits_after"] < found["bits_before"] - 2
    assert found["kept"] == "ring of 39 + 4 fixed"
    assert found["cache_bytes"] < found["all_keys"] / 4
    said = run(*words, "--steps", "3").stdout
    for part in (
        "0-1     sinks(start=4, recent=40)",
        "trains on text.txt (2,200 bytes), 3 steps",
        "right: logits with",
    ):
        assert part in said
    said = run("run", "longformer", "width=32", "--hf", "tiny", "--steps", "1").stdout
    assert "longformer looks ahead; to predict the next byte it is restricted to k <= q" in said


def test_run_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("--queries=3", "--ranks=2", "--no-flex", "--input=a=1"):
        assert "has no meaning with --hf" in run("run", "--hf", "tiny", word, status=2).stderr
    for heads in ("3", "128"):
        refused = run("run", "--hf", "tiny", "--heads", heads, status=2).stderr
        assert f"the width of --hf tiny, 128, is no multiple of {2 * int(heads)}" in refused
    for spec, said in (
        ("rmt", "attnspec.recurrent(model, ...). (--hf takes what can stand in the place of a mask: a pattern of one"),
        ("rmt", "`attnspec run rmt --text FILE` trains a small model with it"),
        ("hierarchical", "the pattern has axes: write it over q and k. (--hf takes"),
        ("hierarchical", "`attnspec run hierarchical` runs it by itself"),
    ):
        assert said in " ".join(run("run", spec, "--hf", "tiny", status=2).stderr.split())
    assert "Missing argument 'SPEC'" in run("run", status=2).stderr
    for name in [name for name in sys.modules if name.startswith("attnspec.runtime.huggingface")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "--hf needs transformers: pip install 'attnspec[hf]'" in run("run", "--hf", "tiny", status=2).stderr
