"""Patterns exported to FlexAttention: the same pairs, and the blocks that PyTorch finds by looking at all pairs."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention

import attnspec
from attnspec.analysis.compare import compare
from attnspec.check.check import check_text
from attnspec.codegen.flex.blocks import blocks
from attnspec.codegen.flex.module import module
from attnspec.codegen.flex.refused import require_exportable
from attnspec.codegen.tiles import Tile
from attnspec.errors.diagnostic import SpecError
from attnspec.flex import spec_of
from attnspec.relation.lower import lower
from attnspec.relation.relation import Relation
from attnspec.spec import contents
from tests.support.exported import Exported, exported, same_blocks
from tests.support.marks import slow
from tests.support.oracle import tensors
from tests.support.shipped import SMALL

GOLDEN = Path(__file__).parent / "golden"
BLOCK = Tile(16, 16)
LENGTHS = ((100, 100), (96, 96), (101, 37), (113, 1), (128, 64))


def exportable() -> list[str]:
    found = []
    for name in attnspec.shipped():
        try:
            require_exportable(attnspec.read(name))
        except SpecError:
            continue
        found.append(name)
    return found


EXPORTABLE = exportable()


def some(*quick: str) -> list[object]:
    return [name if name in quick else slow(name) for name in EXPORTABLE]


def small(name: str, n: int, n_q: int | None = None) -> Exported:
    return exported(attnspec.read(name, **SMALL.get(name, {})), BLOCK, n, n_q)


@pytest.mark.slow
def test_what_is_exported() -> None:
    """What is left out changes queries and keys, or is not one softmax over pairs."""
    for name in set(attnspec.shipped()) - set(EXPORTABLE):
        spec = attnspec.read(name)
        more = spec.rotations or spec.normalized or spec.mixture or spec.order or spec.recurrence
        assert more or spec.sink is not None or not spec.softmax_only, name


@pytest.mark.parametrize("name", some("window", "packed"))
def test_blocks_are_those_that_pytorch_finds(name: str) -> None:
    for n, n_q in LENGTHS[:2] if attnspec.read(name).axes else LENGTHS:
        call = small(name, n, n_q)
        assert torch.equal(call.mask, call.oracle), (n, n_q)
        assert same_blocks(call, strict=name not in ("longnet_branch", "swin")), (n, n_q)  # they have no short form


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTABLE)
def test_blocks_of_the_usual_size(name: str) -> None:
    """With the shipped parameters, and lengths around those at which tiles change."""
    spec, heads = attnspec.read(name), 8 if name == "longformer_dilated" else 2
    exact = lower(spec, heads, 1, 1).exact and name != "swin"
    for n, n_q in ((1400, 1400), (1537, 300)):
        if not spec.axes or n == n_q:
            assert same_blocks(exported(spec, None, n, n_q, heads=heads, batch=1), exact), (n, n_q)


@pytest.mark.parametrize("name", some())
def test_flex_attention_computes_what_we_do(name: str) -> None:
    for n, n_q in ((100, 100), (90, 33)):
        spec = attnspec.read(name, **SMALL.get(name, {}))
        if spec.axes and n != n_q:
            continue
        call = small(name, n, n_q)
        s = call.sizes
        q, k, v = (t.detach() for t in tensors(s.n, s.n_q, s.heads, s.kv_heads, s.batch, 16))
        score = call.made("make_score_mod") if hasattr(call.names, "make_score_mod") else call.names.score_mod
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not compiled
            out = flex_attention(
                q, k, v, score_mod=score, block_mask=call.block_mask, scale=call.names.SCALE, enable_gqa=True
            )
        expected = attnspec.compile(name, target="dense", **SMALL.get(name, {}))(q, k, v, inputs=call.inputs)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", some("longformer_dilated"))
def test_the_way_there_and_back(name: str) -> None:
    """What comes back is proven to be the same for every length; where the file is one of a length, at that length."""
    heads = 8 if name == "longformer_dilated" else 4
    spec = attnspec.read(name)
    call = exported(spec, None, 300, heads=heads)
    s = call.sizes
    score = call.made("make_score_mod") if hasattr(call.names, "make_score_mod") else None
    back = spec_of(call.made("make_mask_mod"), s.batch, s.heads, s.n_q, s.n, score_mod=score)
    # Functions of FlexAttention count rows, which with as many queries as keys are positions.
    there, again = (_relation(one, heads) for one in (replace(spec, align="start"), attnspec.read(back.text)))
    if not there.exact:
        mask = attnspec.compile(back.text).mask(s.n, s.n_q, s.heads, s.batch, inputs=back.inputs)
        assert torch.equal(mask.bool(), call.oracle)
    elif not contents.free(spec.pred) & {"n", "n_q", "m"}:
        assert compare(there, again).equal
    else:
        assert torch.equal(*(torch.from_numpy(one.mask(s)).bool() for one in (there, again)))


def _relation(spec: attnspec.Spec, heads: int) -> Relation:
    return lower(spec, heads, heads // 2, 2)


@pytest.mark.parametrize("name", ["window", "longformer_dilated", "packed_offsets", "alibi_window", "block_topk"])
def test_golden(name: str, update_golden: bool) -> None:
    spec, path = attnspec.read(name), GOLDEN / f"{name}.txt"
    found = module(lower(spec, 8, 8, 1))
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8"), f"run pytest --update-golden if {path.name} should change"
    imports = [node for node in ast.walk(ast.parse(found)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert modules <= {"functools", "torch", "torch.nn.attention.flex_attention"}


@pytest.mark.slow
def test_files_are_clean(tmp_path: Path) -> None:
    for name in EXPORTABLE:
        (tmp_path / f"{name}.py").write_text(module(lower(attnspec.read(name), 8, 8, 1)), encoding="utf-8")
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", tmp_path], capture_output=True)
    assert found.returncode == 0, found.stdout.decode()


def test_a_file_has_one_function_for_all_lengths() -> None:
    names = small("window", 100).names
    assert names.block_mask(100).mask_mod is names.block_mask(300).mask_mod is names.mask_mod
    assert names.block_mask(100, 40).mask_mod is names.block_mask(160, 100).mask_mod
    assert names.score_mod is None


@pytest.mark.slow
def test_other_inputs_are_not_compiled_again() -> None:
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, fullgraph=True)
    names, graphs = exported(attnspec.read("packed"), None, 300).names, []
    q = torch.randn(1, 2, 300, 32)
    for seed in range(3):
        doc = torch.randint(0, 4, (1, 300), generator=torch.Generator().manual_seed(seed)).sort().values
        out = compiled(q, q, q, block_mask=names.block_mask(300, doc=doc))
        expected = attnspec.compile("packed", target="dense")(q, q, q, doc=doc)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert len(set(graphs)) == 1


def test_blocks_are_told_by_cases() -> None:
    """A table of blocks tells of whole blocks; with rows that are not aligned to them it does not."""
    (found,) = blocks(lower(attnspec.read("block_topk", block=32), 4, 2, 2), Tile(32, 32))
    assert [str(told.atom) for told in found.told] == ["k // 32 in top[b, h, q // 32]"]
    assert [case.truths for case in found.cases] == [(False,), (True,)]
    assert found.open == ()


@pytest.mark.parametrize(
    ("sizes", "inputs", "message"),
    [
        ((8, 9), {}, "1 to n = 8 queries, not 9"),
        ((8, 0), {}, "1 to n = 8 queries, not 0"),
        ((8,), {"doc": torch.tensor([[0, 1, 0, 1, 1, 1, 1, 1]])}, "must not decrease"),
        ((8,), {"doc": torch.zeros(1, 7, dtype=torch.int64)}, r"has the shape \(1, 7\), not \(1, 8\)"),
        ((8,), {"doc": torch.zeros(8, dtype=torch.int64)}, r"has the shape \(8,\), not \(8, 8\)"),
        ((8,), {"cu_seqlens": torch.tensor([0, 3, 7])}, "end with offset 8"),
        ((8,), {"cu_seqlens": torch.tensor([0, 5, 3, 8])}, "holds offsets that decrease"),
    ],
)
def test_what_a_file_refuses(sizes: tuple[int, ...], inputs: dict[str, torch.Tensor], message: str) -> None:
    name = "packed" if "doc" in inputs else "packed_offsets" if inputs else "window"
    with pytest.raises(ValueError, match=message):
        small(name, 8).names.block_mask(*sizes, **inputs)


def test_divisors_that_come_with_the_call_are_positive() -> None:
    chunks = attnspec.read(
        "attention a { input chunk: int[batch, heads]  attend q // chunk[b, h] == k // chunk[b, h] }"
    )
    call = exported(chunks, BLOCK, 50, 20, heads=2)
    assert same_blocks(call)
    with pytest.raises(ValueError, match=r"chunk\[b, h\] is a divisor: it must be positive"):
        call.names.block_mask(50, chunk=torch.tensor([[3, 0], [1, 2]]))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("reformer", "a computed order"),
        ("bigbird_mixture", "several softmaxes"),
        ("gpt_oss", "a sink"),
        ("rope", "a change of queries and keys"),
        ("gla", "weights beyond softmax"),
        ("rmt", "segments that follow one another"),
    ],
)
def test_what_cannot_be_exported(name: str, why: str) -> None:
    with pytest.raises(SpecError, match=f"E411.*no place for {why}(?s:.*)help"):
        require_exportable(attnspec.read(name))


@pytest.mark.parametrize(
    "lines",
    [
        "input doc: int[batch, n] sorted  within any i in 0..0: k < q  attend doc[q] == doc[k]",
        "input chunk: int[batch, heads]  attend all i in 0..0: q < k  attend q // chunk[b, h] == 2",
        "input length: int[batch]  attend true  attend k < length[b] and (q // 2 ** h) % 3 == 0",
        "input keep: bool[batch, n]  attend keep[b, q // (h % 2 + 1)]  for h in 1..heads { attend q < 3 }",
    ],
)
def test_what_blocks_read_and_the_mask_in_short_does_not(lines: str) -> None:
    call = exported(check_text(f"attention a {{ {lines} }}"), Tile(4, 8), 24, batch=2)
    assert torch.equal(call.mask, call.oracle)
    assert same_blocks(call, strict=False)
