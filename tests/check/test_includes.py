"""A body with ``include`` means what it means with the clauses written out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnspec.check.check import check_text, problems_of
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.source import Source
from attnspec.language.format import format_source
from attnspec.language.load import load, shipped
from attnspec.language.parse import parse
from attnspec.spec.spec import Spec
from tests.support.command import run
from tests.support.strategies import Case, cases

WRITTEN = {
    "a shipped one": ("include window(width = 8)", "attend window(8)"),
    "by place": ("include sinks(2, 8)", "attend sinks(2) attend window(8) within causal"),
    "a value that is worked out": ("let w = 4 include window(width = 2 * w)", "attend window(8)"),
    "restricted": (
        "include longformer(width = 8) include padded",
        "input length: int[batch] attend |q - k| <= 4 attend q < 16 attend k < 16 within k < length",
    ),
    "inputs are read": (
        "include packed attend doc[q] == 3",
        "input doc: int[batch, n] sorted attend doc[q] == doc[k] within causal attend doc[q] == 3",
    ),
    "its names are its own": (
        "let last = 3 let row = k include bigbird(block = 2) attend row == last",
        "input rand: int[heads, (n + 1) // 2, 3] random(0..(n + 1) // 2, 0) attend |q // 2 - k // 2| <= 1"
        " attend q // 2 == 0 or q // 2 == (n - 1) // 2 attend k // 2 == 0 or k // 2 == (n - 1) // 2"
        " attend k // 2 in rand[h, q // 2] attend k == 3",
    ),
    "scores in order": (
        "score 2.0 * s include softcap(width = 8, cap = 30) score s + 1.0",
        "attend window(8) score 2.0 * s score softcap(s, 30) score s + 1.0",
    ),
    "reals": (
        "include softcap(width = 8, cap = slope) score slopes[h] * s",
        "attend window(8) score softcap(s, slope) score slopes[h] * s",
    ),
    "lists of reals": ("include t(slopes)", "score slopes[h] * s"),
    "rotations and sinks": ("include rope(theta = 5) sink 0.5", "within causal rotate rope(theta = 5) sink 0.5"),
    "a mixture": (
        "within k < 9 include m([2, 4])",
        "within k < 9 mix w in [2, 4] weights detached { attend window(w) } within causal",
    ),
    "axes": (
        "include hierarchical(segment = 8) summary -> summary: q == k",
        "axis token[n] axis summary[(n + 7) // 8 * 4] token -> token: causal and q // 8 == k // 8"
        " token -> summary: k // 4 < q // 8 summary -> token: q // 4 == k // 8 summary -> summary: q == k",
    ),
    "heads": (
        "for h in 0..2 { include sinks(2, 8) within k < 9 } for h in 2..4 { attend k < 2 include window(3) }",
        "for h in 0..2 { attend sinks(2) attend window(8) within causal within k < 9 }"
        " for h in 2..4 { attend k < 2 attend window(3) }",
    ),
    "branches": (
        "mix { branch { include sinks(2, 8) } branch for i in 1..3 times i { include window(i) } }",
        "mix { branch { attend sinks(2) attend window(8) within causal } branch { attend window(1) }"
        " branch times 2 { attend window(2) } }",
    ),
    "an order": (
        "include o within k.slot < 9",
        "order by lsh(buckets = 4) attend q.slot == k.slot within k.slot < 9",
    ),
    "aligned": ("attend causal include b", "attend causal align start input x: int[n_q] attend x[q] == k"),
    "in a group": ("for h in 0..2 { include c(3) }", "for h in 0..2 { for h in 0..1 { attend q == k } }"),
    "of includes": ("include d include d(4)", "attend window(3) within causal attend window(5) within causal"),
}
FILE = """
attention b { align start input x: int[n_q] attend x[q] == k }
attention c(w) { for h in 0..1 { attend q == k } }
attention d(w = 2) { let v = w + 1  include window(v)  include e }
attention e { within causal }
attention m(ws) { mix w in ws weights detached { attend window(w) } within causal }
attention t(xs = [1.5, 2.0]) { score xs[h] * s }
attention o(buckets = 4) { order by lsh(buckets = buckets) attend q.slot == k.slot }
"""


def outcome(body: str, file: str = FILE) -> Spec | list[str]:
    try:
        return check_text(f"attention a(slope = 2.5, slopes = [0.5, 1]) {{ {body} }}\n{file}", "a", filename="own")
    except SpecError as error:
        return [d.code for d in error.diagnostics]


@pytest.mark.parametrize("name", WRITTEN)
def test_an_include_is_what_is_written_out(name: str) -> None:
    body, written = WRITTEN[name]
    assert outcome(body) == outcome(written)
    assert name == "in a group" or isinstance(outcome(body), Spec)


@pytest.mark.parametrize("name", shipped())
def test_shipped_specs_can_be_included(name: str) -> None:
    text = load(name)[0]
    (tree,) = parse(Source(name, text)).attentions
    heading = ", ".join(p.span.text for p in tree.parameters)
    given = ", ".join(f"{p.name.name} = {p.name.name}" for p in tree.parameters)
    found = check_text(f"attention own{f'({heading})' if heading else ''} {{ include {name}({given}) }}")
    want = check_text(text)
    assert replace(found, name=name, doc=want.doc) == want
    assert str(check_text(f"attention own {{ include {name} }}"))


def _body(text: str) -> tuple[str, str]:
    """The patterns of a file, and the clauses of its attention."""
    attention = parse(Source("case", text)).attentions[0]
    start = attention.clauses[0].span.start if attention.clauses else attention.span.end - 1
    return text[: attention.span.start], text[start : attention.span.end - 1]


@given(cases(size=2), cases(size=2), st.booleans())
def test_bodies_written_out(one: Case, other: Case, first: bool) -> None:
    patterns, body = _body(one.text)
    heading = one.text[len(patterns) : one.text.index("{", len(patterns))].replace("case", "one")
    more, rest = _body(re.sub(r"_(\d+)\b", r"_\1x", other.text.replace("align start", "")))
    own = heading.replace("one", "a")
    given_ = "(width = width, attend = attend, xs = xs, flag = flag)"

    def of(part: str) -> Spec | str:
        both = f"{part}\n{rest}" if first else f"{rest}\n{part}"
        text = f"{patterns} {more} {own} {{ {both} }} {heading} {{ {body} }}"
        try:
            return check_text(text, "a", one.params)
        except SpecError as error:
            return error.diagnostics[0].code

    assert of(f"include one{given_}") == of(body)


MISTAKES = {
    "include longforme": ("E011", ["own: longforme"], "did you mean `longformer`?"),
    "include global(3)": ("E011", ["own: global"], "it is a pattern: `attend global`"),
    "include window(wdth = 3)": ("E015", ["own: wdth = 3"], "did you mean `width`?"),
    "include window(1, 2)": ("E015", ["own: 2"], ""),
    "include window(width = q)": ("E028", ["own: q"], ""),
    "include window(width = [1])": ("E021", ["own: [1]"], ""),
    "include c": ("E015", ["own: include c", "own: w"], ""),
    "input doc: int[n] include packed": (
        "E013",
        ["own: include packed", "packed.attn: input doc: int[batch, n] sorted", "own: doc"],
        "",
    ),
    "include packed let doc = 3": (
        "E013",
        ["own: doc", "packed.attn: input doc: int[batch, n] sorted", "own: include packed"],
        "",
    ),
    "include memory axis read[2]": (
        "E047",
        ["own: axis read[2]", "memory.attn: read    -> read:    causal or both_ways"],
        "",
    ),
    "sink 0.5 include gpt_oss": (
        "E013",
        ["own: include gpt_oss", "gpt_oss.attn: sink sinks[h]", "own: sink 0.5"],
        "",
    ),
    "include gpt_oss sink 0.5": (
        "E013",
        ["own: sink 0.5", "gpt_oss.attn: sink sinks[h]", "own: include gpt_oss"],
        "",
    ),
    "align end include b": ("E013", ["own: align start", "own: align end", "own: include b"], ""),
    "attend causal include longnet": ("E046", ["own: attend causal", "longnet.attn: mix"], ""),
    "include longnet include longnet_branch": ("E046", ["own: include longnet_branch", "longnet.attn: mix"], ""),
    "include hierarchical attend causal": ("E047", ["own: attend causal", "hierarchical.attn: axis token[n]"], ""),
    "include rope include yarn": ("E045", ["own: include yarn", "own: include rope", "yarn.attn: ", "rope.attn: "], ""),
    "include reformer include longnet": ("E046", ["own: include reformer", "longnet.attn: mix"], ""),
    "for h in 0..2 { include padded }": (
        "E032",
        ["own: include padded", "padded.attn: input length: int[batch]"],
        "",
    ),
    "mix { branch { include gpt_oss } }": (
        "E032",
        ["own: include gpt_oss", "gpt_oss.attn: input sinks: float[heads]"],
        "",
    ),
    "include f": ("E016", ["own: g", "own: f"], ""),
    "include q": ("E001", ["own: q"], ""),
}
CIRCLE = FILE + "attention f { include g } attention g { for h in 0..2 { include f } }"


@pytest.mark.parametrize("body", [b for b in MISTAKES if b != "include q"])
def test_mistakes_name_both_places(body: str) -> None:
    code, places, help = MISTAKES[body]
    with pytest.raises(SpecError) as caught:
        check_text(f"attention a {{ {body} }}\n{CIRCLE if 'f' in body.split() else FILE}", "a", filename="own")
    first = caught.value.diagnostics[0]
    assert first.code == code
    labels = [f"{span.source.name}: {span.text}" for span, _ in first.labels]
    assert len([d for d in caught.value.diagnostics if d.code == code]) == 1
    for place in places:
        assert any(label.startswith(place) for label in labels), (place, labels)
    assert first.help == help or not help
    assert first.span.source.name == "own" or code == "E048"


def test_all_of_a_file_is_checked() -> None:
    text = "attention a { include b(w = 3 include window } attention b(w) { include c } attention c { attend x }"
    assert {d.code for d in problems_of(Source("own", text))} >= {"E002", "E011"}
    text = "attention b(w) { include longforme  include packed  attend doc[q] == w and dog[k] == 1 }"
    assert [d.title for d in problems_of(Source("own", text))] == [
        "there is no attention `longforme`",
        "unknown name `dog`",
    ]


def test_includes_do_not_explode() -> None:
    twice = "".join(f"attention a{i} {{ include a{i + 1} include a{i + 1} }}\n" for i in range(20))
    with pytest.raises(SpecError, match="E030"):
        check_text(f"{twice} attention a20 {{ attend q == k }}", "a0")
    chain = "".join(f"attention a{i} {{ include a{i + 1} }}\n" for i in range(60))
    with pytest.raises(SpecError, match="E007"):
        check_text(f"{chain} attention a60 {{ attend q == k }}", "a0")
    assert str(check_text(f"{chain} attention a60 {{ attend q == k }}".replace("a30 }", "e }") + FILE, "a0"))


def test_an_include_is_formatted() -> None:
    text = "attention a{include longformer(width=64,)include padded\nwithin k<=q}"
    neat = "attention a {\n    include longformer(width = 64,)\n    include padded\n    within k <= q\n}\n"
    assert format_source(text) == neat
    assert format_source(neat) == neat


def test_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.attn"
    path.write_text("attention mine { include sinks(2, 8)  include rope }\nattention other { include sinks(2, 9) }")
    run("check", str(path))
    assert "within k <= q" in run("emit", f"{path}:mine", "--stage", "spec").stdout
    assert "attend window(recent)" in run("inspect", f"{path}:mine", "-n", "64").stdout
    run("diff", f"{path}:other", "sinks", "2:start=2", "2:recent=9")
    run("diff", f"{path}:other", "sinks", "2:start=2", "2:recent=8", status=1)
