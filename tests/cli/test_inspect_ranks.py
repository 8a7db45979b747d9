"""What ``attnspec inspect --ranks`` prints, and what it refuses."""

from __future__ import annotations

import pytest

from tests.support.command import read_json, run

LAYER = ("--heads", "32", "--kv-heads", "8", "--dim", "128", "--dtype", "bfloat16")


def test_a_window_needs_a_halo() -> None:
    said = run("inspect", "window", "width=4096", "-n", "1M", *LAYER, "--ranks", "64").stdout
    assert "ranks 64    contiguous shards of 16,384 positions, h100, 8 a node" in said
    assert "work        137 G pairs, 1.002 largest over mean" in said
    assert "receives    16.8 MB a rank at most (0.4% of all keys), 1 message" in said
    assert "memory      keys held at most 20,479 of 1,048,576" in said
    assert "messages of 383 us forward, hidden" in said
    assert "Ulysses: at most 8 ranks" in said
    assert "not measured" in said


def test_causal_is_dealt_so_that_work_is_equal() -> None:
    found = read_json("inspect", "causal", "-n", "64k", *LAYER, "--ranks", "4", "--machine", "gb200-nvl72")
    assert (found["machine"], found["chosen"]) == ("gb200-nvl72", "zigzag")
    assert found["balance"] < 1.001
    names = {one["name"]: one for one in found["candidates"]}
    assert names["contiguous"]["balance"] == pytest.approx(1.75, abs=1e-3)
    assert "as fast as contiguous" in found["reason"] or "1.75 times the mean work" in found["reason"]
    assert [one["name"] for one in found["usual"]] == ["ring", "all-gather", "Ulysses"]
    assert found["received"] == found["all_gather_bytes"] == 3 * 16384 * 8 * 256 * 2


def test_items_and_messages_are_listed() -> None:
    found = read_json("inspect", "window", "width=300", "-n", "2048", "--heads", "2", "--ranks", "4")
    assert sum(item["pairs"] for item in found["items"]) == found["pairs"] == 2 * (2048 * 300 - 300 * 299 // 2)
    assert {(item["asker"], item["place"]) for item in found["items"]} == {(r, r) for r in range(4)}
    keys = [m for m in found["messages"] if m["kind"] == "keys"]
    assert [(m["source"], m["target"], m["step"]) for m in keys] == [(0, 1, 1), (1, 2, 1), (2, 3, 1)]
    assert keys[0]["slices"] == [{"heads": None, "branch": 0, "runs": [[213, 512, 1]]}]
    assert found["held"][1] == [[512, 1024, 1]]
    assert found["left_out"] == ""


def test_too_many_items_are_left_out_and_that_is_said() -> None:
    found = read_json("inspect", "window", "-n", "4096", "--heads", "1", "--ranks", "257")
    assert found["items"] is found["messages"] is None
    assert found["left_out"] == "items and messages are listed for up to 256 ranks, and there are 257"


def test_several_numbers_of_ranks_are_a_table() -> None:
    said = run("inspect", "window", "-n", "64k", "--ranks", "1,2,8").stdout.splitlines()
    assert said[0].split()[:4] == ["ranks", "shards", "work", "receives"]
    assert [line.split()[0] for line in said[1:4]] == ["1", "2", "8"]
    assert said[1].split()[3] == "0"
    assert [one["ranks"] for one in read_json("inspect", "window", "-n", "64k", "--ranks", "2,8")] == [2, 8]


def test_what_inputs_say_is_named() -> None:
    assert "each call says what `length` holds" in run("inspect", "padded", "-n", "4096", "--ranks", "2").stdout
    assert read_json("inspect", "packed", "-n", "4096", "--ranks", "2")["inputs"] == ["doc"]
    assert read_json("inspect", "causal", "-n", "4096", "--ranks", "2")["inputs"] == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("causal", "--ranks", "0"), "not numbers of ranks from 1 to 16384"),
        (("causal", "--ranks", "8,x"), "not numbers of ranks"),
        (("causal", "-n", "64", "--ranks", "65"), "65 ranks for 64 positions"),
        (("causal", "--machine", "h100"), "say --ranks too"),
        (("causal", "--ranks", "2", "--gpu", "h100"), "--gpu says nothing about ranks"),
        (("causal", "--ranks", "2", "--plan"), "--plan says nothing about ranks"),
        (("causal", "--stack", "--ranks", "2"), "--ranks says nothing about a stack"),
        (("causal", "--queries", "16", "--ranks", "2"), "here are 16 queries, 16,384 keys"),
        (("reformer", "-n", "512", "--ranks", "2"), "reformer cannot be shared among ranks by a plan: it orders"),
        (("block_topk", "-n", "512", "--ranks", "2"), "which pairs there are `top` says in each call"),
        (
            ("infini", "--ranks", "2"),
            "attnspec.distribute computes it all the same, and print(far.plan) says what each branch sends",
        ),
        (("rmt", "--ranks", "2"), "its segments follow one another"),
    ],
)
def test_what_is_no_question_is_refused(words: tuple[str, ...], reason: str) -> None:
    assert reason in " ".join(run("inspect", *words, status=2).stderr.split())


def test_patterns_of_features_exchange_states() -> None:
    found = read_json("inspect", "linear", "-n", "4096", "--heads", "4", "--dim", "16", "--ranks", "8")
    assert (found["states"]["way"], found["states"]["state"]) == ("scan", 4 * 16 * 17)
    assert found["received"] == 4 * 4 * 16 * 17 * found["steps"]
    assert found["received"] < found["all_gather_bytes"]
    said = run("inspect", "linear_window", "-n", "4096", "--ranks", "2,4").stdout
    assert said.splitlines()[0].split() == ["ranks", "shards", "receives", "in", "forward", "backward"]
    assert "nothing hidden" in run("inspect", "delta", "-n", "4096", "--ranks", "2").stdout
