"""Score, sink, scale and rotate lines: what they compute is what their text says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnspec.check.check import check_text
from attnspec.check.expressions.library import LIBRARY, steps
from attnspec.errors.diagnostic import SpecError
from attnspec.language import words
from attnspec.spec import expr as e
from attnspec.spec.arrays import derive, slopes
from attnspec.spec.evaluate import table, value_of, value_real
from attnspec.spec.real import Score
from attnspec.spec.spec import Spec
from tests.support.marks import slow


def spec(body: str, **params: Any) -> Spec:
    heading = ", ".join(f"{name} = {value}" for name, value in params.items())
    return check_text(f"attention a({heading}) {{ {body} }}" if heading else f"attention a {{ {body} }}")


def score(found: Spec, q: int, k: int, s: float, h: int = 0, **inputs: Any) -> float:
    arrays = derive(found, inputs, found.sizes(16, heads=4))
    env = {**found.sizes(16, heads=4), **{table(name): x for name, x in arrays.items()}, "q": q, "k": k, "h": h, "b": 0}
    return float(value_real(found.score, env, np.float64(s)))


SLOPE = np.array([0.5, -1.25, 3.0, 0.0])
LEAVES = st.sampled_from(["s", "q", "k", "h", "w", "2", "0.5", "1e-2", "slope[h]", "(q - k)", "xs[h]"])
OPS = st.sampled_from(["+", "-", "*", "* 2 +", "/ 4 -", "/ 0.3 *", "/ w +"])


@st.composite
def expressions(draw: st.DrawFn, size: int = 3) -> str:
    """A real expression in the part of the language that is Python too."""
    if size == 0:
        return draw(LEAVES)
    parts = [draw(expressions(draw(st.integers(0, size - 1)))) for _ in range(draw(st.integers(1, 3)))]
    text = parts[0]
    for part in parts[1:]:
        text += f" {draw(OPS)} {part}"
    wrap = draw(st.sampled_from(["{}", "({})", "-({})", "tanh({})", "abs({})", "sqrt(abs({}))", "log(1 + abs({}))"]))
    return wrap.format(text)


@given(expressions(), st.integers(0, 15), st.integers(0, 15), st.integers(0, 3), st.floats(-4, 4))
def test_a_score_is_what_the_text_says(text: str, q: int, k: int, h: int, s: float) -> None:
    found = spec(f"input slope: float[heads] score {text}", w=6, xs=[3, 1, 4, 1])
    functions = {"tanh": math.tanh, "sqrt": math.sqrt, "log": math.log}
    env = {"s": s, "q": q, "k": k, "h": h, "w": 6, "slope": SLOPE, "xs": [3, 1, 4, 1], **functions}
    want = float(eval(text, env))
    assert score(found, q, k, s, h, slope=SLOPE) == pytest.approx(want, rel=1e-9, abs=1e-9), str(found)
    again = check_text(str(found))
    assert score(again, q, k, s, h, slope=SLOPE) == pytest.approx(want, rel=1e-9, abs=1e-9), str(found)
    assert str(check_text(str(again))) == str(again)


def test_lines_are_applied_in_the_order_written() -> None:
    found = spec("score s + 1 score s * 2 let c = 10.0 let twice(x) = 2 * x score softcap(s, c) + twice(s / 4)")
    assert score(found, 0, 0, 3.0) == pytest.approx(10 * math.tanh(8 / 10) + 4)
    assert spec("attend causal").score == Score()


def test_conditions() -> None:
    found = spec("score if q > k then s else if q == k then 2 else s / 2 score if w > 3 then s else 0", w=4)
    assert [score(found, 1, k, 5.0) for k in range(3)] == [5.0, 2.0, 2.5]
    assert "if 4 > 3" not in str(found)


def test_reads_outside_are_zero() -> None:
    found = spec("input bias: float[2, 3] score s + bias[h, q - k] + 0.5 * [1, 2][q]")
    bias = np.arange(1.0, 7.0).reshape(2, 3)
    assert score(found, 1, 0, 0.0, h=1, bias=bias) == 5.0 + 1.0
    assert score(found, 2, 2, 0.0, h=2, bias=bias) == 0.0
    assert score(found, 0, 1, 0.0, h=0, bias=bias) == 0.5


def test_bias_by_batch_and_head() -> None:
    found = spec("input bias: float[batch, heads, n_q, n] score s + bias[q, k]")
    assert "bias[b, h, q, k]" in str(found)
    arrays = derive(found, {"bias": np.arange(24.0).reshape(1, 2, 3, 4)}, found.sizes(4, 3, heads=2))
    env = {**found.sizes(4, 3), table("bias"): arrays["bias"], "q": np.array([2]), "k": 1, "h": 1, "b": 0}
    assert value_real(found.score, env, np.zeros(1)).tolist() == [12 + 4 + 1]


# ALiBi, T5


def published_slopes(n: int) -> list[float]:
    """``get_slopes`` of the published code (Press et al., 2022)."""

    def power_of_two(n: int) -> list[float]:
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(n).is_integer():
        return power_of_two(n)
    nearest = 2 ** math.floor(math.log2(n))
    return power_of_two(nearest) + published_slopes(2 * nearest)[0::2][: n - nearest]


@pytest.mark.parametrize("heads", [*range(1, 20), 32, 48, 96])
def test_alibi_slopes(heads: int) -> None:
    assert slopes(heads) == pytest.approx(np.array(published_slopes(heads)), rel=1e-12)


def test_alibi() -> None:
    found = spec("score s - alibi_slope(h, heads) * (q - k)")
    assert score(found, 5, 2, 1.0, h=1) == 1 - 3 / 16
    assert found.inputs == ()
    assert check_text(str(found)).score == found.score


T5 = [
    slow(32, 128, True),
    (32, 128, False),
    (64, 256, True),
    (16, 20, False),
    (8, 1000, True),
    (4, 3, False),
    (320, 800, True),
]


@pytest.mark.parametrize(("buckets", "furthest", "both"), T5)
def test_t5_buckets(buckets: int, furthest: int, both: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    torch = pytest.importorskip("torch")
    distance = np.arange(-3 * furthest, 3 * furthest + 1)
    want = t5.T5Attention._relative_position_bucket(torch.from_numpy(distance), both, buckets, furthest).numpy()
    found = spec(f"attend t5_bucket(k - q, {buckets}, {furthest}, {str(both).lower()}) == 0")
    clause = found.attend[0].pred
    assert isinstance(clause, e.Cmp)
    value, _ = value_of(clause.left, {"q": 0, "k": distance})
    assert (value == want).all()
    assert (check_text(str(found)).mask(40) == found.mask(40)).all()


@given(st.integers(1, 40), st.integers(1, 2000), st.booleans())
def test_t5_steps_never_go_back(quarter: int, further: int, both: bool) -> None:
    buckets = 4 * quarter
    exact, found = steps(buckets, (buckets // 2 if both else buckets) // 2 + further, both)
    assert list(found) == sorted(found)
    assert len(found) == (buckets // 2 if both else buckets) - exact - 1
    assert all(at > exact for at in found)


# Sinks, scales, rotations


def test_sink_scale_and_normalize() -> None:
    found = spec("input logit: float[batch, heads] sink logit - 0.5 * h scale 1 / 8 normalize k normalize q")
    assert found.scale == 0.125
    assert found.normalized == {"q", "k"}
    assert str(found.sink) == "logit[b, h] - 0.5 * h"
    assert check_text(str(found)) == spec(str(found)[13:-1])
    assert spec("scale w", w=3).scale == 3.0


def test_rotations_have_all_their_options() -> None:
    found = spec(
        "rotate rope(dims = 8) rotate xpos(scale_base = 2 * w, start = 8, dims = 2) at (q // 2, k + 1) "
        "rotate yarn(factor = 32, original = 4096, start = 2 * w + 4)",
        w=3,
    )
    rope, xpos, yarn = found.rotations
    assert dict(rope.options) == {"theta": 10000.0, "dims": 8, "layout": "half"}
    assert (rope.q, rope.k) == (e.Var("q"), e.Var("k"))
    assert dict(xpos.options) == {
        "theta": 10000.0,
        "scale_base": 6.0,
        "dims": 2,
        "start": 8,
        "layout": "half",
    }
    assert (str(xpos.q), str(xpos.k)) == ("q // 2", "k + 1")
    options = dict(yarn.options)
    assert options["attention_factor"] == pytest.approx(0.1 * math.log(32) + 1)
    assert (options["ramp"], options["truncate"], options["beta_fast"], options["original"]) == (
        "index",
        True,
        32.0,
        4096,
    )
    assert all([name for name, _ in r.options] == sorted(name for name, _ in r.options) for r in found.rotations)
    assert check_text(str(found)).rotations == found.rotations


def test_rotations_may_read_inputs() -> None:
    found = spec("input doc: int[batch, n] sorted rotate rope(theta = 5e5) at (q - first(doc, q), k - first(doc, k))")
    assert str(found.rotations[0].q) == "q - first(doc, q)"
    assert check_text(str(found)).rotations == found.rotations


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("score if causal then s else -inf", "E043"),
        ("score s + 1e400", "E043"),
        ("score s + log(w - w)", "E043"),
        ("score s / (w - w)", "E043"),
        ("score s % 2", "E021"),
        ("attend s < 2", "E011"),
        ("let x = 0.5 attend q < x", "E021"),
        ("score any i in 0..2: q == i", "E021"),
        ("sink 1 sink 2", "E013"),
        ("scale 1 scale 2", "E013"),
        ("normalize v", "E032"),
        ("normalize k normalize k", "E032"),
    ],
)
def test_wrong_lines(line: str, code: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(line, w=3)
    assert {d.code for d in caught.value.diagnostics} == {code}


def test_a_score_cannot_grow_without_limit() -> None:
    with pytest.raises(SpecError, match="E030"):
        spec("score s + q " + "score s * s " * 40)
    with pytest.raises(SpecError, match="E007"):
        spec("score tanh(s) " * 200)


def test_constants_that_the_checker_does_not_fold() -> None:
    found = spec(
        "scale (sum i in 0..4: 2) / 10 rotate rope(theta = sum i in 0..4: 2, dims = sum i in xs: 2) "
        "attend q in [sum i in 0..2: 1, 0]",
        xs=[1, 2],
    )
    assert found.scale == 0.8
    assert dict(found.rotations[0].options) == {"theta": 8.0, "dims": 4, "layout": "half"}
    assert found.mask(4)[0, 0, :, 0].tolist() == [True, False, True, False]
    assert dict(spec("attend q < w", w="sum i in 0..3: i").params) == {"w": 3}


def test_the_library_has_the_functions_that_are_words_of_the_language() -> None:
    assert LIBRARY.keys() == words.BUILTINS | words.LIBRARY
