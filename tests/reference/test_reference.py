"""The reference leaves nothing out, and its examples show what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import lark
import pytest

import attnspec.nn
from attnspec.check.check import check_text
from attnspec.codegen.cpp.kernel import kernel
from attnspec.codegen.cpp.unit import KernelKey
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.triton.module import Plans, TritonKey, module
from attnspec.codegen.triton.schedule import schedule_for
from attnspec.codegen.triton.syntax import MOST_RUNS
from attnspec.errors.values import MAX_INT
from attnspec.language.load import shipped
from attnspec.reference import api, specs, topics
from attnspec.reference.entry import Entry
from attnspec.relation.lower import lower
from attnspec.relation.presburger import SCALARS
from tests.support.command import read_json, run
from tests.support.examples import differs, text_of

FILE = Path(str(files("attnspec.language"))) / "REFERENCE.md"
ENTRIES = {f"{s.topic}: {e.head}": e for s in topics.SECTIONS for e in s.entries}
WHERE = "add an entry with an example to a section of attnspec/reference"
HEADS = " ".join(entry.head for entry in ENTRIES.values())


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_an_example_shows_what_it_says(entry: Entry) -> None:
    check_text(text_of(entry.example))
    assert "\n".join(entry.lines.split("\n")[:3]).count("\n") <= 2
    if entry.shows:
        assert differs(entry) == ""


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_an_example_has_kernels(entry: Entry) -> None:
    spec = check_text(text_of(entry.example))
    if not spec.softmax_only:
        return  # there are none
    made = plan(lower(spec, 2))
    assert kernel(made, KernelKey("forward", "float32", 64, 64))
    assert module(Plans(made, made, made), TritonKey(64, 64), schedule_for(64, 2, 1024))


@pytest.mark.parametrize(
    ("example", "shows"),
    [
        ("attend k <= q", "query 2 sees 0 1"),
        ("attend k < q", "query 0 sees 0"),
        ("score s * 2", "s = 1.0 becomes 3.0 at query 0, key 0"),
        ("sink 0.0", "the weights of query 0 sum to 1.0"),
        ("attend k == q", "query 2 probably sees 2"),
    ],
)
def test_an_example_that_shows_something_else_is_found(example: str, shows: str) -> None:
    assert differs(Entry("", "", example, shows))


def _grammar() -> lark.Lark:
    text = files("attnspec.language").joinpath("grammar.lark").read_text(encoding="utf-8")
    return lark.Lark(text, parser="lalr", start=["file", "value"], maybe_placeholders=False)


def test_every_production_and_token_of_the_grammar_is_in_an_example() -> None:
    grammar = _grammar()
    wanted = {
        rule.alias or rule.origin.name
        for rule in grammar.rules
        if not rule.origin.name.startswith("_")
        and (rule.alias or not rule.options.expand1 or len(rule.expansion) > 1)  # what has one part is replaced by it
    } - {"value"}  # which starts a parse of its own, on the command line
    wanted |= {s.name for r in grammar.rules for s in r.expansion if s.is_term and not s.filter_out}
    found: set[str] = set()
    for entry in ENTRIES.values():
        for tree in grammar.parse(text_of(entry.example), start="file").iter_subtrees():
            found.add(str(tree.data))
            found |= {token.type for token in tree.children if isinstance(token, lark.Token)}
    assert wanted - found == set(), f"no example has these: {WHERE}"


def test_every_word_and_sign_has_an_entry() -> None:
    found = {word for entry in ENTRIES.values() for word in topics.words_of(entry.head)}
    assert topics.WORDS - found - {*topics.ROTATIONS, *topics.OPTIONS} == set(), f"no heading has these: {WHERE}"
    grammar = _grammar()
    signs = {t.pattern.value for t in grammar.terminals if isinstance(t.pattern, lark.lexer.PatternStr)}
    missing = {sign for sign in signs | {"==", "!=", "<", "<=", ">", ">="} if sign not in HEADS}
    assert missing == set(), f"no heading has these: {WHERE}"


def test_every_option_is_said() -> None:
    options = {
        option
        for of in (topics.ROTATIONS, topics.ORDERS, topics.RECALLS, {"": topics.FAVOR})
        for table in of.values()
        for option in table
    }
    assert options == topics.OPTIONS.keys(), "say what it is in OPTIONS of attnspec/reference/topics.py"


def test_limits_of_later_rooms_are_said_as_they_are() -> None:
    assert {12: "twelve"}[len(SCALARS)] in topics.topic("inputs")
    assert f"{MOST_RUNS:,} runs" in topics.topic("E408")
    assert MAX_INT == 2**62


def test_every_shipped_spec_is_in_one_group() -> None:
    names = [name for group in specs.GROUPS.values() for name in group]
    assert sorted(names) == list(shipped()), "put it into a group of attnspec/reference/specs.py"


def test_specs_that_are_named_are_shipped() -> None:
    found = re.findall(r"\bspecs? `(\w+)`(?:\s+and\s+`(\w+)`)?", topics.whole())
    assert {name for names in found for name in names if name} <= {*shipped()}
    assert found


def test_every_public_name_is_said() -> None:
    said = "say where it is in PUBLIC of attnspec/reference/api.py"
    modules = {"nn": attnspec.nn, "flex": attnspec.flex}
    inner = {f"{module}.{name}" for module, of in modules.items() for name in of.__all__}
    assert api.PUBLIC.keys() == {*attnspec.__all__, *inner}, said


def test_every_public_member_is_said() -> None:
    for owner in (attnspec.Attention, attnspec.Spec, attnspec.SpecError):
        members = {
            n for c in owner.__mro__ if c.__module__.startswith("attnspec.") for n, v in vars(c).items() if _is_code(v)
        }
        text = api.api().split(f"### attnspec.{owner.__name__}\n")[1].split("\n### ")[0]
        assert {m for m in members if not m.startswith("_") and f"- `{m}" not in text} == set(), owner


def _is_code(value: object) -> bool:
    return callable(value) or isinstance(value, (property, cached_property))


def test_the_file_is_what_is_generated(update_golden: bool) -> None:
    text = topics.whole()
    if update_golden:
        FILE.write_text(text, encoding="utf-8")
    again = "pytest tests/reference --update-golden writes it anew"
    assert text == FILE.read_text(encoding="utf-8"), again


def test_the_whole_has_every_topic_once_and_everything_in_it() -> None:
    text = topics.whole()
    assert all(text.count(f"\n{part()}") == 1 for part in topics.TOPICS.values())
    missing = [name for name in (*topics.WORDS, *topics.prelude(), *topics.CODES, *shipped()) if name not in text]
    assert missing == []
    assert topics.SAID.keys() == topics.TOPICS.keys()


def test_help_answers_by_topic_word_pattern_spec_and_code() -> None:
    for name in topics.names():
        assert topics.topic(name)
    assert run("help", "all").stdout == FILE.read_text(encoding="utf-8")
    assert "attnspec help TOPIC" in run("help").stdout
    assert "binary search" in run("help", "sorted").stdout
    assert "minus infinity" in run("help", "empty", "rows").stdout
    window = run("help", "window").stdout
    assert "pattern window(w) = 0 <= q - k < w" in window
    assert "attention window(width = 1024)" in window
    assert "did you mean 'attend'?" in run("help", "atend", status=2).stderr
    assert "the topics are meaning, clauses" in run("help", "zzzzzz", status=2).stderr


@pytest.mark.parametrize(
    ("typed", "wanted"), [("help sor", "sorted"), ("help packed_w", "packed_window"), ("explain e40", "E401")]
)
def test_completion_knows_topics_and_codes(typed: str, wanted: str) -> None:
    words = {"COMP_WORDS": f"attnspec {typed}", "COMP_CWORD": "2", "_ATTNSPEC_COMPLETE": "bash_complete"}
    assert wanted in run(**words).stdout


def test_explain_answers_for_a_code() -> None:
    assert "must be known once the parameters" in run("explain", "e024").stdout
    assert "E408  a list that is too long" in run("explain").stdout
    assert "did you mean E024?" in run("explain", "E0024", status=2).stderr
    assert "`attnspec explain` lists them" in run("explain", "widht", status=2).stderr


def test_list_has_a_line_for_each_spec_and_all_of_one() -> None:
    text = run("list", COLUMNS="80").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    assert [line.split()[0] for line in text.splitlines() if line.startswith("  ")] == [
        name for group in specs.GROUPS.values() for name in group
    ]
    assert "BigBird" in run("list", "--filter", "zaheer").stdout
    assert "longformer" not in run("list", "--filter", "zaheer").stdout
    assert "groups are language models" in run("list", "--filter", "widht", status=2).stderr
    assert "did you mean causal?" in run("list", "casual", status=2).stderr
    assert "`attnspec list --filter images` finds axial, " in run("list", "images", status=2).stderr
    full = run("list", "packed_window", "bigbird").stdout
    assert "| recent    | 1024 |" in full
    assert "| doc   | int  | (batch, n)                    | never decreases |" in full
    assert "out = attend(q, k, v, doc=doc)" in full
    assert "attend column in rand[h, row]" in full
    (found,) = read_json("list", "prefix_lm_lengths")
    assert found["inputs"] == {"length": {"type": "int", "shape": ["batch"], "form": "plain"}}
    assert len(read_json("list")) == len(shipped())


def test_help_is_light() -> None:
    code = """
import sys
from attnspec.cli import main
for words in ("help", "help attend", "help python", "help window", "explain E024", "list", "list window"):
    sys.argv = ["attnspec", *words.split()]
    main()
    assert not {"torch", "islpy", "rich"} & set(sys.modules), words
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
