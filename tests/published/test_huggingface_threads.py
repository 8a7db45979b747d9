"""Models in many threads, each of which is the first to ask for something that has to be made."""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
import attnspec.transformers as hf
from attnspec.runtime.huggingface.constant import Numbered
from tests.published.patterns import dense
from tests.published.tiny import decoder, ids


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """What jobs give, each in a thread of its own, which all begin together."""
    together, found = Barrier(len(jobs)), [None] * len(jobs)

    def work(place: int) -> None:
        together.wait()
        found[place] = jobs[place]()

    threads = [Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_what_is_made_at_the_same_time_has_numbers_of_its_own() -> None:
    made, all_make = Numbered(), Barrier(3)

    def ask(key: str) -> int:
        return made.number(key, lambda _: (all_make.wait(timeout=30), key)[1])

    numbers = at_once(*(lambda key=key: ask(key) for key in ("a", "b", "a")))  # type: ignore[misc]
    assert numbers[0] == numbers[2] != numbers[1]
    assert [made.numbered(number) for number in numbers] == ["a", "b", "a"]
    assert [ask(key) for key in ("a", "b")] == numbers[:2]


@pytest.mark.slow
def test_models_with_different_patterns() -> None:
    """Patterns that nothing has compiled yet, so that the solver, the compiler and all tables are asked at once."""
    one = torch.ones(1, 30, dtype=torch.long)
    texts = [
        f"attention w {{ attend k < {sinks}  attend window({random.randrange(2, 12)}) within causal }}"
        for sinks in range(5)
    ]
    jobs, expected = [], []
    for text in texts:
        hf.register(f"attnspec:{text}", text)
        model = decoder("Llama")
        with torch.no_grad():
            expected.append(model(ids(1, 30), attention_mask=dense(attnspec.read(text), one)).logits)
        model.set_attn_implementation(f"attnspec:{text}")
        jobs.append(lambda model=model: logits(model))
    for ours, eager in zip(at_once(*jobs), expected, strict=True):
        torch.testing.assert_close(ours, eager, atol=1e-5, rtol=1e-5)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids(1, 30)).logits
    return found
