"""Whatever the text is, the answer is a spec or a SpecError, soon."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnspec.check.check import check_text, problems_of
from attnspec.check.parameters import read_value, write
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.source import Source
from attnspec.language.format import format_source
from attnspec.language.scan import scan
from tests.support.marks import slow
from tests.support.strategies import Case, cases

SHIPPED = [f.read_text(encoding="utf-8") for f in files("attnspec.specs").iterdir() if f.name.endswith(".attn")]
SHIPPED += [files("attnspec.language").joinpath("prelude.attn").read_text(encoding="utf-8")]
WORDS = [
    "\nattention",
    "pattern",
    "attend",
    "within",
    "let",
    "for",
    "align",
    "start",
    "if",
    "then",
    "else",
    "or",
    "and",
    "not",
    "any",
    "all",
    "sum",
    "in",
    "at",
    "true",
    "false",
    "min",
    "max",
    "clamp\nlen",
    "q",
    "k",
    "h",
    "b",
    "n",
    "n_q",
    "heads",
    "batch",
    "x",
    "y",
    "causal",
    "window",
    "restarted",
    "mix",
    "axis",
    "input",
    "order",
    "score",
    "rotate",
    "sink",
    "recur",
    "carry",
    "by layer",
    "first",
    "0",
    "1",
    "2",
    "7",
    "64",
    "10000\n99999999999999999999",
    "+",
    "-",
    "*",
    "//",
    "%",
    "**",
    "<",
    "<=",
    "==",
    "!=",
    ">",
    ">=",
    "=",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "|",
    ",",
    ":",
    "..",
    ".",
    "->",
    "/",
    "!",
    ";",
    "@",
    "#",
    '"',
    '"""',
    "\n",
    "é",
    "\x00",
    "\u2028",
    "²",
    "٣\n",
]


def outcome(text: str, params: Mapping[str, Any] | None = None) -> SpecError | None:
    """Check a text, print what comes of it, and say what was wrong; anything but a SpecError fails the test."""
    begin = time.process_time()
    try:
        str(check_text(text, params=params))
        error = None
    except SpecError as caught:
        error = caught
        str(error)
    assert time.process_time() - begin < 10, text[:200]
    return error


def survives(text: str) -> None:
    error = outcome(text)
    if error is not None:
        assert 1 <= len(error.diagnostics) <= 60
        assert error.to_dict()
        for diagnostic in error.diagnostics:
            for span, _ in diagnostic.labels:
                assert 0 <= span.start <= span.end <= len(span.source.text)
    problems_of(Source("t", text))
    with suppress(SpecError):
        format_source(text)


@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_words(words: list[str]) -> None:
    survives(" ".join(words))


@given(st.lists(st.sampled_from(WORDS), max_size=30), st.lists(st.sampled_from(WORDS), max_size=30))
def test_words_in_an_attention(first: list[str], second: list[str]) -> None:
    survives(f"attention a(x = 3, y = [1, 2]) {{\n attend {' '.join(first)}\n attend {' '.join(second)} }}")


@given(st.text(max_size=200))
def test_text(text: str) -> None:
    survives(text)
    survives(f"attention a {{ attend {text} }}")


@given(st.sampled_from(SHIPPED), st.randoms(use_true_random=False), st.integers(1, 8))
def test_mutated_specs(text: str, rng: random.Random, times: int) -> None:
    tokens = [token.text for token in scan(text)]
    for _ in range(times):
        at = rng.randrange(len(tokens))
        match rng.randrange(4):
            case 0:
                del tokens[at : at + rng.randrange(1, 4)]
            case 1:
                tokens.insert(at, rng.choice(WORDS))
            case 2:
                tokens[at] = rng.choice(WORDS)
            case 3:
                other = rng.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
        tokens = tokens or ["attention"]
    survives(rng.choice([" ", "\n"]).join(tokens))


@given(cases(size=3), st.data())
def test_mutated_cases(case: Case, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(case.text)))
    survives(case.text[:at] + data.draw(st.sampled_from(WORDS)) + case.text[at + data.draw(st.integers(0, 5)) :])


@given(st.lists(st.sampled_from(WORDS), max_size=10))
def test_values(words: list[str]) -> None:
    with suppress(SpecError):
        write(read_value(" ".join(words)))


