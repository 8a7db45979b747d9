"""Branches of a mixture with lines of their own, or shares: what each is alone, and as text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from attnspec.check.check import check_text
from attnspec.language.format import format_source
from tests.support.branch_strategies import branch_cases
from tests.support.strategies import Case


@given(branch_cases())
def test_printed_and_alone(case: Case) -> None:
    """A printed spec is the same spec; the mask counts branches as if they had no lines of their own; so do parts."""
    spec = case.spec()
    assert replace(check_text(str(spec)), params=spec.params) == spec
    assert check_text(format_source(case.text)) == spec
    call = (case.n, case.n_q, case.heads, case.batch)
    mask = spec.mask(*call)
    assert (mask == sum(part.mask(*call).astype(int) for part in spec.parts)).all()
    for alone, part, branch in zip(spec.alone, spec.parts, spec.mixture, strict=True):
        assert not alone.mixture
        assert str(check_text(str(part))) == str(part)
        assert (part == alone) == (branch.times == 1)
        assert (mask >= branch.times * alone.mask(*call)).all()


def test_common_lines_come_first() -> None:
    text = """
        attention a {
            mix {
                branch times 2 { attend causal  score s * 2  normalize q  rotate rope(dims = 8) }
                branch { attend q == k  scale 0.5 }
            }
            score s + 1
            normalize k
            rotate rope(start = 8)
            sink 0.5
        }
    """
    first, second = check_text(text).alone
    assert str(first) == (
        "attention a {\n    attend k <= q\n    normalize k\n    normalize q\n"
        "    rotate rope(dims = 0, layout = half, start = 8, theta = 10000.0)\n"
        "    rotate rope(dims = 8, layout = half, theta = 10000.0)\n    score (s + 1) * 2\n}"
    )
    assert (second.scale, second.sink, second.normalized) == (0.5, None, frozenset("k"))
    assert str(second.score) == "s + 1"


@pytest.mark.parametrize(
    ("body", "composed", "shared"),
    [
        ("score s + 1  mix { branch times 2 { attend causal } branch { attend q == k } }", False, False),
        ("mix w in [2, 4] { attend window(w)  score s / w }", True, False),
        ("mix { branch share 1.0 { attend causal } branch share 0 { attend q == k } }", True, True),
        ("attend causal  score s + 1", False, False),
        ("mix { branch { include alibi } branch { include rope } }", True, False),
    ],
)
def test_what_is_computed_branch_by_branch(body: str, composed: bool, shared: bool) -> None:
    spec = check_text(f"attention a {{ {body} }}")
    assert (spec.composed, spec.shared) == (composed, shared)


def test_a_share_that_is_an_integer_or_follows_from_parameters() -> None:
    mix = "mix { branch share w { attend causal } branch share cap / w { attend q == k } }"
    spec = check_text(f"attention a(w = 3, cap = 2.0) {{ {mix} }}", params={"cap": 4})
    assert spec.counting == ("share 3", "share cap / 3")
    assert str(spec).startswith("attention a(cap = 4.0) {")
    assert [str(alone).splitlines()[0] for alone in spec.alone] == ["attention a {"] * 2
