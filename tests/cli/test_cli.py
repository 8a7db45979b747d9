"""The command line as its user sees it: output, exit status, pipes, JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import read_json, run


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.attn"
    path.write_text("attention a(width = 3) {\n    attend q - k < widht\n    attend nothere\n}\n")
    return path


def test_check(wrong: Path) -> None:
    assert run("check", "causal", "longformer").stdout == ""
    done = run("check", str(wrong), status=2)
    assert "did you mean `width`" in done.stderr
    assert f"{wrong}:2:20" in done.stderr
    assert "nothere" in done.stderr
    assert "2 errors" in done.stderr
    assert done.stdout == ""
    found = read_json("check", str(wrong), status=2)
    assert [e["labels"][0]["line"] for e in found["errors"]] == [2, 3]
    assert read_json("check", "causal") == {"errors": []}
    assert "no file nowhere.attn" in run("check", "nowhere.attn", status=2).stderr
    both = run("check", "nowhere.attn", str(wrong), status=2).stderr
    assert "no file nowhere.attn" in both
    assert "nothere" in both
    assert "E017" in run("check", "tests/check/../../specs/causal.attn:other", status=2).stderr
    assert "<stdin>:1" in run("check", "-", stdin="attention a { attend x }", status=2).stderr


def test_check_is_quick_and_light() -> None:
    code = (
        "import sys, attnspec.cli as c\nsys.argv = ['attnspec', 'check', 'longformer']\n"
        "try: c.main()\nfinally: print([m for m in ('torch', 'numpy', 'islpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_fmt(tmp_path: Path) -> None:
    path = tmp_path / "a.attn"
    ugly = "# kept\nattention   a{attend k<=q\n\n\n\n  within  q-k<7 }\n"
    path.write_text(ugly)
    assert run("fmt", "--check", str(path), status=1).stderr.startswith("would reformat")
    assert "-attention   a{" in run("fmt", "--diff", str(path)).stdout
    assert path.read_text() == ugly
    run("fmt", str(path))
    neat = path.read_text()
    assert neat == "# kept\nattention a {\n    attend k <= q\n\n    within q - k < 7\n}\n"
    run("fmt", "--check", str(path))
    assert run("fmt", "-", stdin=ugly).stdout == neat
    path.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in run("fmt", str(path), status=2).stderr
    path.write_text("attention a { attend }")
    run("fmt", str(path), status=2)
    assert path.read_text() == "attention a { attend }"


def test_inspect_says_everything() -> None:
    text = run("inspect", "longformer", "width=64", "-n", "1024").stdout
    for word in ("live pairs", "waste", "clauses", "growth", "empty rows", "decode", "reach", "decisions", "██"):
        assert word in text
    assert "\x1b" not in text
    found = read_json("inspect", "sinks", "-n", "2048", "--heads", "4")
    assert found["cost"]["pairs"] == 4 * sum(
        min(q + 1, max(0, min(4, q - 1023)) + min(q + 1, 1024)) for q in range(2048)
    )
    assert found["reach"]["layers"] == 2
    assert found["exponent"] == pytest.approx(1.0, abs=0.05)
    assert found["decode"][0]["keys"][-1] == 1023 + 4


def test_inspect_at_a_billion_tokens() -> None:
    assert read_json("inspect", "window", "-n", "1000000000")["cost"]["pairs"] == 8 * (1024 * 10**9 - 1024 * 1023 // 2)


def test_inspect_shows_empty_rows_and_heads(tmp_path: Path) -> None:
    path = tmp_path / "a.attn"
    path.write_text("attention gaps { attend k <= q and q >= 10 * h }")
    text = run("inspect", str(path), "-n", "64", "--heads", "3").stdout
    assert "head 2: 20 rows, the first is 0" in text
    assert "heads 0" in text


def test_emit_every_stage() -> None:
    assert run("emit", "window", "--stage", "source").stdout.startswith('"""')
    assert "attend 0 <= q - k and q - k < 9" in run("emit", "window", "width=9", "--stage", "spec").stdout
    assert run("emit", "window", "--stage", "relation").stdout.startswith("relation window")
    assert run("emit", "window").stdout.startswith("plan window")
    assert "attnspec_forward" in run("emit", "window", "--stage", "cpp").stdout
    assert "def block_mask(n, n_q=None" in run("emit", "window", "--stage", "flex", "--tile", "64x64").stdout
    assert "error[E411]" in run("emit", "gpt_oss", "--stage", "flex", status=2).stderr
    assert "attnspec_backward" in run("emit", "window", "--stage", "cpp", "--backward", "--dtype", "bfloat16").stdout


