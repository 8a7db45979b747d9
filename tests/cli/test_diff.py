"""``attnspec diff`` compares all that a pattern says: pairs, how often they count, and how they weigh."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnspec.analysis.compare import compare, compare_counts
from attnspec.check.check import check_text
from attnspec.relation.lower import lower
from tests.support.command import read_json, run

BRANCHES = ("causal", "window(3)", "causal and q - k >= 3", "q == k", "k <= q and (q - k) % 2 == 0", "window(2)")


def test_pairs() -> None:
    assert run("diff", "causal", "causal").stdout == "equal for every length\n"
    text = run("diff", "causal", "window", "2:width=8", status=1).stdout
    assert "causal (the first) allows all that window (the second) does, and more" in text
    assert "query row 8 sees key 0, at n = 9, n_q = 9" in text
    found = read_json("diff", "window", "causal", status=1)
    assert not found["equal"]
    assert found["first_only"] is None
    assert found["second_only"]["k"] == 0


def test_what_else_differs_is_named_and_is_a_difference() -> None:
    text = run("diff", "rope", "causal", status=1).stdout
    assert text.splitlines()[0] == "the same pairs; rotations differ"
    assert "    causal (the second): none" in text
    text = run("diff", "softcap", "window", "1:width=100", "2:width=100", status=1).stdout
    assert text.startswith("the same pairs; scores differ\nscores:\n    softcap (the first): score ")
    assert run("diff", "rope", "causal", "--pairs").stdout == "the same pairs for every length\n"
    found = read_json("diff", "rope", "rope", "1:theta=500", status=1)
    assert found["first_only"] is None
    assert [item["what"] for item in found["differences"]] == ["rotations"]


def test_pairs_may_be_equal_and_weights_not() -> None:
    lines = run("diff", "linear", "causal", status=1).stdout.splitlines()
    assert lines[0] == "the same pairs; features and divisors differ"
    assert lines[1:3] == ["features:", "    linear (the first): linear elu(x) + 1"]
    assert "    causal (the second): none" in lines
    text = run("diff", "gated_delta", "delta", status=1).stdout
    assert text.startswith("the same pairs; decays differ\n")
    assert run("diff", "lolcats", "lolcats", "1:width=64").stdout == "equal for every length\n"
    assert "the same pairs" in run("diff", "mamba2", "linear", "--pairs").stdout


def test_pairs_and_scores_may_differ_together() -> None:
    first, rest = run("diff", "alibi", "window", "2:width=8", status=1).stdout.split("\n", 1)
    assert first.endswith(" does, and more; scores differ")
    assert "only alibi (the first): query row 8 sees key 0, at n = 9, n_q = 9" in rest


def test_a_decay_by_the_same_factor_is_the_score_that_it_is(tmp_path: Path) -> None:
    path = tmp_path / "slopes.attn"
    path.write_text("attention slopes { attend causal  decay -alibi_slope(h, heads) }")
    assert run("diff", "alibi", str(path)).stdout == "equal for every length\n"
    path.write_text("attention slopes { attend causal  decay -0.5 * alibi_slope(h, heads) }")
    assert run("diff", "alibi", str(path), status=1).stdout.startswith("the same pairs; scores and decays differ\n")


NEAR, FAR = "attend q - k in 0..8", "attend q - k >= 8  score s * 2"


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (
            f"branch {{ {NEAR} }} branch {{ {FAR} }}",
            f"branch {{ {NEAR} }} branch {{ {FAR}  scale 0.5 }}",
            "scales of branch 1",
        ),
        (f"branch share 0.5 {{ {NEAR} }}", f"branch share 0.25 {{ {NEAR} }}", "the weight of branch 0"),
        (
            f"branch {{ {NEAR} }} branch times 2 {{ {FAR} }}",
            f"branch {{ {NEAR} }} branch {{ {FAR} }}",
            "the weight of branch 1",
        ),
        (
            f"branch share 0.5 {{ {NEAR} }} branch share 0.25 {{ attend q - k >= 8 }}",
            f"branch share 0.5 {{ attend q - k >= 8 }} branch share 0.25 {{ {NEAR} }}",
            "pairs of branch 0 pairs of branch 1",
        ),
        (
            f"branch {{ {NEAR}  score s + 1 }} branch {{ {FAR} }}",
            "branch { attend causal  score s + 1 }",
            "numbers of branches",
        ),
    ],
)
def test_branches_are_compared_one_by_one(tmp_path: Path, first: str, second: str, what: str) -> None:
    path = tmp_path / "two.attn"
    path.write_text(f"attention one {{ mix {{ {first} }} }}\nattention two {{ mix {{ {second} }} }}\n")
    found = read_json("diff", f"{path}:one", f"{path}:two", status=1)
    assert what in " ".join(item["what"] for item in found["differences"])
    assert run("diff", f"{path}:one", f"{path}:one").stdout == "equal for every length\n"


def test_lines_that_hold_for_all_are_those_of_each(tmp_path: Path) -> None:
    path = tmp_path / "two.attn"
    inside = " ".join(f"branch {{ {pairs}  score s + 1 }}" for pairs in (NEAR, FAR))
    path.write_text(
        f"attention one {{ score s + 1  mix {{ branch {{ {NEAR} }} branch {{ attend q - k >= 8 }} }} }}\n"
        f"attention two {{ mix {{ {inside.replace('score s * 2', '')} }} }}\n"
    )
    assert run("diff", f"{path}:one", f"{path}:two").stdout == "equal for every length\n"


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("sink 1.0", "sink 2.0", "sinks"),
        ("scale 0.5", "", "scales"),
        ("normalize k", "normalize q", "normalization"),
        ("score s * 2", "score s * 3", "scores"),
        ("align start  score s - 0.5 * q", "score s - 0.5 * q", "positions of queries"),
    ],
)
def test_each_kind_of_line(tmp_path: Path, first: str, second: str, what: str) -> None:
    path = tmp_path / "two.attn"
    path.write_text(f"attention one {{ within causal  {first} }}\nattention two {{ within causal  {second} }}\n")
    found = read_json("diff", f"{path}:one", f"{path}:two", status=1)
    assert what in [item["what"] for item in found["differences"]]


def mixture(branches: list[tuple[str, int]]) -> str:
    lines = (f"branch times {times} {{ attend {text} }}" for text, times in branches)
    return f"attention a {{ mix {{ {' '.join(lines)} }} }}"


mixtures = st.lists(st.tuples(st.sampled_from(BRANCHES), st.integers(1, 2)), min_size=1, max_size=3)


@given(mixtures, mixtures)
def test_counts_are_compared_as_masks_are(first: list[tuple[str, int]], second: list[tuple[str, int]]) -> None:
    specs = [check_text(mixture(branches)) for branches in (first, second)]
    relations = [lower(spec) for spec in specs]
    masks = [spec.mask(12)[0, 0] for spec in specs]
    same = compare(*relations).equal
    assert same == bool(((masks[0] > 0) == (masks[1] > 0)).all())
    if same:
        found = compare_counts(*relations)
        assert (found is None) == bool((masks[0] == masks[1]).all())
        if found is not None:
            at = found.at
            counts = [int(spec.mask(at.n, at.n_q)[0, 0, at.row, at.k]) for spec in specs]
            assert counts == [found.first, found.second]
            assert at.n == at.n_q


def test_disjoint_branches_are_one_softmax(tmp_path: Path) -> None:
    path = tmp_path / "mixed.attn"
    path.write_text(
        "attention cut { mix { branch { attend window(8) } branch { attend causal and q - k >= 8 } } }\n"
        "attention twice { mix { branch { attend window(8) } branch { attend causal } } }\n"
        "attention detached { mix weights detached { branch { attend window(8) } branch { attend causal } } }\n"
    )
    assert run("diff", f"{path}:cut", "causal").stdout == "equal for every length\n"
    text = run("diff", f"{path}:twice", "causal", status=1).stdout
    assert text.startswith("the same pairs, which do not count alike\ntwice (the first) counts a pair twice, causal")
    assert "gradients of the mixture differ" in run("diff", f"{path}:twice", f"{path}:detached", status=1).stdout


def test_a_witness_has_as_many_queries_as_keys_where_it_can() -> None:
    found = read_json("diff", "causal", "dense", status=1)["second_only"]
    assert (found["n"], found["n_q"]) == (2, 2)


ROOTS = """
attention some { align start   attend k <= q   within k < 64 }
attention places { attend (MORTON) <= 3   within causal }
attention few { attend q % 2 + q // 4 % 2 * 2 + q // 16 % 2 * 4 <= 3   within causal }
"""


def test_at_one_length(tmp_path: Path) -> None:
    path = tmp_path / "constants.attn"
    path.write_text(ROOTS.replace("MORTON", " + ".join(f"q // {4**i} % 2 * {2**i}" for i in range(16))))
    assert run("diff", f"{path}:some", "causal", "-n", "64").stdout == "equal at n = 64\n"
    text = run("diff", f"{path}:some", "causal", "-n", "65", status=1).stdout
    assert "only causal (the second): query row 64 sees key 64, at n = 65, n_q = 65" in text
    assert read_json("diff", f"{path}:some", "causal", status=1)["first_only"]["n"] == 1, "rows count from elsewhere"
    # What the solver leaves open is looked at pair by pair.
    assert run("diff", f"{path}:places", f"{path}:few", "-n", "64").stdout == "equal at n = 64\n"
    assert "row 64 sees" in run("diff", f"{path}:places", f"{path}:few", "-n", "80", status=1).stdout
    assert "with axes are compared for every length" in run("diff", "rmt", "rmt", "-n", "9", status=2).stderr
