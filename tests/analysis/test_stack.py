"""Reach over stacks of different patterns, against products of dense masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

import attnspec
from attnspec.analysis import reach as module
from attnspec.analysis.reach import Reach, reach
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.sizes import Sizes
from tests.support.command import read_json, run

WINDOW, LONGER = "attention a { attend window(3) }", "attention a { attend window(6) }"
STRIDED = "attention a { attend (q - k) % 5 == 0 and k <= q }"
BLOCKS = "attention a { attend q // 8 == k // 8 }"
STACKS = {
    "local and strided": (WINDOW, STRIDED),
    "strided and local": (STRIDED, WINDOW),
    "five to one": (WINDOW, WINDOW, WINDOW, WINDOW, WINDOW, LONGER),
    "blocks and their shift": (BLOCKS, "attention a { attend (q + 4) // 8 == (k + 4) // 8 }"),
    "never": (BLOCKS, "attention a { attend q // 4 == k // 4 }"),
    "at once": (WINDOW, "attention a { attend causal }"),
    "heads": ("attention a { for h in 0..1 { attend window(2) }  for h in 1..2 { attend q == k + 7 } }", WINDOW),
}


def by_force(masks: Sequence[NDArray[np.bool_]]) -> tuple[int | None, list[float]]:
    """The layers until the lower half is full, and the share after each."""
    n = len(masks[0])
    lower_half, reached, shares = np.tri(n, dtype=bool), np.eye(n, dtype=np.float32), []
    for layer in range(4 * n):
        reached = ((masks[layer % len(masks)] | np.eye(n, dtype=bool)) @ reached > 0).astype(np.float32)
        shares.append(float(reached[lower_half].mean()))
        if shares[-1] == 1.0:
            return layer + 1, shares
    return None, shares


def same(found: Reach, masks: Sequence[NDArray[np.bool_]]) -> None:
    layers, shares = by_force(masks)
    assert found.layers == layers
    assert [s for _, s in found.shares] == pytest.approx(shares[: len(found.shares)])
    assert [number for number, _ in found.shares] == list(range(1, len(found.shares) + 1))
    assert layers is None or len(found.shares) == layers


@pytest.mark.parametrize("texts", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("irregular", [False, True])
def test_stacks(texts: tuple[str, ...], n: int, irregular: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By sets, and where sets are too irregular by a graph of positions."""
    if irregular:

        def refuse(*_: object) -> Reach:
            raise TooHard("a test")

        monkeypatch.setattr(module, "_sets", refuse)
    specs = [attnspec.read(text) for text in texts]
    layers = [(lower(spec, 2), Sizes(n, n, 2, 2)) for spec in specs]
    same(reach(*layers), [spec.mask(n, heads=2)[0].any(axis=0) for spec in specs])


def test_many_rounds_are_found_by_squaring() -> None:
    specs = [attnspec.read(text) for text in (WINDOW, LONGER)]
    found = reach(*((lower(spec), Sizes(300, 300)) for spec in specs))
    assert found.layers == by_force([spec.mask(300)[0, 0] for spec in specs])[0]
    assert found.shares[-1] == (found.layers, 1.0)


def test_the_command_line() -> None:
    found = read_json("inspect", "window", "sparse_strided", "1:width=8", "2:stride=8", "-n", "64", "--stack")
    masks = [attnspec.read("window", width=8).mask(64), attnspec.read("sparse_strided", stride=8).mask(64)]
    layers, shares = by_force([mask[0, 0] for mask in masks])
    assert found["rounds"] == -(-(layers or 0) // 2)
    assert [share for _, share in found["reach"]["shares"]] == pytest.approx(shares)
    text = run("inspect", "window", "causal", "1:width=8", "-n", "64", "--stack").stdout
    assert "1 round (2 layers)" in text
    assert "after layer 2 (causal)  100.0%" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("window", "causal"), "add --stack"),
        (("window", "causal", "3:width=8", "--stack"), "there are 2"),
        (("window", "causal", "--stack", "--tile", "64x64"), "--tile says nothing"),
        (("window", "hierarchical", "--stack"), "hierarchical"),
        (("window", "packed", "--stack"), "doc"),
    ],
)
def test_what_a_stack_cannot_be(words: tuple[str, ...], message: str) -> None:
    assert message in run("inspect", *words, status=2).stderr
