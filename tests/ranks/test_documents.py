"""What documents leave of a schedule: every live pair still once, and nothing sent that no document needs."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import attnspec
from attnspec.codegen.ranks.documents import Extents, documents, restricted
from attnspec.codegen.ranks.planned import Schedule, schedule
from attnspec.codegen.ranks.runs import positions
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from tests.support.marks import slow

N = 60
BOTH = "attention a { input doc: int[batch, n] sorted  attend doc[q] == doc[k] }"
WINDOW = "attention a { input doc: int[batch, n] sorted  attend doc[q] == doc[k] and |q - k| < 9 }"
OPEN = "attention a { input doc: int[batch, n] sorted  attend causal and (doc[q] == doc[k] or k < 2) }"
QUICK = ((BOTH, "zigzag", 3), (OPEN, "contiguous", 4))
ALL = itertools.product(
    ("packed", "packed_window", BOTH, WINDOW, OPEN), ("contiguous", "zigzag", "residue", "greedy"), (3, 4)
)
CASES = [case if case in QUICK else slow(*case) for case in ALL]


def _numbers(seed: int) -> NDArray[np.int64]:
    cuts = [sorted(random.Random(seed + b).sample(range(1, N), 1 + seed % 7)) for b in range(2)]
    return np.stack([np.searchsorted(row, np.arange(N), side="right") * 3 for row in cuts])


def _covered(plan: Schedule) -> NDArray[np.int64]:
    """How often each pair is computed."""
    found = np.zeros((N, N), dtype=np.int64)
    for rank in range(plan.ranks):
        for item in plan.items(rank):
            found[np.ix_(positions([item.queries]), positions([item.keys]))] += 1
    return found


@pytest.mark.parametrize(("text", "kind", "ranks"), CASES)
def test_every_live_pair_is_computed_once(text: str, kind: str, ranks: int) -> None:
    attend = attnspec.compile(text)
    relation = lower(attend.spec)
    whole = schedule(relation, Sizes(N, N, 2, 2, 2), ranks, shard=kind)
    for seed in range(6):
        doc = _numbers(seed)
        plan = restricted(whole, {"doc": Extents.of_numbers(doc, whole.shards)})
        live = attend.mask(N, batch=2, heads=2, doc=torch.from_numpy(doc)).reshape(-1, N, N).any(0).numpy()
        assert (_covered(plan)[live] == 1).all()
        assert plan.received().sum() <= whole.received().sum()


def test_nothing_is_sent_that_no_document_needs() -> None:
    relation = lower(attnspec.read("packed"))
    whole = schedule(relation, Sizes(N, N, 2, 2, 1), 4)
    width = whole.widths.key * 2
    at_cuts, across = np.repeat([0, 1, 2, 3], 15), np.repeat([0, 1, 2], [10, 10, 40])
    plan = restricted(whole, {"doc": Extents.of_numbers(at_cuts, whole.shards)})
    assert not plan.received().any()
    assert plan.steps == 1
    plan = restricted(whole, {"doc": Extents.of_numbers(across, whole.shards)})
    assert plan.received().tolist() == [0, 5 * width, 10 * width, 25 * width]
    assert plan.digest != whole.digest
    offsets = Extents.of_offsets(np.array([0, 10, 20, 20, 60]), whole.shards)
    assert offsets == Extents.of_numbers(across, whole.shards)


def test_which_inputs_cut_a_pattern() -> None:
    def cut_by(text: str) -> frozenset[str]:
        plan = schedule(lower(attnspec.read(text)), Sizes(N, N, 2, 2, 1), 2)
        return documents(plan.relation, plan.placed[0].pattern)

    assert cut_by("packed") == {"doc"}
    assert cut_by("packed_offsets") == {"cu_seqlens"}
    assert cut_by(OPEN) == frozenset()
    assert cut_by("causal") == frozenset()
