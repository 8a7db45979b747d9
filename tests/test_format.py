"""Formatting changes white space only, once, and keeps what the user wrote."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnspec.check import check_text
from attnspec.error import SpecError
from attnspec.format import format_source
from attnspec.scan import scan
from tests.strategies import Case, cases

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
    text = files("attnspec").joinpath("prelude.attn").read_text(encoding="utf-8")
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


def test_style() -> None:
    assert format_source(MESSY) == NEAT
    assert format_source(MESSY.replace("\n", "\r\n")) == NEAT


def test_what_does_not_parse_is_not_formatted() -> None:
    with pytest.raises(SpecError):
        format_source("attention a { attend q < }")
