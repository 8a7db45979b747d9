"""Triton kernels of patterns with inputs, axes, orders, scores, mixtures and all layouts, in triton's interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnspec
from tests.support.clauses import CLAUSES, HEADS
from tests.support.oracle import agree, tensors
from tests.support.pass_strategies import choosing, laid_cases
from tests.support.patterns import LAYOUTS, MIXTURES
from tests.support.strategies import Case, cases

pytest.importorskip("triton")

TILE = (32, 32)
FEW = max(4, settings().max_examples // 40)


@pytest.mark.parametrize("name", CLAUSES)
def test_clauses(name: str) -> None:
    clauses, inputs = CLAUSES[name]
    attend = attnspec.compile(f"attention a {{ {clauses} }}", target="triton", tile=TILE)
    for n, kv_heads, batch in ((73, HEADS, 2), (65, 2, 1)):
        n_q = n + 7 if name == "axes" else n
        q, k, v = tensors(n, n_q, heads=HEADS, kv_heads=kv_heads, batch=batch, seed=n)
        agree(attend, q, k, v, inputs=inputs(batch, n))


@pytest.mark.parametrize("name", ["documents", "local window", "padding", "prefix", "alibi", "sink"])
def test_fewer_queries_and_more(name: str) -> None:
    clauses, inputs = CLAUSES[name]
    attend = attnspec.compile(f"attention a {{ {clauses} }}", target="triton", tile=TILE)
    for n, n_q in ((90, 1), (40, 70)):
        agree(attend, *tensors(n, n_q, heads=HEADS), inputs=inputs(1, n))


def test_names_of_inputs_never_meet() -> None:
    """Kernels have parameters of their own for what is derived from an input, and for its sizes."""
    attend = attnspec.compile(
        "attention a { input doc: int[n] sorted  input doc_first: int[n]  input doc_size0: int[n]"
        "  input size0_in_doc: float[n]  input first_of_doc: float[n]  within causal"
        "  attend doc[q] == doc[k] and k - first(doc, k) < doc_first[q]  attend doc_size0[q] == k"
        "  score s + size0_in_doc[k] - first_of_doc[q] }",
        target="triton",
        tile=TILE,
    )
    n, generator = 70, torch.Generator().manual_seed(0)
    inputs = {
        "doc": torch.arange(n) // 25,
        "doc_first": torch.randint(0, 20, (n,), generator=generator),
        "doc_size0": torch.randint(0, n, (n,), generator=generator),
        "size0_in_doc": torch.randn(n, generator=generator),
        "first_of_doc": torch.randn(n, generator=generator),
    }
    agree(attend, *tensors(n), inputs=inputs)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    clause, number, _ = LAYOUTS[name]
    text = f"# way {number}\nattention a(rates = [1, 2, 4, 3]) {{ {clause} }}"
    attend = attnspec.compile(text, target="triton", tile=None if "grid" in str(LAYOUTS[name]) else TILE)
    with choosing(number):
        for n, n_q, kv_heads in ((130, 130, 2), (70, 31, 4), (40, 70, 1)):
            agree(attend, *tensors(n, n_q, heads=4, kv_heads=kv_heads))


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures(name: str) -> None:
    attend = attnspec.compile(MIXTURES[name], target="triton", tile=TILE)
    for n, n_q, kv_heads in ((120, 120, 2), (70, 30, 4), (1, 1, 1)):
        agree(attend, *tensors(n, n_q, heads=4, kv_heads=kv_heads))


@pytest.mark.parametrize("name", ["columns last", "all layouts"])
def test_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every loop nest declared unwieldy; passes of several residues are then not chosen."""
    from attnspec.codegen.plan import tiling as module
    from attnspec.runtime.core.program import plan
    from attnspec.runtime.triton import module as triton_module
    from attnspec.runtime.triton import tables as triton_data

    def clear() -> None:
        for cache in (plan, triton_module.made, triton_module.plans, triton_data.cached):
            cache.cache_clear()

    clear()
    monkeypatch.setattr(module, "UNWIELDY", -1)
    monkeypatch.setenv("ATTNSPEC_CACHE", str(Path(os.environ["ATTNSPEC_CACHE"]) / "tables"))
    clause, number, _ = LAYOUTS[name]
    try:
        text = f"# tables {number}\nattention a(rates = [1, 2, 4, 3]) {{ {clause} }}"
        attend = attnspec.compile(text, target="triton", tile=TILE)
        with choosing(number):
            for n, n_q, kv_heads, batch in ((130, 130, 4, 2), (90, 40, 1, 1), (40, 70, 2, 1)):
                agree(attend, *tensors(n, n_q, 4, kv_heads, batch))
    finally:
        clear()


@settings(max_examples=2 * FEW)
@given(cases(inputs=True), st.sampled_from([1, 2]))
def test_generated_inputs(case: Case, kv_heads: int) -> None:
    attend = attnspec.compile(case.text, params=case.params, target="triton", tile=TILE)
    if case.heads % kv_heads:
        return
    q, k, v = tensors(case.n, case.n_q, case.heads, kv_heads, case.batch, seed=case.n)
    agree(attend, q, k, v, inputs={name: torch.from_numpy(array) for name, array in case.inputs.items()})


@settings(max_examples=FEW)
@given(laid_cases(), st.integers(0, 12), st.booleans(), st.sampled_from([1, 2, 4]))
def test_generated_layouts(case: Case, number: int, detached: bool, kv_heads: int) -> None:
    """Any way of any spec, mixtures included."""
    text = case.text.replace("mix {", "mix weights detached {") if detached else case.text
    attend = attnspec.compile(f"# way {number}\n{text}", target="triton", tile=TILE)
    with choosing(number):
        for n, n_q in ((case.n, case.n_q), (case.n * 2 + 3, case.n_q * 2 + 1)):
            agree(attend, *tensors(n, n_q, 4, kv_heads, seed=n))


def test_long_positions() -> None:
    """Kernels that count positions in 64 bits, which only lengths over 2^28 need."""
    from attnspec.codegen.triton.module import TritonKey, module
    from attnspec.codegen.triton.schedule import schedule_for
    from attnspec.runtime.core.program import Program
    from attnspec.runtime.triton.module import load, plans

    program = Program.of("attention a { attend window(40)  attend k < 3 }", "<text>", None, {}, TILE)
    schedule = schedule_for(16, 4, 100)
    text = module(plans(program, (), schedule), TritonKey(16, 16, wide=True), schedule)
    path = Path(os.environ["ATTNSPEC_CACHE"]) / "wide.py"
    path.write_text(text, encoding="utf-8")
    q, k, v = tensors(100)
    narrow = attnspec.compile(program.text, target="triton", tile=TILE)(q, k, v)
    out, _, _ = load("wide", str(path)).forward(q.detach(), k.detach(), v.detach(), 0.25, {})
    assert "tl.int64)" in text
    assert torch.equal(out, narrow.detach())


@pytest.mark.parametrize("shares", [1, 2, 5])
@pytest.mark.parametrize("name", ["window", "dense", "padded"])
def test_keys_cut_into_shares(name: str, shares: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding: few queries, whose keys several programs share."""
    from attnspec.runtime.triton import run as triton_call

    monkeypatch.setattr(triton_call, "_shares", lambda *_: shares)
    attend = attnspec.compile(name, target="triton", tile=(16, 32))
    given = {"length": torch.tensor([90, 30])} if name == "padded" else {}
    for n_q in (1, 3):
        agree(attend, *tensors(300, n_q, heads=4, kv_heads=2, batch=2), inputs=given)
