"""The grammar: words are words only where a clause begins, strings document, long unions parse."""

from __future__ import annotations

import pytest

from attnspec.check.check import check_text, signature
from attnspec.check.parameters import read_value, write
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.source import Source
from attnspec.language import tree as t
from attnspec.language import words
from attnspec.language.parse import parse, parse_all
from tests.support.trees import SHAPES, shape


@pytest.mark.parametrize("word", sorted(words.CLAUSES | words.HEADINGS))
def test_words_of_clauses_are_free_elsewhere(word: str) -> None:
    text = f"""
    pattern local({word}) = q - k < {word}
    attention {word}({word} = 3) {{
        attend {word} <
            {word} + q and local({word}) and local({word} = {word})
        let x({word}) = {word} + 1
        attend any y in 0..{word}: x({word}) == y
        within q < {word}
    }}"""
    spec = check_text(text, params={word: 4})
    assert spec.name == word
    assert spec.params == ((word, 4),)


@pytest.mark.parametrize("word", sorted(words.SYNTAX))
def test_words_of_expressions_are_not_free(word: str) -> None:
    with pytest.raises(SpecError, match="E001"):
        check_text(f"attention a({word} = 3) {{ attend q < 3 }}")


def test_new_lines_mean_nothing() -> None:
    text = 'pattern p(w) = "doc" 0 <= q - k < w attention a(w = 2) { "doc" attend p(w) within q < 5 align start }'
    assert str(check_text(text)) == str(check_text(text.replace(" ", "\n").replace("}", " }")))


def test_docstrings() -> None:
    assert check_text('"file" "before" attention a { "inside" }').doc == "before\n\ninside"
    assert check_text('"""\n  one\n    two\n"""\n\nattention a { }').doc == "one\n  two"
    assert parse(Source("t", '"file"\n"of a" attention a { }')).doc is not None
    assert check_text('"only a file"\npattern p = q < k\nattention a { attend p }').doc == ""


def test_several_attentions_in_a_file() -> None:
    text = "attention a { attend q < 1 } attention c(x) { attend q < x }"
    assert check_text(text, "c", {"x": 5}).name == "c"
    assert str(signature(parse(Source("t", text)), "c")) == "c(x)"
    with pytest.raises(SpecError, match=r"E017[^§]*write them to a file and name one of them, as in `file\.attn:a`"):
        check_text(text)


def test_users_pattern_takes_the_place_of_the_preludes() -> None:
    text = "pattern causal = q < k\nattention a { attend causal and symmetric(causal) }"
    assert str(check_text(text).pred) == "q < k and (q < k or k < q)"


def test_parameter_takes_the_place_of_a_pattern() -> None:
    assert str(check_text("attention a(window = 3) { attend q - k < window }").pred) == "q - k < 3"


def test_longformer_prints_as_a_person_would_write_it() -> None:
    text = """
    attention longformer(width = 512, globals = 16) {
        attend |q - k| <= width // 2
        attend q < globals
        attend k < globals + 0 * 3
    }"""
    assert str(check_text(text)) == (
        "attention longformer {\n    attend |q - k| <= 256\n    attend q < 16\n    attend k < 16\n}"
    )


def test_labels_are_the_users_lines() -> None:
    spec = check_text("attention a {\n attend q < 3 # few\n   or k < 2\n for h in 0..2 { attend k == 1 } }")
    assert [c.label for c in spec.attend] == ["attend q < 3 or k < 2", "attend k == 1"]


@pytest.mark.parametrize("text", ["3", "-3", "true", "[1, 2, 4]", "[[1], [2, 3]]", "[]"])
def test_values_read_back(text: str) -> None:
    assert write(read_value(text)) == text


@pytest.mark.parametrize(
    ("text", "value"), [("2*512", 1024), ("1_000", 1000), ("min(3, 4)", 3), ("[1][0]", 1), ("1<2", True)]
)
def test_values_are_worked_out(text: str, value: object) -> None:
    assert read_value(text) == value


def test_parameters_from_python() -> None:
    import numpy as np

    text = "attention a(width = 4, half = width // 2, rates = [1], flag = true, free) { attend q < half }"
    spec = check_text(text, params={"width": np.int64(10), "rates": [2, 3], "flag": False, "free": ((1,), (2, 3))})
    assert spec.params == (("width", 10), ("half", 5), ("rates", (2, 3)), ("flag", False), ("free", ((1,), (2, 3))))
    for bad in ("4", 4.0, None, {}, [1, [2]], [True], True):
        with pytest.raises(SpecError, match="E020"):
            check_text(text, params={"width": bad, "free": 1})


