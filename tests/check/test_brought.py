"""Words and signs from elsewhere are answered with what takes their place here."""

from __future__ import annotations

import re

import pytest
import torch

import attnspec
from attnspec.check.check import check_text
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.foreign import OPTIONS, SIGNS, WORDS, brought
from attnspec.errors.source import Source
from attnspec.language import words
from attnspec.language.parse import parse
from attnspec.reference.topics import OPTIONS as KNOWN_OPTIONS
from tests.support.command import run

JOIN = "join them: `and` where both must hold, a second `attend` line where either may"
THEN = "`then` belongs to `if c then a else b`; conditions are joined by `and` and `or`"
LINE = "a line begins with its word: `attend` adds pairs, `within` restricts them all"
CASES = {
    "attend q_idx >= k": "the position of the query is `q`",
    "attend q >= kv_idx": "the position of the key is `k`",
    "attend head == 0": "the query head is `h`",
    "attend batch_idx == 0": "the batch entry is `b`",
    "attend q < seq_len": "the number of keys is `n`",
    "attend k ≤ q": "write `<=`",
    "attend q ≥ k": "write `>=`",
    "attend q ≠ k": "write `!=`",
    "attend q <> k": "write `!=`",
    "attend q !== k": "write `!=`",
    "attend q === k": "write `==`",
    "attend q =< k": "write `<=`",
    "attend q => k": "write `>=`",
    "attend q = k": "a comparison is written `==`",
    "attend causal && q < 4": "write `and`",
    "attend causal || q < 4": "write `or`",
    "attend causal | window(4)": "write `or`; bars are for the absolute value, `|q - k|`",
    "attend |q - k| < 4 || q == 0": "write `or`",
    "attend !causal": "write `not`, or `!=` for unequal",
    "attend causal ^ window(4)": "a power is written `**`; of two predicates one alone holds: `!=`",
    "attend causal window(w)": JOIN,
    "attend causal\n    window(4)": LINE,
    "attend causal, window(4)": "join conditions by `and`, or write a line for each",
    "attend causal and then window(4)": THEN,
    "attend causal + window(4)": "predicates are joined by `and`, `or` and `not`; a comment begins with `#`",
    "attend causal // keys": "predicates are joined by `and`, `or` and `not`; a comment begins with `#`",
    "attend dense": "without an `attend` line every pair is seen",
    "attend longformer": "`include longformer` adds its clauses",
    "attend is_causal": "write `causal`",
    "attend causal\n    dropout 0.1": "there is no dropout of weights",
    "attend causal\n    score_mod s + 1": "the score is `s`; write `score s + 0.5 * (k - q)`",
    "attend causal\n    softcap 50.0": "write `score softcap(s, 50.0)`",
    "attend causal\n    rope(theta = 10000)": "write `rotate rope(theta = 10000)`",
    "scale = 0.5": "there is no `=` behind `scale`",
    "let w := 4": "write `=`",
    "attend mod(q, 2) == 0": "the remainder is written `a % b`",
    "attend q mod 2 == 0": "the remainder is written `a % b`",
    "attend where(q < k, true, false)": "write `if c then a else b`",
    "attend torch.where(q < k, true, false)": "write `if c then a else b`",
    "attend torch.sigmoid(s) > 0": "functions have no module before them",
    "attend q < k ? true : false": "write `if c then a else b`",
    "if q < k { attend causal }": "conditions stand in lines: `attend a and b`, `for h in 0..4 { ... }`",
    "attend lambda b, h, q, k: q >= k": "clauses say what is seen: `attend q >= k`",
    "attend any i in range(4): q == i": "a range is written `0..4`",
    "attend all(q < k)": "it runs over a range or a list: `all i in 0..4: ...`",
    "attend doc[q] == doc[k]": "declare it: `input doc: int[batch, n] sorted`",
    "attend q - k < width": "make it a parameter: `attention name(width = 64) { ... }`",
    "attend q.index < k": "`q` and `k` are the positions; beside an order they have a `slot` and a `bucket`",
    "rotate rope(base = 10000)": "it is called `theta` here",
    "rotate rope(interleaved = true)": "it is called `layout` here",
    "order by lsh(num_hashes = 4)": "it is called `rounds` here",
}


