"""Formatting changes white space only, once, and keeps what the user wrote."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnspec.check.check import check_text
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.source import Source
from attnspec.language.format import format_source
from attnspec.language.parse import parse
from attnspec.language.scan import scan
from tests.support.strategies import Case, cases
from tests.support.trees import SHAPES, shape

SHIPPED = sorted(f.name for f in files("attnspec.specs").iterdir() if f.name.endswith(".attn"))


def words(text: str) -> list[str]:
    return [token.text.rstrip() for token in scan(text)]


def disturb(data: st.DataObject, text: str) -> str:
    """The same tokens with other white space and with comments, anywhere."""
    spaces = st.sampled_from([" ", "  ", "\n", "\n\n\n", "\t", " # note\n", "\n  # own line\n", "\n\n# apart\n\n"])
    tokens = [token.text for token in scan(text)]
    return "".join(token + ("\n" if token.startswith("#") else "") + data.draw(spaces) for token in tokens)


@given(cases(), st.data())
def test_only_spaces_change_and_only_once(case: Case, data: st.DataObject) -> None:
    text = disturb(data, case.text)
    once = format_source(text)
    assert words(once) == words(text)
    assert format_source(once) == once
    assert str(check_text(once, params=case.params)) == str(case.spec())


@given(st.lists(st.sampled_from(sorted(SHAPES)), max_size=6), st.data())
def test_every_clause_keeps_its_tree(clauses: list[str], data: st.DataObject) -> None:
    text = disturb(data, "attention a {{ {} }}".format(" ".join(clauses)))
    once = format_source(text)
    assert words(once) == words(text)
    assert format_source(once) == once
    (attention,) = parse(Source("t", once)).attentions
    assert [shape(clause) for clause in attention.clauses] == [SHAPES[clause] for clause in clauses]


@given(cases(size=3))
def test_lines_are_short_and_indented(case: Case) -> None:
    for line in format_source(case.text).splitlines():
        assert line == line.rstrip()
        assert (len(line) - len(line.lstrip())) % 4 == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_specs_are_formatted(name: str) -> None:
    text = files("attnspec.specs").joinpath(name).read_text(encoding="utf-8")
    assert format_source(text) == text


def test_prelude_is_formatted() -> None:
    text = files("attnspec.language").joinpath("prelude.attn").read_text(encoding="utf-8")
    assert format_source(text) == text


MESSY = """\
# about the file


"What it does"   # c0
attention  a ( w=4 , xs=[1,2 ,3],attend=2) {   # c1

  # c2

  "body doc"

  attend (q<k)or not(k<  -q) and - q- -3< 2 # trailing
  attend(q<3) at(q//2,k %3) and |q -k|<=xs [ h ]


  attend q<3 # first
     or k<2
     # inside
     or k==q # last
  for h in 0 .. 4{ attend any i in 0..3:xs[ i ]==q or q-k==2**i and h<heads or q+2*k==17 or |q-k|<=5 or q//7==k//7
  let  x ( i )=i//w  let y=if q<3 then 1 else 2
  # the end
  }
  align   start within
  sum j in 0..4:j<q
}
pattern p(a,b=2)= "of p" a<q
"""

NEAT = """\
# about the file

"What it does"  # c0
attention a(w = 4, xs = [1, 2, 3], attend = 2) {  # c1
    # c2

    "body doc"

    attend (q < k) or not (k < -q) and -q - -3 < 2  # trailing
    attend (q < 3) at (q // 2, k % 3) and |q - k| <= xs[h]

    attend q < 3  # first
        or k < 2
        # inside
        or k == q  # last
    for h in 0..4 {
        attend any i in 0..3: xs[i] == q
            or q - k == 2 ** i and h < heads
            or q + 2 * k == 17
            or |q - k| <= 5
            or q // 7 == k // 7
        let x(i) = i // w
        let y = if q < 3 then 1 else 2
        # the end
    }
    align start
    within sum j in 0..4: j < q
}
pattern p(a, b = 2) =
    "of p"
    a < q
"""


MESSY_CLAUSES = """\
attention hierarchical(segment=2048){axis token [n] axis summary[(n+segment-1)//segment * slots]keys
token->token:causal and q//segment==k//segment
token -> summary : -k<q # few
# why
  summary   ->   token: q<k
  attend a token->token:q<k
mix(w,r)in[(2048,1)]weights detached{"one"attend segment(w)and q%r==0}
mix r in segments { within causal }

mix{branch{attend q<3}branch times(2){ # twice

for h in 0..2{attend k<2}}branch times -x{}}
input doc:int[ batch,n ]sorted input p : int
input blocks:int[heads,n//64,3]random(0 .. n//64,7)
attend keep[ b,h,q//64 ]and k.slot<q . slot
order by lsh(buckets=64)
recur by by(s-1)ragged  first carry last->last,by last(1)by layer detached
carry a->b last -x recall a,b from from by summary(part=1/2,dim=8)horizon -4
score(s+1)/2 score-s score if q==k then -1e5 else s/2
rotate rope(theta=10000)at(q-first(doc,q),k)
sink -logit[h] scale(1.0)/8 normalize k
mix (w, r, name) in [(2048, 1, 100000), (4096, 2, 100000), (8192, 4, 100000), (16384, 8, 100000)] {attend q < w}}
"""

NEAT_CLAUSES = """\
attention hierarchical(segment = 2048) {
    axis token[n]
    axis summary[(n + segment - 1) // segment * slots] keys
    token   -> token:   causal and q // segment == k // segment
    token   -> summary: -k < q  # few
    # why
    summary -> token:   q < k
    attend a
    token -> token: q < k
    mix (w, r) in [(2048, 1)] weights detached {
        "one"
        attend segment(w) and q % r == 0
    }
    mix r in segments {
        within causal
    }

    mix {
        branch {
            attend q < 3
        }
        branch times (2) {  # twice
            for h in 0..2 {
                attend k < 2
            }
        }
        branch times -x {
        }
    }
    input doc: int[batch, n] sorted
    input p: int
    input blocks: int[heads, n // 64, 3] random(0..n // 64, 7)
    attend keep[b, h, q // 64] and k.slot < q.slot
    order by lsh(buckets = 64)
    recur by by (s - 1) ragged first
    carry last -> last, by last (1) by layer detached
    carry a -> b last -x
    recall a, b from from by summary(part = 1 / 2, dim = 8)
    horizon -4
    score (s + 1) / 2
    score -s
    score if q == k then -1e5 else s / 2
    rotate rope(theta = 10000) at (q - first(doc, q), k)
    sink -logit[h]
    scale (1.0) / 8
    normalize k
    mix (w, r, name) in [(2048, 1, 100000), (4096, 2, 100000), (8192, 4, 100000),
        (16384, 8, 100000)] {
        attend q < w
    }
}
"""


def test_style_of_clauses() -> None:
    assert format_source(MESSY_CLAUSES) == NEAT_CLAUSES
    assert format_source(NEAT_CLAUSES) == NEAT_CLAUSES


def test_style() -> None:
    assert format_source(MESSY) == NEAT
    assert format_source(MESSY.replace("\n", "\r\n")) == NEAT


def test_what_does_not_parse_is_not_formatted() -> None:
    with pytest.raises(SpecError):
        format_source("attention a { attend q < }")


def test_a_branch_for_each_value() -> None:
    text = "attention a{mix{branch for(w,r)in xs times(2){attend q<w}branch for times in 0..2 times times{attend k<2}}}"
    got = format_source(text)
    assert "        branch for (w, r) in xs times (2) {\n" in got
    assert "        branch for times in 0..2 times times {\n" in got
    assert format_source(got) == got
