"""``attnspec bench --flex``: that block masks are the same, and what it prints; times are never tested."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from attnspec.cli.bench import flex as shown
from attnspec.runtime.bench import flex
from attnspec.runtime.bench.clock import Timing


def test_other_blocks_are_seen() -> None:
    names = flex.run("window")
    assert flex.same(names.block_mask(2000), names.block_mask(2000))
    assert not flex.same(names.block_mask(2000), flex.run("causal").block_mask(2000))
    assert not flex.same(names.block_mask(2000), names.block_mask(2048))


@pytest.mark.slow
def test_block_masks_are_compared() -> None:
    found = flex.measure("window", 1, lambda text: None, n=2048, shorter=500)
    assert found.equal
    assert found.faster == found.compiled.median / found.ours.median


def test_what_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ours, compiled, eager = (Timing((t,)) for t in (0.02, 2.0, 4.0))
    made = flex.Made("window", ours, compiled, eager, (1000, 2000, 3000), True)
    for one, said in ((made, "100x as fast  >= 50x  holds"), (replace(made, equal=False), "holds, but other blocks")):
        monkeypatch.setattr(flex, "measure", lambda *_, one=one: one)
        monkeypatch.setattr(flex, "imports", lambda: {"window": 0.01, "causal": 1.5})
        shown.show_flex(("window",), 3, as_json=False)
        out = capsys.readouterr().out
        assert said in out
        assert "causal 1.5 s, bar < 1 s each: missed" in out
    shown.show_flex(("window",), 3, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert data["block_masks"][0]["same_blocks"] is False
    assert data["imports"]["holds"] is False
