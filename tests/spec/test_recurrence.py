"""How segments follow one another: as it is written, and what follows from the lines alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnspec
from attnspec.analysis.segment_reach import segment_reach
from attnspec.analysis.segments import segmented
from attnspec.check.check import check_text, problems_of
from attnspec.errors.source import Source
from attnspec.reference.specs import GROUPS
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.spec.recurrence import Carry, Recall, Recur, Recurrence

AXES = "axis read[2] axis memory[s] keys axis token[n] axis written[2] token -> read: true "


def recurrence(lines: str) -> Recurrence:
    found = check_text(f"attention a(s = 6) {{ {AXES} {lines} }}").recurrence
    assert found is not None
    return found


def test_lines_are_values() -> None:
    found = recurrence(
        "horizon s // 2 recall read from kept by summary(part = 1 / 4, dim = 8) recur token by 2 * s ragged first "
        "carry written -> kept last s carry token -> memory last s by layer detached"
    )
    assert found == Recurrence(
        Recur("token", 12, "first"),
        (Carry("written", ("kept",), 6), Carry("token", ("memory",), 6, by_layer=True, detached=True)),
        Recall(("read",), "kept", 0.25, 8),
        3,
    )
    assert found.starts == ()
    assert [found.grows(carry) for carry in found.carries] == [True, True]
    written = recurrence("recur token by 4 carry written -> read, written carry token -> memory last s by layer")
    assert written.starts == ("written",)
    assert written.carried_to("read") == Carry("written", ("read", "written"))
    assert written.carried_to("token") is None


@pytest.mark.parametrize("name", GROUPS["segment by segment"])
def test_a_spec_is_read_again_as_it_is_written(name: str) -> None:
    found = attnspec.read(name)
    again = check_text(str(found))
    assert str(again) == str(found)
    assert again.recurrence == found.recurrence
    assert found.recurrence is not None
    assert str(found).endswith("\n".join(f"    {line}" for line in found.recurrence.lines()) + "\n}")


def test_words_of_the_lines_are_names_elsewhere() -> None:
    """Axes and parameters may have them, also where the word itself may stand."""
    text = """attention recur(two = 2, carry = 1, horizon = 2, ragged = 3, layer = 1) {
        axis last[ragged]
        axis from[two]
        axis by[n]
        axis recall[horizon] keys
        last -> by: k < ragged
        by -> last: true
        by -> recall: true
        from -> from: q - layer <= k - carry
        recur by by ragged ragged last
        carry last -> last last ragged
        carry by -> recall last horizon by layer
        carry from -> detached last 7
        recall from from detached by summary(part = 1, dim = horizon)
        horizon horizon
    }"""
    found = check_text(text)
    assert found.recurrence == Recurrence(
        Recur("by", 3),
        (Carry("last", ("last",), 3), Carry("by", ("recall",), 2, by_layer=True), Carry("from", ("detached",), 7)),
        Recall(("from",), "detached", 1.0, 2),
        2,
    )
    assert check_text(str(found)).recurrence == found.recurrence


def test_an_include_brings_its_lines() -> None:
    text = """attention inner(s) { axis slot[2] axis token[n] token -> slot: true recur token by s carry slot -> slot }
    attention outer(s = 4) { include inner(s = 2 * s) slot -> token: true horizon 3 }"""
    found = check_text(text, "outer").recurrence
    assert found == Recurrence(Recur("token", 8), (Carry("slot", ("slot",)),), None, 3)


@pytest.mark.parametrize("ragged", ["first", "last"])
def test_segments_add_up(ragged: str) -> None:
    found = Recurrence(Recur("token", 4, ragged))
    for n in range(14):
        lengths = found.segments(n)
        assert sum(lengths) == n
        short = lengths[:1] if ragged == "first" else lengths[-1:]
        assert all(length == 4 for length in (lengths[1:] if ragged == "first" else lengths[:-1]))
        assert all(1 <= length <= 4 for length in short)


def test_a_summary_reads_the_rounded_part() -> None:
    half = Recall(("a",), "b", 0.5, 1)
    assert [half.tokens(size) for size in (0, 1, 2, 3, 10, 11)] == [0, 0, 1, 2, 5, 6]


def test_one_call_is_one_segment() -> None:
    found = attnspec.read("rmt", params={"slots": 2, "segment": 16})
    assert found.mask(n=20).shape == (1, 1, 20, 20)
    assert found.mask(n=7).shape == (1, 1, 7, 7)  # a short one
    with pytest.raises(
        ValueError, match=r"one segment, of at most 16 positions on the axis `token`, not 17.*recurrent"
    ):
        found.mask(n=21)
    attend = attnspec.compile("rmt", slots=2, segment=16, target="dense")
    q = attend.mask(20).new_zeros((1, 1, 21, 4), dtype=float)  # type: ignore[call-overload]
    with pytest.raises(attnspec.CallError, match="rmt: one call is one segment, of at most 16 positions"):
        attend(q, q, q)


NAMES = ("read", "memory", "token", "written", "asked", "store", "raed")
LINES = st.one_of(
    st.builds(
        "recur {} by {}{}".format, st.sampled_from(NAMES), st.integers(0, 3), st.sampled_from(("", " ragged first"))
    ),
    st.builds(
        "carry {} -> {}{}{}{}".format,
        st.sampled_from(NAMES),
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map(", ".join),
        st.sampled_from(("", " last 2", " last 3", " last 0")),
        st.sampled_from(("", " by layer")),
        st.sampled_from(("", " detached")),
    ),
    st.builds(
        "recall {} from {} by summary(part = {}, dim = 2)".format,
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.sampled_from(("1", "0.3", "2")),
    ),
    st.builds("horizon {}".format, st.integers(0, 2)),
)


@pytest.mark.slow
@given(st.lists(LINES, max_size=4), st.sampled_from(("", "recur token by 3 carry written -> read, written")))
@settings(max_examples=600, deadline=None)
def test_lines_mean_something_or_are_refused(lines: list[str], more: str) -> None:
    """What is accepted is read again as it is written, and has an answer to every question; nothing else escapes."""
    axes = "axis read[2] axis token[n] axis written[2] axis asked[1]" + " axis memory[3] keys" * (
        "memory" in str(lines)
    )
    text = f"attention a {{ {axes} token -> read: true token -> token: causal {more} {' '.join(lines)} }}"
    wrong = {d.code for d in problems_of(Source("t", text))}
    assert wrong <= {"E013", "E045", "E050"}
    if wrong:
        return
    found = check_text(text)
    assert check_text(str(found)).recurrence == found.recurrence
    if found.recurrence is None:
        return
    relation = lower(found)
    whole = segmented(relation, 7, Sizes(1, 1))
    assert sum(run.times * run.tokens for run in whole.runs) == 7
    assert str(segment_reach(relation))
