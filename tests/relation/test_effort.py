"""What is hard for the solver is answered soon, and what is too much is an error: in every stage."""

from __future__ import annotations

import time
from contextlib import suppress
from threading import Event, Thread

import pytest

from attnspec.check.check import check_text
from attnspec.codegen.plan.choose import plan
from attnspec.errors.diagnostic import SpecError
from attnspec.relation import effort, hardness, presburger
from attnspec.relation.count import count
from attnspec.relation.lower import lower
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec

TEN_UNKNOWNS = (
    "((7 * q + k) // 3 % 5 == 0 and (q + k) % 64 < 32 and 0 <= q - k < 65537 and q // 101 == k // 101 and "
    "(11 * q + 3 * k) // 65537 % 5 == 0) and ((11 * q + 2 * k) // 65537 % 3 == 0 and (q - k) // 5 % 17 == 0 and "
    "(q + 3 * k) // 1024 % 3 == 0 and (q + 3 * k) // 16 % 5 == 0 and (q + 11 * k) % 2 < 1)"
)
GROWING = (
    "((2 * q + k) % 64 < 32 and q // 29 == k // 29) and ((11 * q - k) % 16 < 8 and (q + k) % 1024 < 512"
    " and (k - q) // 64 % 5 == 0 and 0 <= q - k < 16) and ((q + k) % 2 < 1 and (q + 2 * k) // 2 % 17 == 0)"
)
"""Its sets are easy at first; the pieces of what comes out, with many unknowns, took eight seconds."""
OF_ALL_LENGTHS = """
pattern gaps(p) = (k != k) or grid(strided(6), p or 1 <= k, 2 ** h)
attention a {
    for h in 1..heads {
        attend 9 <= max(k, 3 + k, 1) + q // 2 < -1
        attend gaps(1 == 2)
        within 5 <= min(n_q - (3 + k), n - (q - k)) < 9
    }
}
"""
"""One question, the tiles of a head less others, solved for three unknowns for every n and n_q: it took 85 seconds."""
HARD = [
    "(q + 5 * k) % 997 < 498 and (q + 11 * k) % 29 < 14 and (3 * q + 5 * k) % 101 < 50"
    " and (7 * q + k) % 23 < 11 and (7 * q + 5 * k) % 7 < 3 and (q + k) % 65537 < 32768",
    "(11 * k - q) // 5 % 17 == 0 and (q + 11 * k) % 16 < 8 and -q % 997 < 498",
    "(q + 11 * k) % 1000 < 500 or q // 1000 == k // 1000 or 0 <= q - k < 23",
    "(q + k) // 29 % 5 == 0 and (3 * q + 11 * k) // 1024 % 2 == 0 and 0 <= q - k < 29",
    GROWING,
]
LATTICES = "not ((q + 7 * k) // 5 % 17 == 0 and (11 * q + k) // 5 % 17 == 0 and (q + 3 * k) % 5 < 2)"
"""Took ten seconds of few operations, as did the pieces of the next."""
UNKNOWNS = (
    "exists (e0, e1, e2, e3, e5: 0 <= x <= 63 and 0 <= y <= 116 and -16 + e1 <= 17e2 < e1 and e3 >= 0"
    " and e3 >= -8 - 23e0 + 4e1 and -62 - 64x + 2e1 <= e3 <= 1 - 64x + 2e1 and e3 <= 3 - 23e0 + 4e1"
    " and -63 - 64y + e3 <= 2*floor((e3)/23) <= -64y + e3 and 23*floor((e3)/23) >= -20 + e3"
    " and 23e5 >= -13 - 4e1 + 2e3 and -20 - 23e0 + e3 <= 23e5 <= -23e0 + e3 and 23e5 <= -2 - 4e1 + 2e3)"
)


def _spec(pred: str) -> Spec:
    return check_text(f"attention a {{ attend {pred} }}")


@pytest.mark.parametrize("pred", HARD)
def test_a_hard_pattern_takes_no_more_than_its_share(pred: str, monkeypatch: pytest.MonkeyPatch) -> None:
    charged: list[int] = []
    charge = effort.charge
    monkeypatch.setattr(effort, "charge", lambda work: (charged.append(work), charge(work)))
    relation = lower(_spec(pred))
    for ask in (lambda: lower(_spec(pred)), lambda: plan(relation)):
        charged.clear()
        ask()
        assert 0 < sum(charged) <= 1.01 * effort.STAGE, "but for the last chunk of a count"


def test_a_stage_that_is_exhausted_asks_nothing_more() -> None:
    easy = lower(_spec("q == k"))
    with effort.stage():
        effort.charge(effort.STAGE)
        with pytest.raises(TooHard, match="this stage"), budget():
            pass
        with pytest.raises(SpecError, match="E404"):
            lower(_spec("q == k"))
        made = plan(easy)
    assert not made.passes[0].cut.proven
    with budget():
        assert Pairs.read("x = y").is_empty() is False


def test_a_choice_that_depends_on_what_a_sum_binds() -> None:
    spec = _spec("(sum i in batch..heads: (if q == k then i else i * k)) in 0..3")
    assert (lower(spec, 3, 3, 1).mask(Sizes(9, 9, 3, 3, 1, True)) == spec.mask(9, 9, 3)).all()


