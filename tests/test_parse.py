"""The grammar: words are words only where a clause begins, strings document, long unions parse."""

from __future__ import annotations

import pytest

from attnspec import words
from attnspec.check import check_text, signature
from attnspec.error import SpecError
from attnspec.parse import parse
from attnspec.source import Source
from attnspec.values import read_value, write


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
    with pytest.raises(SpecError, match="E017"):
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
