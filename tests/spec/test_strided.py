"""Patterns over every few positions: their masks are rows and columns of the whole's; what is regular is dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnspec
from attnspec.check.check import check_text
from attnspec.codegen.plan.choose import plan
from attnspec.relation.lower import lower
from attnspec.runtime.distributed.strided import WholeInputs
from attnspec.spec.multiples import reduced
from attnspec.spec.spec import Spec
from attnspec.spec.strided import Stride, firsts, strided, why_not_strided
from tests.support.marks import slow
from tests.support.shipped import SMALL, STRIDABLE, call_of
from tests.support.strategies import Case, cases

STRIDES = st.builds(lambda step, first: Stride(step, first % step), st.integers(1, 9), st.integers(0, 8))


def same_pairs(
    spec: Spec, queries: Stride, keys: Stride, n: int, n_q: int, heads: int, batch: int, inputs: dict[str, Any]
) -> None:
    """Assert that the strided mask, checked from its text too, is made of those rows and columns."""
    kv_heads = heads
    whole = spec.mask(n, n_q, heads, batch, kv_heads, inputs)
    tensors = {name: torch.as_tensor(value) for name, value in inputs.items()}
    made = WholeInputs.of(spec, tensors, spec.sizes(n, n_q, heads, batch), torch.device("cpu"))
    given = {name: t.detach().numpy() for name, t in made.strided.items()}
    first = spec.offset(n, n_q)
    rows = np.arange(queries.first, first + n_q, queries.step)
    seen = rows >= max(0, first)
    part = strided(spec, queries, keys)
    given |= dict(zip(firsts(spec), (np.asarray(queries.first), np.asarray(keys.first)), strict=True))
    given = {item.name: given[item.name] for item in part.inputs if item.name in given}
    for read in (part, check_text(str(part))):
        got = read.mask(len(range(keys.first, n, keys.step)), len(rows), heads, batch, kv_heads, given)
        assert (got[:, :, seen] == whole[:, :, rows[seen] - first][..., keys.first :: keys.step]).all(), str(part)


@pytest.mark.parametrize(
    "name",
    [name if name in ("etc", "longnet", "packed_window", "sinks", "tree") else slow(name) for name in STRIDABLE],
)
def test_masks_of_shipped_specs(name: str) -> None:
    attend = attnspec.compile(name, params=SMALL.get(name, {}))
    (q, k, _), inputs = call_of(attend, 70, 8, torch.float32)
    given = {key: t.detach().numpy() for key, t in inputs.items()}
    for queries, keys in ((Stride(3, 1), Stride(3, 1)), (Stride(8, 3), Stride(8, 5)), (Stride(1, 0), Stride(6, 2))):
        same_pairs(attend.spec, queries, keys, k.shape[2], q.shape[2], 4, 1, given)


@pytest.mark.slow
@given(cases(inputs=True), STRIDES, STRIDES)
def test_masks(case: Case, queries: Stride, keys: Stride) -> None:
    if why_not_strided(case.spec()) is None:
        same_pairs(case.spec(), queries, keys, case.n, case.n_q, case.heads, case.batch, case.inputs)


@pytest.mark.slow
@given(cases(size=3))
def test_reduced_means_the_same(case: Case) -> None:
    pred = case.spec().pred
    again = check_text(f"attention a {{ attend {reduced(pred)} }}")
    sizes = {"heads": case.heads, "n": case.n, "n_q": case.n}
    want = check_text(f"attention a {{ attend {pred} }}")
    assert (again.mask(**sizes) == want.mask(**sizes)).all(), f"{pred} became {reduced(pred)}"


@pytest.mark.parametrize(
    ("text", "step", "same_as"),
    [
        ("attend dilated(64, 16)", 8, "attend dilated(64, 2)"),
        slow("attend dilated(64, 16)", 16, "attend window(64)"),
        ("attend longnet_branch(64, 4)", 4, "attend causal and segment(16)"),
    ],
)
def test_what_is_regular_becomes_dense(text: str, step: int, same_as: str) -> None:
    """A rate is divided by the step; a LongNet branch of rate r over every r-th position is a dense segment."""
    taken = "let taken(i, w, r) = i % w % r == 2"
    branch = "causal and segment(64) and taken(q, 64, 4) and taken(k, 64, 4)"
    spec = check_text(f"attention a {{ {taken}  {text.replace('longnet_branch(64, 4)', branch)} }}")
    for first in range(0, step, 2):
        whole = lower(strided(spec, Stride(step, first), Stride(step, first)))
        pairs = whole.classes[0].pairs
        want = lower(check_text(f"attention a {{ align start  {same_as} }}"))
        if "longnet" in text and first != 2:
            assert pairs.is_empty()
            continue
        assert pairs.equals(want.classes[0].pairs)
        shown = [str(plan(found)).splitlines()[1:] for found in (whole, want)]
        assert shown[0] == shown[1]


def test_residues_share_programs() -> None:
    """Nothing is left of most residues: one kernel computes all."""
    spec = attnspec.read("longformer", width=256, globals=8)
    texts = {str(strided(spec, Stride(8, c), Stride(8, c))) for c in range(8)}
    assert len(texts) == 1


def test_computed_orders_and_states_are_refused() -> None:
    for name, why in (("reformer", "sorts all positions"), ("linear", "sums over"), ("rmt", "segments")):
        spec = attnspec.read(name)
        assert why in (why_not_strided(spec) or "")
        with pytest.raises(ValueError, match=why):
            strided(spec, Stride(4, 0), Stride(4, 0))