BRANCHES = (
    "attention two { mix { branch times 2 { attend causal  score s * 2 } branch { attend q == k  normalize k } } }"
)


def test_branches_with_lines_of_their_own(tmp_path: Path) -> None:
    """Stages of the whole are those of its pairs; kernels are those of one branch."""
    path = tmp_path / "two.attn"
    path.write_text(BRANCHES)
    assert "branch times 2 {" in run("emit", str(path), "--stage", "spec").stdout
    assert run("emit", str(path), "--stage", "spec", "--branch", "1").stdout == (
        "attention two {\n    attend q == k\n    normalize k\n}\n"
    )
    assert "pass 1, branch 1" in run("emit", str(path)).stdout
    assert "pass 0, branch 0" in run("emit", str(path)).stdout
    assert "branch" not in run("emit", str(path), "--branch", "1").stdout
    for stage in ("cpp", "triton"):
        assert "say --branch 0 to 1" in run("emit", str(path), "--stage", stage, status=2).stderr
        assert "#     attend q == k" in run("emit", str(path), "--stage", stage, "--branch", "1").stdout.replace(
            "//", "#"
        )
    assert "there is no branch 2" in run("emit", str(path), "--branch", "2", status=2).stderr
    assert "say --branch 0 to 1" in run("compile", str(path), status=2).stderr
    text = run("inspect", str(path), "-n", "256").stdout
    assert "branches  each is a call of its own; mixed by their denominators" in text
    assert "branch 0     times 2; score s * 2" in text
    assert "decode, branch 1" in text
    assert "attnspec.Cache holds a cache of each branch" in text
    assert read_json("inspect", str(path), "-n", "256")["branches"] == ["times 2; score s * 2", "normalize k"]


def test_emitted_cpp_compiles_alone(tmp_path: Path) -> None:
    path = tmp_path / "kernel.cpp"
    path.write_text(run("emit", "longformer", "--stage", "cpp").stdout)
    subprocess.run(["c++", "-std=c++17", "-fsyntax-only", "-Wall", "-fopenmp", str(path)], check=True)


def test_list() -> None:
    text = run("list").stdout
    assert "longformer" in text
    found = read_json("list")
    assert {"causal", "longformer", "sparse_strided"} <= {s["name"] for s in found}
    assert all(s["doc"] for s in found)


def test_run_agrees_and_reports() -> None:
    found = read_json("run", "longformer_dilated", "-n", "500", "--dim", "32", "--no-flex")
    assert found["agrees"]
    assert found["heads_checked"] == [0, 6, 7]
    assert set(found["errors"]) == {"out", "dq", "dk", "dv"}
    text = run("run", "window", "width=30", "-n", "300", "--dtype", "bfloat16", "--no-flex").stdout
    assert "agrees with dense attention in float64" in text
    assert "forward + backward" in text


def test_run_trains_on_a_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"the cat sat on the mat. " * 200)
    text = run("run", "longformer", "width=32", "--text", str(path), "-n", "128", "--steps", "40").stdout
    assert "restricted to k <= q" in text
    first, last = (
        float(w) for w in text.splitlines()[-1].replace(",", "").split() if w.replace(".", "", 1).isdigit() and "." in w
    )
    assert last < first / 2
    assert "at least 1,025 are needed" in run("run", "causal", "--text", str(_short(tmp_path)), status=2).stderr
    assert "has no meaning with --text" in run("run", "causal", "--text", str(path), "--dim", "32", status=2).stderr


def _short(tmp_path: Path) -> Path:
    path = tmp_path / "short"
    path.write_bytes(b"too short")
    return path


def test_bench() -> None:
    found = read_json("bench", "window", "width=30", "-n", "256", "--heads", "2", "--no-flex", "--runs", "3")
    assert found[0]["spec"] == "window"
    assert len(found[0]["seconds"]["attnspec"]["all"]) == 3
    assert found[0]["missing"] == {"FlexAttention": "not asked for"}
    assert found[0]["times_faster"]["SDPA causal"] > 0
    text = run("bench", "window", "-n", "256", "--backward", "--no-flex", "--runs", "3").stdout
    assert "forward + backward, float32, n = 256" in text
    assert "give a SPEC, or --suite" in run("bench", status=2).stderr