@pytest.mark.parametrize("clauses", CASES)
def test_the_first_mistake_says_what_to_write(clauses: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_text(f"attention a {{\n    {clauses}\n}}")
    assert caught.value.diagnostics[0].help == CASES[clauses]


def test_what_is_said_once_is_not_said_again() -> None:
    with pytest.raises(SpecError) as caught:
        check_text("attention a { attend causal + q }")
    assert [d.code for d in caught.value.diagnostics] == ["E021"]


@pytest.mark.parametrize("name", ["head", "i", "width", "mask", "dropout", "where", "doc", "N", "lambda", "rope"])
def test_a_spec_may_have_names_of_its_own(name: str) -> None:
    check_text(f"attention a({name} = 4) {{ attend q < {name} }}")


def test_a_name_of_the_spec_itself_is_nearer() -> None:
    with pytest.raises(SpecError) as caught:
        check_text("attention a { input docs: int[n]  attend doc[q] == docs[k] }")
    assert caught.value.diagnostics[0].help == "did you mean `docs`?"


def test_no_word_of_the_language_is_called_strange() -> None:
    known = words.VARIABLES | words.BUILTINS | words.SYNTAX | (words.LIBRARY - {"softcap"})
    assert not known & WORDS.keys()
    assert set(OPTIONS.values()) <= KNOWN_OPTIONS.keys()


@pytest.mark.parametrize("said", sorted({*WORDS.values(), *SIGNS.values(), *CASES.values()}))
def test_what_is_suggested_is_of_the_language(said: str) -> None:
    for piece in re.findall(r"`([^`]+)`", said):
        written = piece.replace("...", "q < k").replace("[q < k]", "[n]")
        if piece.startswith("attnspec ") or not re.search(r"[a-z]\W|\W[a-z]", piece) or piece == "scale=":
            continue
        tries = (written, f"attention a {{ {written} }}", f"attention a {{ attend {written} }}",
                 f"attention a {{ attend q {written} k }}", f"attention a {{ attend q in {written} }}",
                 f"attention a {{ {written.replace('{ q < k }', '{ attend q < k }')} }}")  # fmt: skip
        assert any(_parses(text) for text in tries), piece


def _parses(text: str) -> bool:
    try:
        parse(Source("suggested", text.replace("64) { q < k }", "64) { attend q < k }")))
    except SpecError:
        return False
    return True


def test_help_answers_for_words_from_elsewhere() -> None:
    assert "the position of the query is `q`" in run("help", "q_idx").stdout
    assert brought("seq_len") in run("help", "seq_len").stdout


@pytest.mark.parametrize("text", ["def mask(b, h, q_idx, kv_idx):\n    return {}", "mask a { attend causal }"])
def test_a_file_of_something_else(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_text(text)
    assert caught.value.diagnostics[0].help == "a file holds `attention name { ... }` and `pattern name = P`"


def test_an_attention_of_the_file_is_no_pattern() -> None:
    with pytest.raises(SpecError) as caught:
        check_text("attention near { attend window(4) } attention both { attend near }", "both")
    assert caught.value.diagnostics[0].help == "`include near` adds its clauses"


def test_what_is_no_reference() -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("`attention name { attend causal and window(4) }`")):
        attnspec.read("causal and window(4)")
    with pytest.raises(FileNotFoundError, match=re.escape("`attention name { within causal }`")):
        attnspec.read("within causal")
    with pytest.raises(TypeError, match="not function; a function is written as clauses: see `attnspec help coming"):
        attnspec.compile(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx)
    with pytest.raises(TypeError, match="not Tensor"):
        attnspec.compile(torch.ones(4, 4).bool())
