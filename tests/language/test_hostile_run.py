"""Made and mutated texts through every stage: a right answer or a SpecError, and soon.

Judged by the tests' own evaluator. ``ATTNSPEC_HOSTILE`` says how many texts of each kind are tried, up to 100,000.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnspec.analysis.picture import cells
from attnspec.check.check import check_text
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.plan.choose import plan
from attnspec.errors.diagnostic import SpecError
from attnspec.relation.count import TooIrregular
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.sizes import Sizes
from tests.language.test_hostile import WORDS, outcome
from tests.support.reference import allows
from tests.support.strategies import Case, cases

TEXTS = int(os.environ.get("ATTNSPEC_HOSTILE", "100"))
SECONDS = 8.0
"""Of one core, for one stage: five on the machine that the solver's budgets were measured on."""

FACTORS = (1, 1, 1, -1, 2, 3, 7, 11)
DIVISORS = (2, 3, 4, 5, 7, 8, 16, 23, 29, 64, 101, 128, 997, 1000, 1024, 65537, 100_000)
many = settings(max_examples=TEXTS, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def soon(what: str, text: str) -> Iterator[None]:
    begin = time.thread_time()
    yield
    assert time.thread_time() - begin < SECONDS, f"{what}: {text}"


@st.composite
def irregular(draw: st.DrawFn) -> str:
    """A predicate of unlike divisors, which is what the solver finds hard."""

    def atom() -> str:
        divisor, smaller = draw(st.sampled_from(DIVISORS)), draw(st.sampled_from((2, 3, 5, 17)))
        a, b = draw(st.sampled_from(FACTORS)), draw(st.sampled_from((*FACTORS, 0)))
        return draw(
            st.sampled_from(
                (
                    f"({a} * q + {b} * k) % {divisor} < {max(1, divisor // 2)}",
                    f"q // {divisor} == k // {divisor}",
                    f"0 <= q - k < {divisor}",
                    f"({a} * q + {b} * k) // {divisor} % {smaller} == 0",
                )
            )
        )

    def pred(depth: int) -> str:
        if depth == 0:
            return atom()
        if draw(st.integers(0, 2)) == 0:
            return f"not ({pred(depth - 1)})"
        word = draw(st.sampled_from((" and ", " or ")))
        return f"({word.join(pred(depth - 1) for _ in range(draw(st.integers(2, 6))))})"

    return f"attention a {{ attend {pred(draw(st.integers(1, 2)))} }}"


def judged(case: Case) -> None:
    """Every stage of a text that checks, against the evaluator at some pairs and against the mask."""
    with soon("check", case.text):
        try:
            spec = case.spec()
        except SpecError:
            return
    n, n_q, heads = case.n, case.n_q, case.heads
    sizes = replace(case.sizes(), batch=case.batch)
    try:
        mask = spec.mask(n, n_q, heads, case.batch)
    except SpecError:
        return  # a divisor that a head makes zero, a list that is too short
    env = {"n": n, "n_q": n_q, "heads": heads, "kv_heads": heads, "batch": case.batch, "b": 0}
    for row, k in ((0, 0), (n_q - 1, n - 1), (n_q // 2, n // 3), (n_q - 1, 0)):
        seen = allows(case.text, case.params, q=row + spec.offset(n, n_q), k=k, h=heads - 1, **env)
        assert mask[0, heads - 1, row, k] == seen, case.text
    stages(case.text, case, sizes, mask)


def stages(text: str, case: Case, sizes: Sizes, mask: NDArray[Any]) -> None:
    """Relation, plan, cost and picture, each in bounded time, and the relation as the mask."""
    try:
        with soon("relation", text):
            relation = lower(case.spec(), case.heads, case.heads, case.batch)
        with suppress(TooIrregular):  # periods that cannot be counted
            if relation.exact:
                assert (relation.mask(sizes) == mask).all(), text
        with soon("plan", text):
            made = plan(relation)
        longer = replace(sizes, n=4096, n_q=4096)
        with soon("cost", text):
            cost(made, longer, 64, 64, 4)
        with soon("picture", text):
            cells(relation, longer)
    except (SpecError, TooHard, TooIrregular):
        return


@pytest.mark.slow
@many
@given(cases(size=3))
def test_made_texts(case: Case) -> None:
    judged(case)


@pytest.mark.slow
@many
@given(cases(size=3), st.data())
def test_mutated_texts(case: Case, data: st.DataObject) -> None:
    text = case.text
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.sampled_from(WORDS)) + text[at + data.draw(st.integers(0, 5)) :]
    if outcome(text, case.params) is None:
        judged(replace(case, text=text))


@pytest.mark.slow
@many
@given(irregular())
def test_irregular_texts(text: str) -> None:
    stages(text, Case(text, {}, 16, 16, 1), Sizes(16, 16, 1, 1, 1, True), check_text(text).mask(16))
