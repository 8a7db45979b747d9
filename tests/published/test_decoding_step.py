"""A decoding step of transformers' models: what ``attnspec bench --hf`` compares, and what a single query sees."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import attnspec.transformers as hf
from attnspec.cli.bench.huggingface import show_huggingface
from attnspec.runtime.huggingface.decoding import NAMES, ROWS, Row, calls
from attnspec.runtime.huggingface.masks import mask
from attnspec.runtime.huggingface.step import seen
from attnspec.runtime.huggingface.tiny import CACHE
from tests.published.tiny import decoder, ids
from tests.support.marks import slow

SMALL = {"heads": 4, "kv_heads": 2, "dim": 16}


def smaller(row: Row) -> Row:
    return Row(row.what, 24, **SMALL, layers=2, cache=row.cache, padded=row.padded and 5)


CASES = list(dict.fromkeys(map(smaller, ROWS)))


@pytest.mark.parametrize("row", CASES)
def test_contenders_compute_the_same(row: Row) -> None:
    found = calls(row)
    assert tuple(found) == NAMES
    with torch.no_grad():
        for _ in range(2):  # a step leaves things as they were
            mine, theirs = (call() for call in found.values())
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show_huggingface(3, False, tuple(CASES[:1]))
    about, titles, line = capsys.readouterr().out.splitlines()
    assert about.startswith("a decoding step of Llamas, float32")
    assert titles.split() == ["heads,", "dim", "keys", "attnspec", "sdpa", "is", "bar"]
    assert line.startswith("attention of a layer")
    assert "<= 1.1x" in line
    show_huggingface(3, True, tuple(CASES[:1]))
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["n"] == 24
    assert row["holds"] == (row["times"] <= 1.1)


def standin(keys: int, at: int, real: list[list[int]] | None = None, start: int = 0) -> torch.Tensor:
    batch = 1 if real is None else len(real)
    given = None if real is None else torch.tensor(real)
    sizes = {"batch_size": batch, "q_length": 1, "kv_length": keys, "q_offset": at, "kv_offset": start}
    return mask(**sizes, attention_mask=given)


def test_what_a_single_query_sees() -> None:
    assert seen(standin(9, 8), 1, 9) == slice(0, 9)
    assert seen(standin(9, 3), 1, 9) == slice(0, 4), "the tail of a static cache is not written yet"
    assert seen(standin(4, 9, start=6), 1, 4) == slice(0, 4)
    assert seen(standin(4, 3, [[0, 1, 1, 1]]), 1, 4) == slice(1, 4)
    assert seen(standin(4, 3, [[0, 1, 1, 1]] * 2), 2, 4) == slice(1, 4)
    assert seen(standin(4, 3, [[0, 1, 1, 1], [1, 1, 1, 1]]), 2, 4) is None, "they see unlike things"
    assert seen(standin(4, 3, [[1, 0, 1, 1]]), 1, 4) is None, "padding lies between real tokens"
    assert seen(standin(4, 3, [[0, 0, 0, 0]]), 1, 4) is None, "nothing is seen"
    assert seen(standin(9, 8), 1, 8) is None, "it was made for others, which an error says"


@pytest.mark.parametrize("name", ["Llama", *map(slow, ["Gemma 2", "gpt-oss"])])
def test_a_step_has_gradients(name: str) -> None:
    """With soft caps and sinks too: what is cut out is differentiated as what is masked is."""
    hf.register("attnspec")
    found: dict[str, Any] = {}
    for kind in ("attnspec", "eager"):
        model = decoder(name)
        model.set_attn_implementation(kind)
        cache, given = DynamicCache(config=model.config), ids(1, 12)
        model(given[:, :-1], **{CACHE: cache})
        model(given[:, -1:], **{CACHE: cache}).logits.square().sum().backward()
        found[kind] = {name: p.grad for name, p in model.named_parameters()}
    for name, want in found["eager"].items():
        torch.testing.assert_close(found["attnspec"][name], want, atol=1e-4, rtol=1e-4)
