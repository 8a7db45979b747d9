"""Made and mutated texts through every stage: a right answer or a SpecError, and soon.

Judged by the tests' own evaluator. ``ATTNSPEC_HOSTILE`` says how many texts of each kind are tried, up to 100,000; with
``-s`` each kind prints what came of them:

    ATTNSPEC_HOSTILE=1000 pytest -s -m slow tests/language/test_hostile_run.py --hypothesis-seed 7
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnspec.analysis.picture import cells
from attnspec.check.check import check_text
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.plan.choose import plan
from attnspec.errors.diagnostic import SpecError
from attnspec.language.scan import scan
from attnspec.relation.count import TooIrregular
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.sizes import Sizes
from tests.language.test_hostile import WORDS
from tests.support.reference import allows
from tests.support.strategies import Case, cases

TEXTS = int(os.environ.get("ATTNSPEC_HOSTILE", "100"))
SECONDS = 5.0
"""Of one core, for one stage."""

ALIKE: tuple[Sequence[str], ...] = (
    ("+", "-", "*", "//", "%", "**"),
    ("<", "<=", "==", "!=", ">", ">="),
    ("and", "or", "==", "and not"),
    ("any", "all", "sum"),
    ("min", "max"),
    ("true", "false", "flag"),
    ("q", "k", "h", "n", "n_q", "heads", "kv_heads", "batch", "width", "attend", "a0", "a1", "i2", "i3"),
    (
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "9",
        "16",
        "1000",
        "65537",
        "-1",
        "2147483648",
        "9223372036854775807",
    ),
)
"""Words of one kind: with one in place of another a text may still have a meaning."""

FACTORS = (1, 1, 1, -1, 2, 3, 7, 11)
DIVISORS = (2, 3, 4, 5, 7, 8, 16, 23, 29, 64, 101, 128, 997, 1000, 1024, 65537, 100_000)
many = settings(
    max_examples=TEXTS,
    derandomize=TEXTS <= 100,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""Nothing is shrunk: a run goes on after a text that fails, and tells all of them at its end."""


@dataclass
class Tally:
    """What came of the texts of a kind."""

    kind: str
    came: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: dict[str, tuple[float, str]] = field(default_factory=dict)
    """The longest time that each stage took, and for which text."""

    @contextmanager
    def soon(self, stage: str, text: str) -> Iterator[None]:
        """Time a stage; it is wrong to take too long, or to raise anything but what says that it was too hard."""
        begin = time.thread_time()
        try:
            yield
        finally:
            seconds = time.thread_time() - begin
            if seconds > self.slowest.get(stage, (0.0, ""))[0]:
                self.slowest[stage] = seconds, text
            if seconds >= SECONDS:
                self.wrong.append(f"{stage} takes {seconds:.1f} s: {text!r}")

    def add(self, text: str, judge: Callable[[Tally], str]) -> None:
        """Try a text: the judge says what came of it, or raises where that is wrong."""
        try:
            self.came[judge(self)] += 1
        except Exception as error:  # anything that escapes is a fault, and the next text is tried
            self.wrong.append(f"{type(error).__name__} {error}: {text!r}")

    def close(self) -> None:
        """Say what came of all, and fail where something was wrong."""
        came = ", ".join(f"{number:,} {what}" for what, number in self.came.most_common())
        print(f"\n{self.kind}: {sum(self.came.values()):,} texts: {came}; {len(self.wrong)} wrong")
        for stage, (seconds, text) in self.slowest.items():
            print(f"    {stage} takes at most {seconds:.2f} s: {' '.join(text.split())}")
        for wrong in self.wrong:
            print(f"    wrong: {wrong}")
        assert not self.wrong, "\n".join(self.wrong[:20])


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


def judged(case: Case, tally: Tally) -> str:
    """Every stage of a text that checks, against the evaluator at some pairs and against the mask."""
    with tally.soon("check", case.text):
        try:
            spec = case.spec()
            str(spec)
        except SpecError as error:
            str(error)
            return code(error)
    n, n_q, heads = case.n, case.n_q, case.heads
    sizes = replace(case.sizes(), batch=case.batch)
    try:
        mask = spec.mask(n, n_q, heads, case.batch)
    except SpecError as error:
        return code(error)  # a divisor that a head makes zero, a list that is too short
    env = {"n": n, "n_q": n_q, "heads": heads, "kv_heads": heads, "batch": case.batch, "b": 0}
    for row, k in ((0, 0), (n_q - 1, n - 1), (n_q // 2, n // 3), (n_q - 1, 0)):
        seen = allows(case.text, case.params, q=row + spec.offset(n, n_q), k=k, h=heads - 1, **env)
        assert mask[0, heads - 1, row, k] == seen, f"the mask at {row}, {k}"
    return stages(case, sizes, mask, tally)


def stages(case: Case, sizes: Sizes, mask: NDArray[Any], tally: Tally) -> str:
    """Relation, plan, cost and picture, each in bounded time, and the relation as the mask."""
    text = case.text
    try:
        with tally.soon("relation", text):
            relation = lower(case.spec(), case.heads, case.heads, case.batch)
        with suppress(TooIrregular):  # periods that cannot be counted
            if relation.exact:
                assert (relation.mask(sizes) == mask).all(), "the relation"
        with tally.soon("plan", text):
            made = plan(relation)
        longer = replace(sizes, n=4096, n_q=4096)
        with tally.soon("cost", text):
            cost(made, longer, 64, 64, 4)
        with tally.soon("picture", text):
            cells(relation, longer)
    except SpecError as error:
        return code(error)
    except (TooHard, TooIrregular) as error:
        return type(error).__name__
    return "answered"


def code(error: SpecError) -> str:
    return error.diagnostics[0].code


@st.composite
def mutated(draw: st.DrawFn) -> Case:
    """A case in which some words are others: of their own kind, so that the text may still have a meaning, or any."""
    case = draw(cases(size=3))
    text = case.text
    for _ in range(draw(st.integers(1, 3))):
        places = [(token.start, token.end, alike) for token in scan(text) for alike in ALIKE if token.text in alike]
        if places and draw(st.integers(0, 3)):
            start, end, words = draw(st.sampled_from(places))
        else:
            start = draw(st.integers(0, len(text)))
            end, words = start + draw(st.integers(0, 5)), WORDS
        text = text[:start] + draw(st.sampled_from(words)) + text[end:]
    return replace(case, text=text)


@pytest.mark.slow
def test_made_texts() -> None:
    tally = Tally("made")

    @many
    @given(cases(size=3))
    def each(case: Case) -> None:
        tally.add(case.text, lambda tally: judged(case, tally))

    each()
    tally.close()


@pytest.mark.slow
def test_mutated_texts() -> None:
    tally = Tally("mutated")

    @many
    @given(mutated())
    def each(case: Case) -> None:
        tally.add(case.text, lambda tally: judged(case, tally))

    each()
    tally.close()


@pytest.mark.slow
def test_irregular_texts() -> None:
    tally = Tally("irregular")

    @many
    @given(irregular())
    def each(text: str) -> None:
        case, sizes = Case(text, {}, 16, 16, 1), Sizes(16, 16, 1, 1, 1, True)
        tally.add(text, lambda tally: stages(case, sizes, check_text(text).mask(16), tally))

    each()
    tally.close()
