"""``attnspec bench --linear``: that it compares like with like, and what it prints; times are never tested."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import attnspec
from attnspec.cli.bench.linear import show_linear
from attnspec.runtime.bench import probe
from attnspec.runtime.bench.clock import Timing
from attnspec.runtime.bench.linear import (
    APART,
    CASES,
    CHUNKED,
    ONE_PASS,
    READING,
    SHORTER,
    SOFTMAX,
    Bar,
    Case,
    by_features,
    contenders,
)
from tests.support.marks import slow

CAUSAL = by_features("causal")
FORWARD, BOTH = (Case("causal", CAUSAL, 192, (Bar(CHUNKED, "speed", 5.0),), backward=b, heads=2) for b in (False, True))


@pytest.mark.parametrize("case", [FORWARD, slow(BOTH)])
def test_what_is_written_in_plain_torch_is_the_same(case: Case) -> None:
    found: dict[str, Any] = contenders(case, attnspec.compile(case.text))
    assert list(found) == ["attnspec", CHUNKED]
    mine, theirs = (x() if case.backward else [x()] for x in found.values())
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [c for c in CASES if not c.backward and c.bars[0].peer != APART], ids=lambda c: f"{c.what}, {c.n}"
)
def test_contenders_run(case: Case) -> None:
    small = replace(case, n=2048, heads=2)
    try:
        attend = attnspec.compile(case.text)
    except attnspec.SpecError:
        return  # there is no kernel
    found: dict[str, Any] = contenders(small, attend)
    assert list(found) == ["attnspec", *(bar.peer for bar in case.bars)]
    shapes = {name: tuple(call().shape) for name, call in found.items()}
    assert {shape[2] for name, shape in shapes.items() if name != SHORTER} == {2048}
    assert shapes.get(SHORTER, (16, 2, 128, 64)) == (16, 2, 128, 64)


def test_numbers_are_those_of_their_bars() -> None:
    mine, theirs = Timing((32.0,)), Timing((2.0,))
    assert [Bar("", kind, 1.0).found(mine, theirs) for kind in ("time", "speed", "growth")] == [16.0, 1 / 16, 2.0]
    assert [Bar("", kind, 1.0).holds(2.0) for kind in ("time", "speed", "growth")] == [False, True, False]


def test_cases() -> None:
    """Those that the bars of linear attention are written in."""
    bars = {(case.what, case.n, case.backward, bar.peer, bar.limit) for case in CASES for bar in case.bars}
    assert bars >= {
        ("causal", 16384, False, READING, 1.5),
        ("causal", 16384, False, CHUNKED, 5.0),
        ("causal", 16384, True, CHUNKED, 3.5),
        ("causal", 16384, False, SOFTMAX, 30.0),
        ("causal", 256, False, SOFTMAX, 1.0),
    }
    limits = {"scalar gates": 1.25, "gates by channel": 2.5, "delta": 3.0, "delta and scalar gates": 3.0}
    assert limits.items() <= {case.what: case.bars[0].limit for case in CASES}.items()


def test_what_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "beyond", lambda spec, n, heads, dim: n)  # processes of their own
    softmax = "attention s { attend causal }"
    cases = (
        replace(
            FORWARD,
            bars=(Bar(READING, "time", 1e9), Bar(SOFTMAX, "speed", 1e9), Bar(ONE_PASS, "time")),
            softmax=softmax,
        ),
        replace(FORWARD, text="attention a { include delta }"),
    )
    show_linear(cases, 3, False)
    head, _, first, second, *last, empty, memory = capsys.readouterr().out.splitlines()
    assert "medians of 3 interleaved runs" in head
    assert first.split()[:4] == ["causal", "2", "x", "192"]
    assert first.endswith("holds")
    assert second.endswith("missed")
    compared, _ = last
    assert compared.split()[0] == "addcmul(q,"
    assert compared.rstrip().endswith("its time")  # and no verdict
    assert not empty
    assert memory.endswith("16.4 kB at 16,384 tokens, 1.05 MB at 1,048,576 tokens")
    show_linear(cases[:1], 3, True)
    found = json.loads(capsys.readouterr().out)
    assert found["bytes_beyond_tensors"] == {str(n): n for n in (2**14, 2**20)}
    (row,) = found["rows"]
    mine, theirs = (row["seconds"][name]["median"] for name in ("attnspec", READING))
    assert row["bars"][0] == {"beside": READING, "kind": "time", "limit": 1e9, "found": mine / theirs, "holds": True}


@pytest.mark.slow
def test_memory_does_not_grow() -> None:
    few, many = (probe.beyond(CAUSAL, n, 2, 64) for n in (2**14, 2**18))
    assert many < few + 10_000_000
