"""The command line on every kind of spec: inputs, mixtures, axes, orders and scores; and what it says of decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import read_json, run
from tests.support.targets import slow

MANY = """
attention docs { input doc: int[batch, n] sorted attend doc[q] == doc[k] and k <= q }
attention padded { input length: int[batch] within k < length }
attention ordered {
    order by lsh(buckets = 8, rounds = 2)
    attend 0 <= q.slot // 32 - k.slot // 32 <= 1 and q.bucket == k.bucket
}
attention memory { axis token[n] axis memory[4] token -> token: causal token -> memory: true memory -> memory: true }
attention mixed { mix (w, r) in [(64, 1), (99, 2)] { attend k <= q and q // w == k // w and (q - k) % r == 0 } }
attention scored(width = 100) {
    input slope: float[heads]
    attend window(width)
    score s + slope[h] * (k - q)
    sink slope[h]
    rotate rope(theta = 10000)
}
attention listed { input top: int[heads, n // 64, 2] attend k // 64 in top[h, q // 64] attend q == k }
"""
NAMES = ("docs", "padded", "ordered", "memory", "mixed", "scored", "listed")


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("specs") / "many.attn"
    path.write_text(MANY)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_inspect_and_emit_every_kind_of_spec(many: Path, name: str) -> None:
    spec = f"{many}:{name}"
    text = run("inspect", spec, "-n", "512", "--plan").stdout
    for word in ("██", "cost", "growth", "empty rows", "decode", "reach", "decisions", "pass 0"):
        assert word in text
    found = read_json("inspect", spec, "-n", "512")
    assert found["decisions"][0]["passes"]
    for stage in ("spec", "relation", "plan", "cpp"):
        assert run("emit", spec, "--stage", stage).stdout


@pytest.mark.parametrize("name", [name if name == "mixed" else slow(name) for name in NAMES])
def test_run_agrees_for_every_kind_of_spec(many: Path, name: str) -> None:
    found = read_json("run", f"{many}:{name}", "-n", "256", "--heads", "2", "--dim", "32", "--no-flex")
    assert found["agrees"], found["errors"]
    assert set(found["errors"]) == {"out", "dq", "dk", "dv"} | ({"dslope"} if name == "scored" else set())
    assert found["rows_checked"] == (260 if name == "memory" else 256)


def test_inspect_shows_example_inputs(many: Path) -> None:
    text = run("inspect", f"{many}:docs", "-n", "1024").stdout
    assert "with example inputs: doc (documents of mean length 512)" in text
    assert "at most" in text
    assert "empty rows  the answer depends on the input `doc`" in text
    found = read_json("inspect", f"{many}:docs", "-n", "1024")
    assert not found["exact"]
    assert found["looked"]["heads"][0]["pairs"] < 1024 * 1025 // 2
    assert found["cost"]["pairs"] == 8 * 1024 * 1025 // 2
    padded = read_json("inspect", f"{many}:padded", "-n", "1024")
    assert padded["exact"]
    assert padded["cost"]["pairs"] == 8 * 1024 * int(padded["examples"].split()[-1].strip("()").replace(",", ""))
    given = read_json("inspect", f"{many}:padded", "-n", "1024", "--input", "length=77")
    assert (given["given"], given["examples"], given["cost"]["pairs"]) == (True, "length (77)", 8 * 1024 * 77)
    axes = read_json("inspect", f"{many}:memory", "-n", "1024")
    assert axes["axes"]["memory"] == [[1024, 1028], [1024, 1028]]
    assert axes["cost"]["sizes"]["n"] == 1028
    assert "leave out --queries" in run("inspect", f"{many}:memory", "--queries", "9", status=2).stderr
    assert "as many queries as keys" in run("inspect", f"{many}:ordered", "--queries", "9", status=2).stderr


def test_inspect_at_a_billion_tokens_with_inputs(many: Path) -> None:
    found = read_json("inspect", f"{many}:docs", "-n", "1000000000")
    assert found["cost"]["pairs"] == 8 * 10**9 * (10**9 + 1) // 2
    assert 1024 <= found["looked"]["n"] < 10**5


def test_inspect_explains_its_decisions() -> None:
    found = read_json("inspect", "dilated", "width=64", "rate=8", "-n", "4096")
    branch = found["decisions"][0]["branches"][0]
    chosen = branch["candidates"][branch["chosen"]]
    assert found["decisions"][0]["passes"][0]["layout"] == "residue(8)"
    assert "residue(8)" in branch["reason"]
    assert chosen["cost"] == min(c["cost"] for c in branch["candidates"])
    assert len({c["pairs"] for c in branch["candidates"]}) == 1
    assert all(c["waste"] == c["computed"] / c["pairs"] for c in branch["candidates"])
    text = run("inspect", "dilated", "width=64", "rate=8", "-n", "4096").stdout
    assert "-> residue(8)" in text
    assert "because its estimated time is the least" in text


@pytest.mark.slow
def test_inspect_suggests_a_parameter_that_fits_tiles() -> None:
    found = read_json("inspect", "segments", "size=500", "-n", "8192")["suggestions"]
    assert [(s["name"], s["now"], s["value"]) for s in found] == [("size", 500, 512)]
    assert found[0]["waste"] == 1
    assert found[0]["waste_now"] > 1.1
    assert "suggest size=512 (now 500): waste " in run("inspect", "segments", "size=500", "-n", "8192").stdout
    assert read_json("inspect", "segments", "size=512", "-n", "8192")["suggestions"] == []


@pytest.mark.slow
def test_tile_and_layout_can_be_asked_for() -> None:
    found = read_json("inspect", "dilated", "-n", "4096", "--layout", "identity", "--tile", "64x32")
    assert found["decisions"][0]["passes"][0]["layout"] == "identity"
    assert found["decisions"][0]["passes"][0]["tile"] == {"rows": 64, "columns": 32}
    assert "tiles of 64 x 32" in run("emit", "dilated", "--tile", "64x32").stdout
    assert "layout" not in run("emit", "dilated", "--layout", "identity").stdout
    asked = read_json(
        "run", "dilated", "width=8", "-n", "200", "--layout", "identity", "--tile", "32x64", "--no-flex", "--heads", "1"
    )
    assert asked["agrees"]
    assert "two multiples of 16" in run("emit", "dilated", "--tile", "100", status=2).stderr


def test_draw_and_diff_with_inputs(many: Path, tmp_path: Path) -> None:
    svg = tmp_path / "mask.svg"
    assert "with example inputs: doc" in run("draw", f"{many}:docs", "-o", str(svg)).stdout
    assert svg.read_text().startswith("<svg")
    assert "smaller -n" in run("draw", f"{many}:docs", "-o", str(svg), "-n", "100000000", status=2).stderr
    assert run("diff", f"{many}:docs", f"{many}:docs").stdout == "equal for every length\n"
    assert "depends on the input `doc`" in run("diff", f"{many}:docs", "window", status=2).stderr
    text = run("diff", f"{many}:padded", "dense", status=1).stdout
    assert "length = " in text


@pytest.mark.slow
def test_bench_with_inputs_and_scores(many: Path) -> None:
    found = read_json("bench", f"{many}:docs", "-n", "256", "--heads", "2", "--no-flex", "--runs", "3")[0]
    assert found["preparation"]["median"] > 0
    assert found["preparation"]["share"] > 0
    assert found["times_faster"]["SDPA mask"] > 0
    text = run("bench", f"{many}:docs", "-n", "256", "--heads", "2", "--no-flex", "--runs", "3").stdout
    assert "preparation " in text
    assert "% of the forward time" in text
    scored = read_json("bench", f"{many}:scored", "-n", "256", "--heads", "2", "--runs", "3")[0]
    assert scored["missing"] == dict.fromkeys(("SDPA mask", "FlexAttention"), "cannot express a sink")
    assert scored["times_faster"]["SDPA causal"] > 0


@pytest.mark.slow  # a kernel for each
def test_a_suite_times_every_shipped_spec() -> None:
    words = ("bench", "--suite", "-n", "256", "--heads", "8", "--dim", "16", "--no-flex", "--runs", "3")
    found = read_json(*words)
    assert [row.get("error") for row in found] == [None] * len(found)
    assert {"causal", "longnet", "reformer", "packed", "gpt_oss"} <= {row["spec"] for row in found}


def test_a_suite_is_not_ended_by_one_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from attnspec.cli.commands.bench import command
    from attnspec.runtime.bench import calls

    monkeypatch.setattr(calls, "with_kernels", lambda: ("causal", "longformer_dilated"))
    words = ["--suite", "--no-flex", "-n", "128", "--heads", "16", "--runs", "3", "--dim", "16"]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    assert "failed: SpecError" in done.output
    done = CliRunner().invoke(command, [*words, "--json"])
    found = json.loads(done.stdout)
    assert found[0]["seconds"]
    assert found[1]["error"].startswith("failed: ")


def test_run_trains_with_learned_inputs(many: Path, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"the cat sat on the mat. " * 200)
    for name in ("scored", "docs"):
        text = run("run", f"{many}:{name}", "--text", str(path), "-n", "64", "--steps", "10").stdout
        assert "loss: " in text
    assert "has axes" in run("run", f"{many}:memory", "--text", str(path), status=2).stderr