def attention(pred: str, before: str = "") -> str:
    return f"{before}\nattention a(xs = [1, 2, 3]) {{ attend {pred} }}"


CHAIN = "\n".join(f"pattern p{i} = p{i - 1}" for i in range(1, 3000))
BOMB = "\n".join(f"pattern p{i} = p{i - 1} or p{i - 1}" for i in range(1, 200))
HOSTILE = {
    "deep brackets": attention("(" * 60_000 + "q" + ")" * 60_000 + " < 3"),
    "deep not": attention("not " * 40_000 + "q < 3"),
    "deep minus": attention("-" * 150_000 + "q < 3"),
    "deep if": attention("if q < 1 then q < 2 else " * 5_000 + "q < 3"),
    "if in conditions": attention("if " * 50 + "q < 3" + " then k < 1 else k < 2" * 50),
    "deep power": attention("2 ** " * 20_000 + "2 < q"),
    "deep any": attention("".join(f"any i{i} in 0..2: " for i in range(3_000)) + "q < 3"),
    "nested any": attention("".join(f"any i{i} in 0..2: " for i in range(55)) + "q == i3"),
    "deep index": attention("xs" + "[0" * 20_000 + "]" * 20_000 + " < 3"),
    "deep lists": attention("q in " + "[" * 50_000 + "]" * 50_000),
    "deep calls": attention("transposed(" * 55 + "causal" + ")" * 55),
    "deeper calls": attention("transposed(" * 5_000 + "causal" + ")" * 5_000),
    "open brackets": attention("(" * 100_000),
    "open braces": "attention a {" * 15_000,
    "only open braces": "{" * 40_000,
    "open braces in an attention": "attention a {" + "{" * 40_000,
    "open mixtures": "attention a { " + "mix (a, b) in 0..2 { " * 1_000,
    "clauses in open braces": "attention a { mix { branch { " + "attend q\n" * 2_200,
    "closing braces": "}" * 190_000,
    "unfinished clauses": "attention a {\n" + "attend q <\n" * 15_000 + "}",
    "bad characters": "attention a {\n" + "attend q @ k\n" * 14_000 + "}",
    "many strings": '""' * 90_000,
    "open string": '"""' + "x" * 190_000,
    "many quotes": '"' * 190_000,
    "comments": "#\n" * 90_000,
    "many attentions": "".join(f"attention a{i} {{ attend q < {i} }}\n" for i in range(5_000)),
    "many patterns": CHAIN.replace("p0", "causal") + attention("p2999"),
    "chain of 100": attention(
        "p99", "pattern p0 = q < 3\n" + "\n".join(f"pattern p{i} = p{i - 1}" for i in range(1, 100))
    ),
    "bomb": attention("p199", "pattern p0 = q < 3\n" + BOMB),
    "bombs": "pattern p0 = q < 3\n" + BOMB + "".join(f"\nattention a{i} {{ attend p16 }}" for i in range(1_000)),
    "moving bomb": attention(
        "p60",
        "pattern p0 = q < 3\n" + "\n".join(f"pattern p{i} = p{i - 1} at (q // 2 + q // 3, k)" for i in range(1, 61)),
    ),
    "let bomb": "attention a { let x0 = q "
    + " ".join(f"let x{i} = x{i - 1} // 2 + x{i - 1} // 3" for i in range(1, 60))
    + " }",
    "function bomb": "attention a { let f0(i) = i "
    + " ".join(f"let f{i}(i) = f{i - 1}(i) + f{i - 1}(i)" for i in range(1, 60))
    + " }",
    "if bomb": "attention a { let x0 = q < 3 "
    + " ".join(f"let x{i} = if x{i - 1} then k < {i} else q < {i}" for i in range(1, 60))
    + " }",
    "self application": attention("w(w)", "pattern w(p) = p(p)"),
    "circles": "\n".join(f"pattern p{i} = p{(i * 7 + 1) % 2000} or p{(i * 3 + 1) % 2000}" for i in range(2_000)),
    "many names": "attention a {" + " ".join(f"let x{i} = {i}" for i in range(4_000)) + "}",
    "powers": attention("10 ** 10 ** 10 < q and 9 ** 9 ** 9 ** 9 < q and (2 ** 62) ** (2 ** 62) < k"),
    "products": attention(" * ".join(["h"] * 20_000) + " < q"),
    "numbers": attention("9" * 190_000 + " < q"),
    "long list": attention("xs2[q] == xs2[k]").replace("xs = [1", "xs2 = [" + "1, " * 50_000 + "1"),
    "long list often": attention(" or ".join(f"xs[q + {i}] == k" for i in range(2_000))).replace(
        "[1, 2", "[" + "1, " * 30_000 + "1"
    ),
    "membership": attention("q in " + str(list(range(25_000)))),
    "ranges": attention("any i in 0..10000: any j in 0..9: (q + i) % (j + 1) == 0 and xs[i % 3] == 2 ** j"),
    "divisors": attention(" and ".join(["any i in 0..10000: q % (i + 1) == 0"] * 2_000)),
    "huge ranges": attention(
        "any i in 0..10 ** 18: q == i and q in 0..10 ** 18 and sum j in -10 ** 18..10 ** 18: j < q"
    ),
    "chained comparison": attention(" < ".join(["q"] * 40_000)),
    "wide sum": attention(" + ".join(["q"] * 40_000) + " < 3"),
    "wide or": attention(" or ".join(f"q == {i}" for i in range(12_000))),
    "unrolled lists": attention("any xs in " + str([[1]] * 3_000) + ": any i in xs: q == i or k == i"),
    "nested unrolled": attention(
        "any a in " + str([[[1] * 10] * 40] * 40) + ": any c in a: any d in c: any i in c: q == i"
    ),
    "a choice in a sum over sizes": attention("(sum i in batch..heads: (if n == k then i else i)) in 0..3"),
    "sum over sizes": attention("(sum i in batch..2147483648: k) > n_q // heads > 2894 * heads"),
    "unknown names": "attention a {" + " ".join(f"attend name{i} > other{i}" for i in range(5_000)) + "}",
    "include bomb": "".join(f"attention a{i} {{ include a{i + 1} include a{i + 1} }}\n" for i in range(40))
    + "attention a40 {}",
    "many includes": "".join(
        f"attention a{i} {{ include a{i + 1} include longnet include a{i + 2} }}" for i in range(900)
    ),
    "unknown includes": "attention a {" + " include nothing" * 5_000 + "}",
    "null": "attention a {\x00 attend q < 3 }",
}


