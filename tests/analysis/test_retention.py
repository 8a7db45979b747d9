"""No query ever asks for a key that a cache has dropped: by force for short sequences, by sets for all lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import attnspec
from attnspec.analysis.cache_need import cache_need
from attnspec.analysis.cache_size import KeyHeads, cache_size, key_heads
from attnspec.analysis.live import groups, live
from attnspec.analysis.retention import EVERY_KEY, Growing, Retention, Ring, retention
from attnspec.relation.count import runs
from attnspec.relation.lower import lower
from attnspec.relation.relation import NoAnswer
from attnspec.relation.sizes import Sizes
from tests.support.marks import slow
from tests.support.shipped import SMALL
from tests.support.strategies import Case, cases

LONGEST = 14


def kept(found: Retention, tokens: int) -> np.ndarray:
    """What is kept after each number of tokens, (tokens + 1, tokens)."""
    out = np.zeros((tokens + 1, tokens), dtype=bool)
    for run in runs(found.pairs().pieces(), tokens + 1):
        for t, low, high in zip(run.x, run.low, run.high, strict=True):
            out[t, low : high + 1 : run.step] = True
    return out


@given(cases())
def test_no_query_asks_for_a_key_that_was_dropped(case: Case) -> None:
    """Whatever the cut between what was there and the queries that come, one or many in a call."""
    spec = case.spec()
    found = retention(lower(spec, case.heads), Sizes(1, 1, case.heads, case.heads))
    for n, n_q in ((LONGEST, LONGEST), (LONGEST, 4), (9, 1)):
        mask = spec.mask(n, n_q, case.heads)[0]
        first = n - n_q if spec.align == "end" else 0
        for item in found:
            held = kept(item.retention, n)
            for h in range(case.heads) if item.heads is None else item.heads:
                for row, k in np.argwhere(mask[h]):
                    assert held[k + 1 : (first + row if spec.align == "end" else n) + 1, k].all()


OFTEN = (
    "window",
    "sinks",
    "longformer",
    "dilated",
    "longformer_dilated",
    "sparse_fixed",
    "packed",
    "longnet_branch",
    "tree",
)


@pytest.mark.parametrize("name", [name if name in OFTEN else slow(name) for name in attnspec.shipped()])
def test_no_query_of_a_shipped_spec_asks_for_a_key_that_was_dropped(name: str) -> None:
    """For every length at once: the live set lies in what is kept."""
    spec = attnspec.read(name, params=SMALL.get(name))
    sizes = Sizes(1, 1, 4, 4)
    relation = lower(spec, 4, 4, 1)
    try:
        found = retention(relation, sizes)
    except NoAnswer:
        assert spec.axes or spec.order
        return
    for item, (members, _, h, b) in zip(found, groups(relation, sizes), strict=True):
        for part in members.parts:
            seen = live(part.pairs, sizes.parameters(h, b), spec.align == "end")
            assert not seen.is_empty() or item.retention == Retention(exact=item.retention.exact)
            assert seen.within(item.retention.pairs())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("window(7)", "ring of 6"),
        ("|q - k| <= 3", "ring of 3"),
        ("causal and (q - k) % 3 == 0", "grows: every key"),
        ("causal and (q - k) % 3 == 0 and q - k < 12", "ring of 9"),
        ("sinks(4)  attend window(1024)  within causal", "ring of 1,023 + 4 fixed"),
        ("40 <= k < 50  attend window(8)  within causal", "ring of 7 + 10 fixed"),
        ("k % 8 == 0 and k < 24 and causal", "3 fixed"),
        ("k % 8 >= 6 and causal  attend q // 8 == k // 8 and causal", "grows: 2 of every 8 keys + ring of 7"),
        ("causal and q // 64 == k // 64 and k % 4 == 1", "ring of every 4th of the last 62"),
        ("q == k", "nothing: no key is seen again"),
        ("k >= n - 4", "ring of 3"),
        ("k <= q and q < 2 * k", "grows: every key"),
        ("n_q > 0", "grows: every key"),
    ],
)
def test_what_is_kept_is_said(text: str, said: str) -> None:
    (item,) = retention(lower(attnspec.read(f"attention a {{ attend {text} }}")), Sizes(1, 1))
    assert str(item.retention) == said


def test_heads_and_entries_keep_what_they_need() -> None:
    text = "attention a { for h in 0..2 { attend window(5) } for h in 2..4 { attend causal } within k >= 10 * b }"
    found = retention(lower(attnspec.read(text), 4), Sizes(1, 1, 4, 4, 2))
    said = {(h, item.b): str(item.retention) for item in found for h in item.heads or range(4)}
    assert said == {(h, b): "ring of 4" if h < 2 else "grows: every key" for h in range(4) for b in range(2)}
    left = attnspec.read("attention a { input doc: int[batch, n] attend doc[q] == doc[k] within window(9) }")
    (item,) = retention(lower(left), Sizes(1, 1))
    assert (str(item.retention), item.retention.exact) == ("ring of 8", False)


def test_a_call_from_position_zero_may_ask_for_any_key_that_its_rows_see() -> None:
    text = "attention a { align start attend k < 4 attend q == k + 2 }"
    (item,) = retention(lower(attnspec.read(text)), Sizes(1, 1))
    assert item.retention == EVERY_KEY


@pytest.mark.parametrize(
    "name", ["window", "sinks", "longformer", "dilated", "segments", "longformer_dilated", "gpt_oss"]
)
def test_no_more_is_kept_than_the_most_that_is_needed(name: str) -> None:
    spec = attnspec.read(name, params=SMALL.get(name))
    relation, sizes = lower(spec, 4), Sizes(1, 1, 4, 4)
    lengths = range(200, 500)
    for item, need in zip(retention(relation, sizes), cache_need(relation, lengths, sizes), strict=True):
        assert item.retention.bound == max(need.keys)


def test_joined_keeps_both() -> None:
    a = Retention((range(4),), (Ring(8),))
    b = Retention((range(2, 6), range(10, 12)), (Ring(5), Ring(16, 4, 1)), Growing(4, (range(1, 2),)))
    both = a.joined(b)
    assert both.fixed == (range(6), range(10, 12))
    assert both.rings == (Ring(8), Ring(16, 4, 1))
    assert (a.bound, both.bound) == (12, None)
    for one in (a, b):
        assert one.pairs().within(both.pairs())


def test_a_key_head_keeps_what_its_query_heads_need() -> None:
    text = (
        "attention a { for h in 0..3 { attend window(5) } for h in 3..8 { attend window(9) attend causal and k < 2 } }"
    )
    sizes = Sizes(1, 1, 8, 4, 3)
    found = retention(lower(attnspec.read(text), 8, 4), sizes)
    near, far = Retention((), (Ring(4),)), Retention((range(2),), (Ring(8),))
    assert key_heads(found, sizes) == (KeyHeads(range(1), near), KeyHeads(range(1, 4), far))
    size = cache_size(found, sizes, (3, 9, 100), 10)
    assert size.bytes == tuple(3 * 10 * keys for keys in (3 * 4, 4 + 3 * (8 + 1), 4 + 3 * (8 + 2)))


@pytest.mark.slow
def test_heads_that_keep_about_the_same_stand_together() -> None:
    """Each head of LongNet takes other residues of segments of one length."""
    sizes = Sizes(1, 1, 8, 8)
    (item,) = key_heads(retention(lower(attnspec.read("longnet"), 8, 8), sizes), sizes)
    assert item.heads == range(8)
    assert item.retention.span == 32_760


@pytest.mark.parametrize(
    "text", ["sinks(4) attend window(9) within causal", "k % 32 >= 24 and causal attend window(9)"]
)
def test_what_is_stored_is_what_is_kept(text: str) -> None:
    (item,) = retention(lower(attnspec.read(f"attention a {{ attend {text} }}")), Sizes(1, 1))
    assert kept(item.retention, 200).sum(1).tolist() == [item.retention.stored(t) for t in range(201)]
