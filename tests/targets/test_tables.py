"""Kernels that read lists of tiles in tables, as where a loop nest would be unwieldy: here every one is said to be."""

from __future__ import annotations

import re

import pytest
import torch

from tests.support.clauses import CLAUSES, HEADS
from tests.support.marks import slow
from tests.support.oracle import agree, tensors
from tests.support.pass_strategies import choosing
from tests.support.patterns import LAYOUTS, PATTERNS
from tests.support.targets import compiled

CPP = ((300, 300, 4, 2), (200, 70, 1, 1), (40, 150, 2, 1), (1, 1, 4, 1))
CALLS = {"cpp": CPP, "triton": ((60, 40, 2, 1),), "triton, more": ((130, 130, 4, 2), (90, 40, 1, 1), (40, 70, 2, 1))}


@pytest.fixture(autouse=True)
def _unwieldy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnspec.codegen.plan.tiling.UNWIELDY", -1)


def tabled(text: str) -> str:
    """A name of its own: kernels are found by what a spec says, and these are of another compiler."""
    return re.sub(r"\battention (\w+)", r"attention \1_tabled", text, count=1)


PATTERN_CASES = [
    *(("cpp", name) for name in ("window", "both", "per head", "affine head", "empty rows")),
    ("triton", "both"),
    *(slow("triton, more", name) for name in ("both", "per head", "empty rows")),
]


@pytest.mark.parametrize(("calls", "name"), PATTERN_CASES)
def test_patterns(calls: str, name: str) -> None:
    attend = compiled(tabled(PATTERNS[name]), calls.partition(",")[0])
    assert attend.plan_for(heads=4).tabled
    for n, n_q, kv_heads, batch in CALLS[calls]:
        agree(attend, *tensors(n, n_q, 4, kv_heads, batch))


LAYOUT_CASES = [
    *(("cpp", "columns last"), ("cpp", "all layouts"), ("triton", "columns last")),
    *(slow("triton, more", name) for name in ("columns last", "all layouts")),
]


@pytest.mark.parametrize(("calls", "name"), LAYOUT_CASES)
def test_layouts(calls: str, name: str) -> None:
    """Passes of several residues are then not chosen."""
    clause, number, _ = LAYOUTS[name]
    attend = compiled(tabled(f"attention a(rates = [1, 2, 4, 3]) {{ {clause} }}"), calls.partition(",")[0])
    with choosing(number):
        made = attend.plan_for(heads=4)
        assert made.tabled
        assert all(item.layout.residues == 1 for item in made.passes)
        for n, n_q, kv_heads, batch in CALLS[calls]:
            agree(attend, *tensors(n, n_q, 4, kv_heads, batch))


def test_tables_know_lengths() -> None:
    """Tiles in tables are found for each call's own lengths (found by reading: they were not given to the sets)."""
    attend = compiled(tabled(f"attention a {{ {CLAUSES['padding'][0]} }}"), "cpp")
    assert attend.plan.tabled
    for lengths in ([50, 150], [150, 60]):
        agree(attend, *tensors(200, heads=HEADS, batch=2), inputs={"length": torch.tensor(lengths)})


DECIDED = {
    "blocks": ("input x: bool[batch, heads, _, _]  within x[q // 32, k // 32]", torch.rand(1, 2, 4, 4) < 0.5),
    "chunks": ("input x: int  within q // x == k // x", torch.tensor(40)),
    "documents": ("input x: int[n] sorted  within x[q] == x[k]", torch.arange(110) // 40),
}


@pytest.mark.parametrize(("target", "name"), [("triton", "blocks"), *(("cpp", name) for name in DECIDED)])
def test_tiles_that_inputs_rule_out(target: str, name: str) -> None:
    """They are in the table, and asked for (found by reading: Triton kernels took blocks there to be true)."""
    declared, x = DECIDED[name]
    attend = compiled(tabled(f"attention a {{ {declared}  attend |q - k| <= 50 }}"), target)
    assert attend.plan.tabled
    agree(attend, *tensors(110, dim=8), inputs={"x": x})