SLOW = {
    *("long list often", "membership", "wide sum", "wide or", "many names", "many attentions", "many quotes"),
    *("nested unrolled", "deep if", "deep power", "open braces", "closing braces", "chained comparison"),
    *("open mixtures", "long list", "unknown names", "many includes", "unknown includes", "deep minus", "bombs"),
    *("deep not", "deep lists", "clauses in open braces", "many strings", "function bomb", "if bomb", "divisors"),
}


@pytest.mark.parametrize("name", [slow(name) if name in SLOW else name for name in HOSTILE])
def test_hostile(name: str) -> None:
    error = outcome(HOSTILE[name])
    assert error is None or 1 <= len(error.diagnostics) <= 60


def test_each_open_brace_is_reported_once() -> None:
    error = outcome("attention a { mix { branch { attend q < 3")
    assert error is not None
    assert [(d.code, d.span.start) for d in error.diagnostics] == [("E002", 12), ("E002", 18), ("E002", 27)]


def test_a_union_of_two_thousand_terms() -> None:
    spec = check_text(attention(" or ".join(f"q - k == {i}" for i in range(2_000))))
    assert spec.mask(8)[0, 0].sum() == 36
    assert spec.mask(8).shape == (1, 1, 8, 8)


def test_many_large_attentions_are_refused_and_not_skipped() -> None:
    patterns = "pattern p0 = q < 3\n" + "\n".join(f"pattern p{i} = p{i - 1} or p{i - 1}" for i in range(1, 12))
    large = [f"attention a{i} {{ attend p11 }}\n" for i in range(60)]
    assert check_text(f"{patterns}\n{large[0]}{large[1]}", "a0").name == "a0"
    with pytest.raises(SpecError, match=r"E030.*together"):
        check_text(patterns + "\n" + "".join(large), "a0")


@pytest.mark.parametrize("levels", [40, 56])
def test_nesting_within_the_limit(levels: int) -> None:
    text = attention("(" * levels + "q" + ")" * levels + " < 3")
    assert str(check_text(text)) == "attention a {\n    attend q < 3\n}"