def clauses(text: str) -> tuple[t.Clause, ...]:
    return parse(Source("t", f"attention a {{ {text} }}")).attentions[0].clauses


@pytest.mark.parametrize("text", SHAPES)
def test_trees(text: str) -> None:
    (clause,) = clauses(text)
    assert shape(clause) == SHAPES[text]
    assert clause.span.text == text


@pytest.mark.parametrize("text", SHAPES)
def test_a_clause_begins_behind_any_other(text: str) -> None:
    for other, kept in SHAPES.items():
        found = [shape(c) for c in clauses(f"{other} {text}")]
        assert found == [kept, SHAPES[text]]


@pytest.mark.parametrize("text", ["0.5", "50.0", "1e-5", "0.5e3", "1_000.2_5E+10"])
def test_real_literals(text: str) -> None:
    assert shape(clauses(f"scale {text}")) == f"(Scale(d{text}))"


def test_a_range_is_not_a_real_literal() -> None:
    assert shape(clauses("attend q in 0..4")) == "(Attend(Member(q, Range(n0, n4), False)))"
    for bad in ("1.", ".5", "1.5.", "1..5"):
        with pytest.raises(SpecError, match="E001"):
            clauses(f"scale {bad}")


def test_headings_are_the_part_before_the_brace() -> None:
    text = "mix w in [1] weights detached { } mix { branch times 2 { } }"
    first, second = clauses(text)
    assert isinstance(first, t.Mix)
    assert first.heading.text == "mix w in [1] weights detached"
    assert isinstance(second, t.Mix)
    assert second.heading.text == "mix"
    (branch,) = second.clauses
    assert isinstance(branch, t.Branch)
    assert branch.heading.text == "branch times 2"


@pytest.mark.parametrize("word", [*sorted(words.CLAUSES | words.PARTICLES), "first", "last"])
def test_axes_may_be_called_like_words(word: str) -> None:
    (arrow,) = clauses(f"{word} # of both\n -> {word}: causal")
    assert shape(arrow) == f"Arrow({word}, {word}, causal)"
    assert [shape(c) for c in clauses(f"axis {word}[n] attend causal {word}->{word}: {word}")] == [
        f"Axis({word}, n, None)",
        "Attend(causal)",
        f"Arrow({word}, {word}, {word})",
    ]


def problems(text: str) -> list[tuple[str, str, str]]:
    """The errors in the clauses of an attention: code, the text they point at, and the help."""
    found = parse_all(Source("t", f"attention a {{\n{text}\nattend q < 1\n}}"))
    assert found.complete
    return [(d.code, d.span.text, d.help) for d in found.problems]


BRANCH = "write `branch { ... }` around what belongs to one softmax"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("branch { }", [("E032", "branch", "")]),
        ("for h in xs { branch { } }", [("E032", "branch", "")]),
        ("mix w in xs { branch times 2 { } }", [("E032", "branch times 2", "")]),
        ("mix { branch { branch { } } }", [("E032", "branch", "")]),
        ("mix { attend q branch { } }", [("E032", "attend q", BRANCH)]),
        ("mix { mix { branch { } } branch { } }", [("E032", "mix", BRANCH)]),
        ("mix { for h in xs { attend q } }", [("E032", "for h in xs", BRANCH)]),
        # A bad heading is no reason to complain of what stands inside, and does not hide it.
        ("mix weights { branch { attend q } }", [("E001", "{", "")]),
        ("mix { branch times { attend q < } }", [("E001", "{", ""), ("E001", "}", "")]),
        ("mix { brnch { attend q } branch { } }", [("E001", "brnch", "did you mean `branch`?")]),
        (
            "mix w in xs weights { attend w <  }",
            [("E001", "weights", "write `weights detached`"), ("E001", "attend", "")],
        ),
        ("mix { branch { }", [("E002", "{", "")]),
        # The next clause is understood, whatever it is.
        ("attend q <\ntoken -> token: q <\ntoken -> token: k", [("E001", "token", ""), ("E001", "token", "")]),
        ("axis x[n] keyz\nscore s", [("E001", "keyz", "did you mean `keys`?")]),
        ("normalize\ninput x: int", [("E001", "input", "")]),
        ("scale 1.\nsink 3", [("E001", "sink", "a real number has digits on both sides of its point: `0.5`")]),
        ("roate rope()", [("E001", "roate", "did you mean `rotate`?")]),
    ],
)
def test_mistakes_in_clauses(text: str, found: list[tuple[str, str, str]]) -> None:
    assert problems(text) == found