@pytest.mark.slow  # a new process for each run
def test_bench_startup_and_memory() -> None:
    found = read_json("bench", "window", "width=30", "--startup", "--runs", "3")
    assert found["cached"] < found["cold"]
    assert found["length"] == 10**9
    assert "spec to first output" in run("bench", "window", "width=30", "--startup", "--runs", "3").stdout
    peak = read_json("bench", "window", "width=30", "--memory", "-n", "4096", "--heads", "1")
    assert peak["tensor_bytes"] == 4096 * (8 * 64 + 1) * 4


@pytest.mark.slow
def test_bench_ceilings() -> None:
    assert "need a SPEC" in run("bench", "--memory", status=2).stderr
    machine = read_json("bench", "--ceilings")
    assert machine["flops"]["float32"] > 1e9
    assert machine["bandwidth"] > 1e8
    assert machine["name"] in run("inspect", "window", "-n", "300").stdout  # of which nothing was measured
    assert "--forget goes with --ceilings" in run("bench", "causal", "--forget", status=2).stderr
    assert run("bench", "--ceilings", "--forget").stdout == "forgotten\n"
    assert run("bench", "--ceilings", "--forget").stdout == "there were none\n"
    assert machine["name"] not in run("inspect", "window", "-n", "300").stdout


def test_ceilings_are_the_least_of_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnspec.runtime.bench import ceilings

    clock = iter([0.0, 9.0, 9.0, 12.0, *(12.0 + 3 * i // 2 for i in range(400))])
    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: float(next(clock)))
    assert ceilings._least(lambda: None) <= 3.0
    monkeypatch.setattr(ceilings.os, "getloadavg", lambda: (99.0, 1.0, 1.0))
    assert "kept it busy (load 99.0" in ceilings.busy()
    monkeypatch.setattr(ceilings.os, "getloadavg", lambda: (0.5, 99.0, 99.0))
    assert not ceilings.busy()


def test_measured_times_stand_beside_predictions() -> None:
    run("bench", "window", "width=31", "-n", "256", "--no-flex", "--runs", "3")
    assert "measured here" in run("inspect", "window", "width=31", "-n", "256").stdout


def test_mistakes_on_the_command_line(tmp_path: Path) -> None:
    assert "Did you mean 'inspect'?" in run("inspekt", status=2).stderr
    assert "did you mean longformer" in run("inspect", "longforme", status=2).stderr
    assert "name=value" in run("inspect", "window", "9", status=2).stderr
    assert "given twice" in run("inspect", "window", "width=1", "width=2", status=2).stderr
    assert "widht" in run("inspect", "window", "widht=9", status=2).stderr
    assert "E0" in run("inspect", "window", "width=banana", status=2).stderr
    assert "shared among" in run("inspect", "window", "--heads", "8", "--kv-heads", "3", status=2).stderr
    assert "is not a whole number from 1 to" in run("inspect", "window", "-n", str(2**63), status=2).stderr
    cache = {"ATTNSPEC_CACHE": str(tmp_path / "empty"), "ATTNSPEC_CACHE_LIMIT": "abc"}
    assert "ATTNSPEC_CACHE_LIMIT" in run("run", "window", "width=37", "-n", "64", "--no-flex", status=2, **cache).stderr
    assert "Usage" in run("--help").stdout
    assert "attnspec" in run("--version").stdout


def test_a_closed_pipe_is_not_an_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m attnspec emit longformer --stage cpp | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("// attnspec: longformer")
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_a_narrow_terminal_keeps_the_numbers() -> None:
    text = run("inspect", "longformer", "-n", "1024", COLUMNS="40").stdout
    assert "3,870,592" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "_ATTNSPEC_COMPLETE" in run("completion", shell).stdout


def test_completion_knows_specs_and_parameters() -> None:
    words = {"COMP_WORDS": "attnspec inspect longf", "COMP_CWORD": "2", "_ATTNSPEC_COMPLETE": "bash_complete"}
    assert "longformer" in run(status=0, **words).stdout
    words |= {"COMP_WORDS": "attnspec inspect longformer wi", "COMP_CWORD": "3"}
    assert "width=" in run(status=0, **words).stdout
