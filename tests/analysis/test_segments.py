"""Patterns of segments: what a sequence costs against a loop over its segments, and how far segments reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import attnspec
from attnspec.analysis.causal import why_not_causal
from attnspec.analysis.segment_reach import segment_reach
from attnspec.analysis.segments import segmented
from attnspec.check.check import check_text
from attnspec.relation.lower import lower
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec.axes import lengths, slices
from attnspec.spec.axes import sizes as sizes_of
from attnspec.spec.spec import Spec

MANY = """attention many(s = 5, ragged = 1) {
    axis before[7]
    axis memory[12] keys
    axis token[n]
    axis slot[3]
    axis recalled[2]
    token -> before: k >= q
    token -> memory: k > q
    for h in [1] { token -> token: causal }
    token -> slot: q != k
    slot -> token: true
    before -> before: causal
    recalled -> slot: true
    slot -> recalled: k < q
    recur token by s ragged first
    carry token -> before last 7
    carry token -> memory last 12 by layer
    carry slot -> slot
    carry recalled -> kept last 5
    recall recalled from kept by summary(part = 1 / 3, dim = 4)
}"""
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rmt", {"slots": 2, "segment": 6}),
    ("rmt_both_ways", {"slots": 2, "segment": 6}),
    ("hmt", {"segment": 6, "before": 8}),
    ("transformer_xl", {"segment": 4, "length": 10, "same_length": True}),
    ("memory_layers", {"segment": 4, "length": 9}),
    (MANY, {}),
)


def read(text: str, params: Mapping[str, Any] | None = None) -> Spec:
    return attnspec.read(text, params=params)


def pairs_of(spec: Spec, present: Mapping[str, int], heads: int) -> int:
    """The pairs of a segment whose axes have so many positions, the last ones of them."""
    assert spec.recurrence is not None
    tokens = present[spec.recurrence.recur.axis]
    keys, queries = lengths(spec.axes, tokens)
    mask = spec.mask(keys, queries, heads=heads)
    for name, (rows, columns) in slices(spec.axes, tokens).items():
        absent = sizes_of(spec.axes, tokens)[name] - present[name]
        if rows is not None:
            mask[:, :, rows.start : rows.start + absent] = False
        if columns is not None:
            mask[:, :, :, columns.start : columns.start + absent] = False
    return int(np.count_nonzero(mask))


def loop(spec: Spec, n: int, heads: int) -> list[tuple[int, int, int, int]]:
    """Tokens, positions run, those of the summary and pairs of each segment, carried along one by one."""
    recurrence = spec.recurrence
    assert recurrence is not None
    token, queries = recurrence.recur.axis, [axis.name for axis in spec.axes if axis.queries]
    kept = {i: 0 if recurrence.grows(carry) else 10**9 for i, carry in enumerate(recurrence.carries)}
    found = []
    for tokens in recurrence.segments(n):
        present = dict(sizes_of(spec.axes, tokens))
        asked: dict[str, int] = {}
        for i, carry in enumerate(recurrence.carries):
            for target in set(carry.targets) & present.keys():
                present[target] = min(present[target], kept[i])
            if recurrence.store(carry) and kept[i]:
                assert recurrence.recall is not None
                asked = {token: min(tokens, round(recurrence.recur.size * recurrence.recall.part))}
        if asked:
            inputs = [c for c in recurrence.carries if c.source == token and not c.by_layer]
            asked = {**present, **asked, **dict.fromkeys([name for c in inputs for name in c.targets], 0)}
        summary = sum(asked[name] for name in queries) if asked else 0
        pairs = pairs_of(spec, present, heads) + (pairs_of(spec, asked, heads) if asked else 0)
        found.append((tokens, sum(present[name] for name in queries) + summary, summary, pairs))
        for i, carry in enumerate(recurrence.carries):
            kept[i] += tokens if carry.source == token else sizes_of(spec.axes, tokens)[carry.source]
    return found


@pytest.mark.parametrize(("text", "params"), CASES, ids=[text.split("(")[0] for text, _ in CASES])
def test_a_sequence_is_the_sum_of_its_segments(text: str, params: dict[str, Any]) -> None:
    spec = read(text, params)
    relation = lower(spec, 2)
    for n in (0, 1, 5, 6, 12, 29):
        found = segmented(relation, n, Sizes(1, 1, 2, 2, 3))
        each = [(run.tokens, run.positions, run.summary, run.pairs) for run in found.runs for _ in range(run.times)]
        assert each == [(tokens, positions, read, 3 * pairs) for tokens, positions, read, pairs in loop(spec, n, 2)]
        assert found.segments == len(each)
        assert found.positions == sum(one[1] for one in each)
        assert found.pairs == sum(one[3] for one in each)
        assert found.exact


def test_long_sequences_are_counted_at_once() -> None:
    found = segmented(lower(read("rmt")), 10**9, Sizes(1, 1))
    assert found.segments == 1953125
    assert found.positions == 10**9 + 20 * 1953125
    assert len(found.runs) == 1


def test_memories_that_take_long_to_fill_are_an_upper_bound() -> None:
    relation = lower(read("memory_layers", {"segment": 1, "length": 70}))
    found, short = (segmented(relation, n, Sizes(1, 1)) for n in (90, 60))
    assert (found.exact, short.exact) == (False, True)
    exact = sum(one[3] for one in loop(relation.spec, 90, 1))
    assert exact < found.pairs < 1.01 * exact


def relation(lines: str) -> Relation:
    return lower(check_text(f"attention a {{ {lines} }}"))


AXES = "axis slot[2] axis token[n] axis other[2] token -> token: causal "


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("recur token by 4", "no earlier segment"),
        ("token -> slot: true slot -> token: true recur token by 4 carry slot -> slot", "all; gradients as far"),
        (
            "for h in [3] { token -> slot: true } slot -> token: k == h recur token by 4 carry slot -> slot",
            "all; gradients as far",
        ),
        ("token -> slot: true slot -> token: false recur token by 4 carry slot -> slot", "no earlier segment"),
        ("token -> slot: k > 5 slot -> token: true recur token by 4 carry slot -> slot", "no earlier segment"),
        ("token -> slot: true slot -> token: true recur token by 4 carry slot -> other", "no earlier segment"),
        (
            "token -> slot: true other -> token: true recur token by 4 carry other -> slot",
            "all; gradients as far",
        ),
        (
            "token -> other: true slot -> token: true recur token by 4 carry slot -> slot carry slot -> other",
            "all; gradients as far",
        ),
        (
            "token -> slot: true slot -> token: true recur token by 4 carry slot -> slot horizon 3",
            "all; gradients 2 segments back",
        ),
        (
            "token -> slot: true slot -> token: true recur token by 4 carry slot -> slot detached",
            "all; gradients stay within a segment",
        ),
        (
            "token -> slot: true slot -> token: true recur token by 1 carry token -> slot last 2",
            "2 segments back; gradients as far",
        ),
        (
            "token -> slot: true other -> token: true recur token by 4 carry other -> s last 5 "
            "recall slot from s by summary(part = 1, dim = 3)",
            "all; gradients as far",
        ),
        (
            "slot -> token: true token -> other: true recur token by 4 carry slot -> s last 5 "
            "carry token -> slot last 2 recall other from s by summary(part = 1, dim = 3)",
            "all; gradients as far",
        ),
    ],
)
def test_reach(lines: str, said: str) -> None:
    assert str(segment_reach(relation(AXES + lines))).replace("all earlier segments", "all") == said


@pytest.mark.parametrize(
    ("sees", "carry", "said"),
    [
        ("true", "last 9", "3 segments back for each layer; gradients as far"),
        ("true", "last 9 detached", "3 segments back for each layer; gradients stay within a segment"),
        ("false", "last 9", "no earlier segment"),
    ],
)
def test_reach_by_layer(sees: str, carry: str, said: str) -> None:
    carry = carry.replace(" detached", "") + " by layer" + (" detached" if "detached" in carry else "")
    lines = f"axis memory[9] keys axis token[n] token -> token: causal token -> memory: {sees} recur token by 4 "
    assert str(segment_reach(relation(f"{lines} carry token -> memory {carry}"))) == said


@pytest.mark.parametrize(
    ("name", "params", "why"),
    [
        ("rmt", {}, ""),
        ("hmt", {}, ""),
        ("transformer_xl", {}, ""),
        ("memory_layers", {}, ""),
        ("causal", {}, ""),
        ("rmt_both_ways", {}, "position 0 of `read` sees position 1 of `read`, which comes after it"),
        (
            "transformer_xl",
            {"same_length": True},
            "position 0 of `token` does not see position 0 of `memory`, which does not come after it",
        ),
        ("rope", {}, "`rotate` is no part of plain attention"),
        ("linear", {}, "weights beyond softmax is no part of plain attention"),
        ("packed", {}, "inputs decide what is seen"),
    ],
)
def test_why_a_mask_is_not_plain_causal(name: str, params: dict[str, Any], why: str) -> None:
    assert why_not_causal(lower(read(name, params))) == why


def test_a_mask_is_plain_causal_if_it_is_for_every_length_of_a_segment() -> None:
    lines = "axis token[n] token -> token: k <= q and q - k < {} recur token by 64"
    assert why_not_causal(relation(lines.format(64))) == ""
    assert why_not_causal(relation(lines.format(63))) == (
        "position 63 of `token` does not see position 0 of `token`, which does not come after it"
    )
