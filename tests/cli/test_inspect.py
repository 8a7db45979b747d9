"""What ``attnspec inspect`` prints: readable in 80 columns, in ASCII, and with one line that says what it comes to."""

from __future__ import annotations

import io
import re
import sys

import pytest

from attnspec.cli.console import console
from tests.support.command import read_json, run


def test_lines_fit_and_have_no_trailing_blanks() -> None:
    text = run("inspect", "longformer", "-n", "1M", "--gpu", "h100", COLUMNS="").stdout
    figures = text[text.index("cost  ") : text.index("decisions")]
    assert max(map(len, figures.splitlines())) <= 80
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    wide = run("inspect", "longformer", "-n", "1M", "--gpu", "h100", COLUMNS="150").stdout
    row = "NVIDIA H100 SXM (data sheet)  forward "
    assert row in wide
    assert row not in run("inspect", "longformer", "-n", "1M", "--gpu", "h100", COLUMNS="50").stdout


def test_the_last_line_is_the_verdict() -> None:
    said = run("inspect", "window", "width=64", "-n", "16384").stdout.splitlines()[-1]
    assert "x fewer operations than all pairs take; 0.4% of pairs" in said
    none = "attention none { attend q < 0 }"
    assert run("inspect", none, "-n", "64").stdout.endswith("none allows no pair in such a call: the output is zero\n")
    assert "how many pairs there are, inputs decide" in run("inspect", "block_table", "-n", "512").stdout


def test_a_union_that_inputs_do_not_bound_is_said() -> None:
    union = "attention u { input doc: int[n] sorted  attend doc[q] == doc[k]  attend k < 4 }"
    text = run("inspect", union, "-n", "256", "--plan").stdout
    assert "suggest doc[q] == doc[k] bounds no tiles" in text
    assert "inputs: doc[q] == doc[k] bounds no tiles, as it need not hold" in text
    for part in ("attend doc[q] == doc[k] within true", "attend k < 4 within not (doc[q] == doc[k])"):
        alone = f"attention u {{ input doc: int[n] sorted  {part} }}"
        assert "bounds no tiles" not in run("inspect", alone, "-n", "256", "--plan").stdout


def test_weights_beyond_softmax_are_said() -> None:
    text = run("inspect", "latte", "-n", "512", "--dim", "32").stdout
    assert "\nweights  linear, 32 features (q: softmax(x); k: exp(x)), each divided by its sum\n" in text
    assert "weights" not in run("inspect", "window", "-n", "512").stdout
    assert read_json("inspect", "performer", "-n", "512")["weights"] == (
        "linear, 256 features (favor(x, features = 256)), divided by their sum"
    )
    found = read_json("inspect", "gated_delta", "-n", "512")["weights"]
    assert found.endswith(
        "decaying by gate[b, h, t] a step, each value corrected by beta[b, h, k] times what its key recalls"
    )


def test_loops_are_printed_when_asked_for() -> None:
    assert "visit j" not in run("inspect", "window", "-n", "64").stdout
    assert "visit j" in run("inspect", "window", "-n", "64", "--plan").stdout


def test_data_sheets_are_marked() -> None:
    found = read_json("inspect", "causal", "-n", "8192", "--dtype", "bfloat16", "--gpu", "h100")["predictions"]
    (sheet,) = [item for item in found if item["device"].startswith("NVIDIA H100")]
    assert sheet["device"].endswith("(data sheet)")
    assert sheet["forward"] > 0
    assert "says nothing about a stack" in run("inspect", "causal", "--stack", "--gpu", "h100", status=2).stderr


def test_pictures_are_ascii_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    console().print("██▒▒··   ")
    stream.flush()
    stream.seek(0)
    assert stream.read() == "##--..\n"


def test_the_cache_is_printed_with_its_bytes() -> None:
    sizes = ("-n", "4096", "--heads", "8", "--kv-heads", "2", "--dim", "64", "--dtype", "bfloat16")
    said = run("inspect", "sinks", *sizes).stdout
    assert "kept by attnspec.Cache: ring of 1,023 + 4 fixed" in said
    assert "bytes: keys and values of a layer, 2 key heads, batch 1, bfloat16" in said
    assert re.search(r"4,096 tokens +1,027 keys +526 kB", said)
    cache = read_json("inspect", "sinks", *sizes)["cache"]
    assert cache["kept"] == [{"kv_heads": [0, 1], "kept": "ring of 1,023 + 4 fixed", "bound": 1027, "exact": True}]
    assert cache["bytes"][-1] == 1027 * 2 * 2 * 64 * 2
    assert "kept by attnspec.Cache: grows: every key" in run("inspect", "padded", "-n", "64").stdout


@pytest.mark.slow
def test_heads_that_keep_unlike_keys_are_told_apart() -> None:
    said = run("inspect", "longformer_dilated", "-n", "2048").stdout
    assert "kept by attnspec.Cache: key heads 0-5: ring of 256" in said
    assert "kept by attnspec.Cache: key heads 6-7: ring of 512" in said


def test_states_take_the_place_of_keys() -> None:
    """What is left of keys where weights are products of features, and whether calls hand it on."""
    text = run("inspect", "linear", "-n", "4096", "--heads", "8").stdout
    assert "decode  states and keys that must stay for a head after so many tokens\n" in text
    assert re.search(r"4,096 tokens +1 state, 0 keys +133 kB", text)
    assert "  a state is 64 x 65 numbers, float32; calls hand one on anywhere\n" in text
    assert "kept by attnspec.Cache" not in text
    window = read_json("inspect", "linear_window", "-n", "4096")["states"]
    assert (window["needs"][0]["states"][-1], window["needs"][0]["keys"][-1]) == (0, 1023)
    assert window["cut"] == "after 4,096 tokens 0 states and 1,023 keys are to be kept"
    memory = read_json("inspect", "attention a { attend k // 256 < q // 256  linear x }", "-n", "4096")["states"]
    assert (memory["cut"], memory["shape"], memory["needs"][0]["states"][0]) == (256, [64, 64], 1)
    assert "`stable = none` have a state" in read_json("inspect", "performer_causal", "-n", "512")["states"]["cut"]
    assert read_json("inspect", "causal", "-n", "512")["states"] is None


def test_each_branch_says_what_its_pairs_weigh() -> None:
    mix = (
        "attention m { mix { branch { attend window(4) } branch { attend k <= q - 4  linear exp(x)  divide total } } }"
    )
    lines = run("inspect", mix, "-n", "256").stdout.splitlines()
    assert "weights, branch 0  softmax" in lines
    assert "weights, branch 1  linear, 64 features (exp(x)), divided by their sum" in lines
    assert [line.split()[2] for line in lines if line.startswith("n = ")][:3] == ["16", "64", "256"]
