"""Calls for which Triton has kernels of its own: long ones, and those of few queries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import attnspec
from attnspec.codegen.triton.module import TritonKey, module
from attnspec.codegen.triton.schedule import schedule_for
from attnspec.runtime.core.program import Program
from attnspec.runtime.triton.module import load, plans
from tests.support.marks import slow
from tests.support.oracle import agree, tensors
from tests.support.shipped import SMALL

pytest.importorskip("triton")

TILE = (32, 32)


def test_long_positions(tmp_path: Path) -> None:
    """Kernels that count positions in 64 bits, which only lengths over 2^28 need."""
    program = Program.of("attention a { attend window(40)  attend k < 3 }", "<text>", None, {}, TILE)
    schedule = schedule_for(16, 4, 100)
    text = module(plans(program, (), schedule), TritonKey(16, 16, wide=True), schedule)
    path = tmp_path / "wide.py"
    path.write_text(text, encoding="utf-8")
    q, k, v = tensors(100)
    narrow = attnspec.compile(program.text, target="triton", tile=TILE)(q, k, v)
    out, *_ = load("wide", str(path)).forward(q.detach(), k.detach(), v.detach(), 0.25, {})
    assert "tl.int64)" in text
    assert torch.equal(out, narrow.detach())


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("padded", 2),
        *(
            slow(*case)
            for case in (
                ("window", 2),
                ("dense", 5),
                ("window", 1),
                ("window", 5),
                ("dense", 1),
                ("dense", 2),
                ("padded", 1),
                ("padded", 5),
            )
        ),
    ],
)
def test_keys_cut_into_shares(name: str, shares: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding: few queries, whose keys several programs share."""
    monkeypatch.setattr("attnspec.runtime.triton.run._shares", lambda *_: shares)
    attend = attnspec.compile(name, target="triton", tile=(16, 32))
    given = {"length": torch.tensor([90, 30])} if name == "padded" else {}
    for n_q in (1, 3):
        agree(attend, *tensors(150, n_q, heads=4, kv_heads=2, batch=2), inputs=given)


FEW = [
    ("longformer", 7, 1, 1),
    ("neighborhood_2d", 4, 1, 4),
    ("dilated", 8, 2, 5),
    ("window", 6, 2, 16),
    ("sinks", 4, 2, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "heads", "kv_heads", "n_q"), FEW)
def test_heads_that_share_a_tile(name: str, heads: int, kv_heads: int, n_q: int) -> None:
    """Also where positions are listed or have strides, and where heads leave rows of the tile empty."""
    attend = attnspec.compile(name, target="triton", params=SMALL[name])
    for dtype in (torch.float32, torch.float16):  # of which the second fills larger tiles
        agree(attend, *tensors(150, n_q, heads=heads, kv_heads=kv_heads, batch=2, dtype=dtype))