@pytest.mark.parametrize(
    "pred",
    [
        "not ((sum i in batch..2147483648: k) > n_q // heads)",
        "any i in 0..batch * 5000000: q == 2 * i",
        "any i in 0..heads * 600: any j in 0..heads * 600: q == i * j",
    ],
)
def test_ranges_over_sizes_have_a_bound(pred: str) -> None:
    spec = _spec(pred)
    for ask in (lambda: lower(spec, 2, 2, 1), lambda: spec.mask(8, 8, 2)):
        with pytest.raises(SpecError, match=r"E029.*too large"):
            ask()


MORTON = " + ".join(f"q // {4**i} % 2 * {2**i}" for i in range(16))
IRREGULAR = {
    "the places of bits": f"|({MORTON}) - ({MORTON.replace('q', 'k')})| <= 2",
    "many remainders": "all i in 1..200: (q - k) % i != 1",
    "a part of a line": f"k <= q and not ({MORTON} < k % 5) or q == k + 3",
}


@pytest.mark.parametrize("pred", IRREGULAR.values(), ids=IRREGULAR.keys())
def test_what_is_too_irregular_in_a_line_is_left_open(pred: str) -> None:
    spec = check_text(f"attention a {{ attend {pred}  within q - k < 40 }}")
    relation = lower(spec)
    (atom,) = relation.classes[0].unknown
    sizes, mask = Sizes(96, 96, 1, 1, 1, True), spec.mask(96)
    assert not (mask & ~relation.bound(sizes, "pairs")).any()
    assert not (relation.bound(sizes, "sure") & ~mask).any()
    assert relation.bound(sizes, "pairs").sum() < 96 * 96, "other lines count"
    assert f"left open: {atom}" in str(relation)
    assert plan(relation).passes[0].cut.proven


@pytest.mark.slow
def test_conditional_values_beyond_counting_are_left_open() -> None:
    choices = " + ".join(f"(if q % {i} == 0 then k else {i})" for i in range(2, 400))
    assert len(lower(_spec(f"{choices} < 7")).classes[0].unknown) == 1


def test_what_is_entangled_may_take_fewer_operations() -> None:
    hard, easy = lower(_spec(LATTICES)).classes[0].pairs, lower(_spec("(q - k) % 997 < 498 and q // 5 == k // 5"))
    assert hard.price > easy.classes[0].pairs.price
    assert not plan(lower(_spec(LATTICES))).passes[0].cut.proven
    pieces = Pairs.read(UNKNOWNS)
    assert pieces.price > 1
    with pytest.raises(TooHard), budget(pieces):
        pieces.pieces()
    assert lower(_spec("0 <= q - k < 512 and (q - k) % 16 == 0")).classes[0].pairs.tiles(128, 64).price == 1


def test_what_grows_hard_on_the_way_has_the_price_of_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    used = presburger._used
    monkeypatch.setattr(presburger, "_used", lambda most: taken.append(used(most)) or taken[-1])
    plan(lower(_spec(GROWING)))
    assert max(taken) <= presburger.BUDGET // 50, "at the price that its first sets have, one question took 125,000"


def test_many_unknowns_have_a_price_of_their_own() -> None:
    """An operation on the columns of this one takes as long as 260 on a plain set."""
    with budget():
        columns = lower(_spec(TEN_UNKNOWNS)).classes[0].pairs.image("0", "y mod 64").anonymous()
    assert columns.price >= 260
    with pytest.raises(TooHard), budget(columns):
        columns.pieces()


def test_unknowns_that_depend_on_both_lengths_have_a_price_where_others_are_taken_off() -> None:
    (item,) = (c for c in lower(check_text(OF_ALL_LENGTHS), 3).classes if 2 in (c.heads or ()))
    touched = item.pairs.tiles(128, 64)
    assert hardness.solving(touched._map) > hardness.solving(Pairs.read("exists (e: y = 3 e and x < n)")._map) == 1
    begin = time.thread_time()
    plan(lower(check_text(OF_ALL_LENGTHS), 3))
    assert time.thread_time() - begin < 20, "a second and a half; nothing else can tell"


def test_a_limit_is_told_wherever_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where isl writes a number: it gives None there."""
    answered = []
    for operations in range(1, 260):
        monkeypatch.setattr(presburger, "BUDGET", operations)
        pairs = Pairs.read("0 <= x < 8 and 0 <= y < x and (x - y) mod 3 = 1 and (x + y) mod 4 <= 1")
        with suppress(TooHard), budget():
            answered.append(count(pairs.pieces(), 8))
    assert set(answered) == {6}


def test_a_count_is_charged_for_all_that_it_works_out() -> None:
    def charged(pred: str) -> int:
        pieces = Pairs.read(f"0 <= x - y <= 500 and y >= 0 and (x + 3 * y) mod 997 < 300{pred}").pieces()
        with effort.stage():
            assert count(pieces, 1 << 20) > 0
            spent = effort._stage.get()
            assert spent is not None
            return spent.work

    assert charged(" and 2 * x - y >= 7 and 3 * x - 2 * y >= -9") > 1.2 * charged("") > 0


def test_threads_ask_one_after_the_other() -> None:
    """The solver has one limit for all of them: whoever asks in between would take it away."""
    near = Pairs.read("0 <= x - y < 3 and y >= 0")
    asked, limits = Event(), []

    def other() -> None:
        with budget(near):
            asked.set()

    for bounded in (lambda: budget(near), effort.stage):
        asked.clear()
        thread = Thread(target=other)
        with bounded():
            thread.start()
            limits.append(asked.wait(timeout=0.05))
        thread.join()
        limits.append(asked.is_set())
    assert limits == [False, True] * 2
