"""``attnspec bench --decode``: that it compares like with like, and what it prints; times are never tested."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from attnspec.cli.bench.decode import show_decode
from attnspec.runtime.bench import overhead
from attnspec.runtime.bench.decode import READING, ROWS, Row, calls
from attnspec.runtime.bench.overhead import Overhead
from attnspec.runtime.bench.parts import CASES as IN_PARTS
from attnspec.runtime.bench.parts import Case, in_parts
from attnspec.runtime.bench.steps import Steps, generate
from tests.support.command import run
from tests.support.marks import slow

SMALL = {"heads": 4, "kv_heads": 2, "dim": 16}
PARTS = (Case("window", {"width": 12}, n=50, heads=2, kv_heads=1, dim=8),)
STEPS = Steps(steps=12, some=4, width=12, heads=2, kv_heads=1, dim=8)
CASES = [
    Row(40, **SMALL),
    Row(40, n_q=3, window=10, **SMALL),
    slow(Row(40, n_q=3, **SMALL)),
    slow(Row(40, window=10, **SMALL)),
]


@pytest.mark.parametrize(
    "row", [*CASES, slow(Row(40, dtype="bfloat16", **SMALL)), slow(Row(40, dtype="float16", **SMALL))]
)
def test_contenders_compute_the_same(row: Row) -> None:
    found = calls(row)
    assert list(found) == ["attnspec", row.peer, READING]
    mine, theirs = (found[name]() for name in ("attnspec", row.peer))
    assert isinstance(mine, torch.Tensor)
    assert isinstance(theirs, torch.Tensor)
    tolerance = 1e-5 if row.dtype == "float32" else 2e-2
    torch.testing.assert_close(mine, theirs.view(mine.shape), atol=tolerance, rtol=tolerance)


def test_bytes() -> None:
    assert Row(40, **SMALL).bytes == 2 * 2 * 40 * 16 * 4
    assert Row(40, n_q=3, window=10, dtype="float16", **SMALL).bytes == 2 * 2 * 12 * 16 * 2
    assert Row(7, window=10, **SMALL).seen == 7


def test_what_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    price = Overhead("a mask alone", "causal", 11e-6, 22e-6)
    monkeypatch.setattr(overhead, "overheads", lambda: [price])  # its own example measures
    rows = (CASES[0], CASES[1])
    show_decode(rows, PARTS, STEPS, 3, False)
    printed = capsys.readouterr().out.splitlines()
    (head, titles, *lines, empty, about, _, prices), after = printed[:-11], printed[-11:]
    assert not empty
    assert about.startswith("the price of a call, 16 x 16, one head")
    assert prices.split() == ["a", "mask", "alone", "causal", "11", "us", "22", "us"]
    assert "4 query and 2 key heads, dim 16" in head
    assert "medians of 3 interleaved runs" in head
    assert titles.split() == ["queries,", "keys", "attnspec", "SDPA", "is", "floor", "is"]
    assert [line.split()[:3] for line in lines] == [["1", "x", "40"], ["3", "x", "40"]]
    assert "heads as rows" in lines[0]
    assert "window width=10" in lines[1]
    assert after[1].startswith("calls in parts beside the whole call, forward, n = 50, 2 query and 1 key heads, dim 8")
    assert after[3].startswith("window width=12  ")
    assert all("x  <= " in line and line.endswith(("holds", "missed")) for line in after[3:6])
    assert after[7].startswith("12 steps of generation with a cache, window width=12 (full from the beginning)")
    assert [line.split("  ")[0] for line in after[8:]] == ["first 4", "last 4", "at the end"]
    show_decode(rows, PARTS, STEPS, 3, True)
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]
    assert found["overheads"] == [asdict(price)]
    for one, row in zip(found["rows"], rows, strict=True):
        assert (one["n"], one["n_q"], one["pattern"], one["bytes"]) == (40, row.n_q, row.name, row.bytes)
        assert all(len(one["seconds"][name]["all"]) == 3 for name in ("attnspec", "peer", "floor"))
        assert one["of_the_peer"] == one["seconds"]["attnspec"]["median"] / one["seconds"]["peer"]["median"]
    (one,) = found["parts"]
    assert one["pattern"] == "window width=12"
    assert {bar["as"]: bar["limit"] for bar in one["bars"]} == PARTS[0].bars
    assert found["steps"]["times"] == found["steps"]["last"]["seconds"] / found["steps"]["first"]["seconds"]


@pytest.mark.parametrize(
    "case", [*PARTS, slow(Case("longformer", {"width": 9, "globals": 2}, n=50, heads=2, kv_heads=1, dim=8))]
)
def test_parts_compute_the_whole(case: Case) -> None:
    whole, *others = [[torch.cat(of, 2) for of in zip(*call(), strict=True)] for call in in_parts(case).values()]
    for other in others:
        for a, b in zip(whole, other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_window_holds_the_same_at_both_ends() -> None:
    found = generate(STEPS)
    assert found.first.held == found.last.held > 0
    assert min(found.first.seconds, found.last.seconds) > 0


def test_rows() -> None:
    """Those that the bars of decoding are written in."""
    assert {(row.n, row.n_q, row.window, row.dtype) for row in ROWS} >= {
        *((n, n_q, 0, "float32") for n in (256, 4096, 32768) for n_q in (1, 8)),
        (32768, 1, 1024, "float32"),
        (32768, 1, 0, "bfloat16"),
    }
    assert {(row.heads, row.kv_heads, row.dim) for row in ROWS} == {(32, 8, 128)}


@pytest.mark.slow
def test_command() -> None:
    lines = run("bench", "--decode", "--runs", "3", "--threads", "1").stdout.splitlines()
    assert len(lines) == 2 + len(ROWS) + 7 + 3 + 3 * len(IN_PARTS) + 5
    assert "1 thread," in lines[0]
