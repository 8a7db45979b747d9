"""The command line on patterns of segments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import attnspec
from attnspec.cli.training import knows_ahead
from attnspec.runtime.bench.calls import shipped_rows
from tests.support.command import read_json, run


def test_inspect_tells_of_segments_and_of_the_whole() -> None:
    text = run("inspect", "rmt", "-n", "1e6", COLUMNS="100").stdout
    rows = [line.split() for line in text.splitlines()]
    assert ["1", "to", "1,953,", "each", "512", "532", "1,134,224", "290", "MFLOP"] in rows
    assert ["segment", "1,954", "64", "84", "28,560", "7.31", "MFLOP"] in rows
    assert ["whole", "1,000,000", "1,039,080", "2.22", "G", "567", "GFLOP"] in rows
    assert "carry written -> read, written: 10 positions, vectors of the model, 20.5 kB\n" in text
    assert "reach  all earlier segments; gradients as far\n" in text
    assert "plain causal: the attention of any decoder serves\n" in text
    assert "cost  one segment, n = 532, 8 heads" in text
    assert "operations grow as n^1.00" in text
    assert "\ndecode" not in text
    verdict = "1,000,000 tokens in 1,954 segments: 1,039,080 positions run; 3,611x fewer operations than all pairs"
    assert text.splitlines()[-1].startswith(verdict)


@pytest.mark.slow
def test_what_is_kept_of_layers_is_said_and_rows_are_few() -> None:
    text = run("inspect", "memory_layers", "-n", "1e6", "--batch", "2", "--dtype", "bfloat16", COLUMNS="150").stdout
    kept = "last 8192 by layer detached: 8,192 positions, keys and values of each layer, 33.6 MB a layer"
    assert kept in text
    assert "3 to 16" in text
    assert "reach  16 segments back for each layer; gradients stay within a segment" in text
    table = text[text.index("segments  ") : text.index("kept between")].splitlines()
    assert len(table) == 9
    own = run("inspect", "rmt_both_ways").stdout
    assert (
        "  372 tokens are read by summaries before they are predicted"
        in run("inspect", "hmt", "segment=8", "-n", "1e3").stdout
    )
    assert "not plain causal: position 0 of `read` sees position 1 of `read`, which comes after it" in own


def test_inspect_as_data() -> None:
    found = read_json("inspect", "hmt", "-n", "2500", "--heads", "2")["segments"]
    assert {key: found[key] for key in ("n", "segments", "positions", "exact", "plain_causal")} == {
        "n": 2500, "segments": 3, "positions": 1026 + 1572 + (452 + 34 + 2 + 452), "exact": True, "plain_causal": True
    }  # fmt: skip
    assert found["foreseen"] == 511 + 451
    assert found["runs"][0]["present"] == {"recalled": 1, "sensory": 0, "token": 1024, "written": 1}
    assert [kept["bytes"] for kept in found["kept"]] == [4 * 128 * 32, 4 * 128 * 300]
    assert found["reach"]["information"] == {"segments": None, "by_layer": 0}
    assert read_json("inspect", "causal", "-n", "64")["segments"] is None


def test_other_commands_take_one_segment(tmp_path: Path) -> None:
    said = "rmt is the pattern of one segment, of at most 512 positions on the axis `token`: give a smaller -n"
    for words in (("draw", "rmt", "-o", str(tmp_path / "mask.svg")), ("run", "rmt"), ("bench", "rmt")):
        assert said in run(*words, "-n", "513", status=2).stderr
    assert run("draw", "rmt", "slots=20", "-o", str(tmp_path / "mask.svg"), "-n", "100").stdout.endswith(
        "rmt, n = 140, head 0, 140 x 140 cells\n"
    )


def test_what_is_carried_is_a_difference() -> None:
    text = run("diff", "rmt", "memory", "1:segment=64", status=1).stdout
    assert text.splitlines()[:4] == [
        "the same pairs; segments differ",
        "segments:",
        "    rmt (the first): recur token by 64",
        "    rmt (the first): carry written -> read, written",
    ]
    assert run("diff", "rmt", "memory", "--pairs").stdout == "the same pairs for every length\n"
    assert "the same pairs; segments differ" in run("diff", "rmt", "rmt", "1:segment=9", status=1).stdout
    assert run("diff", "rmt", "rmt").stdout == "equal for every length\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        (("rmt", "segment=32", "slots=4"), 60),
        (("hmt", "segment=32", "before=8", "store=3", "dim=16"), 3),
        (("transformer_xl", "segment=32", "length=50", "same_length=true"), 3),
    ],
)
def test_a_small_model_trains_over_segments(spec: tuple[str, ...], steps: int, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    said = run("run", *spec, "--text", str(text), "--steps", str(steps), "--heads", "2").stdout
    assert f"{steps} steps of 128 bytes, segment by segment of 32" in " ".join(said.split())
    assert ("the recall has read the first 16 of a segment before they" in " ".join(said.split())) == (spec[0] == "hmt")
    first, last = (float(x) for x in re.findall(r"([\d.]+) (?:bits per byte )?over the", said))
    assert last < (0.4 if steps > 3 else 1.0) * first


@pytest.mark.parametrize(
    ("seen", "ahead"),
    [
        ("false", ""),
        ("k == 1", "position 0 of `token` knows of position 1, after it"),
        ("q == 3 and k == 0", "position 3 of `token` knows of position 4, after it"),
    ],
)
def test_what_knows_ahead_is_found(seen: str, ahead: str) -> None:
    lines = f"token -> token: causal slot -> token: true token -> slot: {seen} recur token by 8 carry slot -> slot"
    assert knows_ahead(attnspec.read(f"attention a {{ axis token[n] axis slot[2] {lines} }}"), 2) == ahead


def test_what_knows_ahead_is_not_trained(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("text " * 100)
    spec = "attention a { axis token[n] token -> token: true recur token by 8 }"
    said = run("run", spec, "--text", str(text), status=2).stderr
    assert "in a position 0 of `token` knows of position 1, after it" in " ".join(said.split())


def test_one_byte_has_no_loss(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("text")
    assert "-n must be at least 2 with --text" in run("run", "rmt", "--text", str(text), "-n", "1", status=2).stderr


def test_a_table_of_all_specs_has_one_segment() -> None:
    (row,) = (row for row in shipped_rows(8192, 8, 8, 1, 64, "float32") if row.name == "rmt")
    sizes = row.setup(row.attend(), torch.device("cpu"), 3).sizes
    assert (sizes.n, sizes.n_q, sizes.m) == (532, 532, 512)
