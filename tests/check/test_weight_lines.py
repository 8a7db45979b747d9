"""Lines about weights: their text is what they mean, wherever they come from, and bounds that are read off it hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnspec
from attnspec.check.check import check_text
from attnspec.language.format import format_source
from attnspec.relation.sizes import Sizes
from attnspec.runtime.linear.features import mapped
from attnspec.runtime.prepare.example import example
from attnspec.spec import feature as f
from attnspec.spec.spec import Spec
from attnspec.spec.weights import Weights

_ENTRY = st.recursive(
    st.sampled_from(["x", "x * w[h, c]", "0.5", "softmax(x)", "unit(x)", "width * x", "x / 2", "(-x)", "c * x"]),
    lambda inner: (
        st.builds("{}({})".format, st.sampled_from(["exp", "tanh", "relu", "elu", "sigmoid", "softplus"]), inner)
        | st.builds("({} {} {})".format, inner, st.sampled_from(["+", "*", "-"]), inner)
        | st.builds("({} ** 2)".format, inner)
        | st.builds("|({})|".format, inner.filter(lambda text: "|" not in text))
    ),
    max_leaves=4,
)
_FAVOR = st.builds(
    "favor({}, features = {}, seed = {}{})".format,
    st.sampled_from(["x", "x / 2"]),
    st.integers(1, 5),
    st.integers(0, 3),
    st.sampled_from(["", ", kernel = relu", ", eps = 0", ", stable = all, scaling = sqrt", ", through_max = true"]),
)
_PART = _ENTRY | st.builds(
    "favor({}, stable = none, features = {})".format, st.sampled_from(["x", "unit(x)"]), st.integers(1, 5)
)
_FEATURE = _ENTRY | _FAVOR | st.lists(_PART, min_size=1, max_size=3).map(lambda x: f"[{', '.join(x)}]")
_DIVIDE = st.sampled_from(
    ["", "divide total", "divide each total", "divide max(total, 1.0)", "divide guarded(total, eps) + mass",
     "divide each |total| + by[h]", "divide if total > 0.5 then total else by[h] + 1"]
)  # fmt: skip
_DECAY = st.sampled_from(
    ["", "decay gate[b, h, t]", "decay -alibi_slope(h, heads)", "decay -eps * t  decay gate[h, t]",
     "decay if off[b, t] then 0.0 else -softplus(gate[t])", "decay gate[b, h, t] * c"]
)  # fmt: skip
_DELTA = st.sampled_from(["", "delta 1.0", "delta beta[b, h, k]", "delta if k % 2 == 0 then eps else beta[k]"])
_INPUTS = """
    input w: float[heads, dim]   input by: float[heads]   input off: bool[batch, n]
    input gate: float[batch, heads, n]   input beta: float[batch, heads, n_q]
"""


@st.composite
def lines(draw: st.DrawFn) -> str:
    """Lines about weights that may stand together."""
    feature = draw(
        st.builds("linear {}".format, _FEATURE) | st.builds("linear q: {}  linear k: {}".format, *[_ENTRY] * 2)
    )
    return "  ".join([draw(_DECAY), feature, draw(_DIVIDE), draw(_DELTA)])


def spec(text: str) -> Spec:
    return check_text(f"attention a(width = 3, eps = 0.5) {{ {_INPUTS} attend causal {text} }}")


@given(lines())
def test_a_printed_spec_means_the_same(text: str) -> None:
    found = spec(text)
    again = check_text(str(found))
    assert again.weights == found.weights, str(found)
    assert str(again) == str(found)
    laid_out = format_source(f"attention a(width = 3, eps = 0.5) {{ {_INPUTS} attend causal {text} }}")
    assert format_source(laid_out) == laid_out
    assert check_text(laid_out).weights == found.weights


@given(st.sampled_from(["q", "k"]), _FEATURE, st.floats(0.1, 20))
@settings(deadline=None)
def test_features_are_as_many_as_is_said_and_lie_within_their_bounds(side: str, text: str, size: float) -> None:
    found = spec(f"linear {text}")
    feature = found.weights.q
    assert feature is not None
    sizes = Sizes(6, 6, 2, 2, 1)
    inputs = example(found, sizes, torch.Generator().manual_seed(0), {"dim": 4})
    inputs["w"] = 10 * inputs["w"]
    x = size * torch.randn(1, 2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = mapped(found, side, x, inputs, sizes, None).values
    assert values.shape == (1, 2, 6, f.size(feature, 4))
    low, high = f.bounds(feature)
    known = values[values.isfinite()]
    assert bool(((known >= low - 1e-9 * abs(low)) & (known <= high + 1e-9 * abs(high))).all()), (low, high)


@given(lines())
@settings(max_examples=8, deadline=None)
def test_a_call_of_a_printed_spec_gives_the_same(text: str) -> None:
    found = spec(text)
    attend = [attnspec.compile(t, target="dense") for t in (str(found), str(check_text(str(found))))]
    q, k, v = torch.randn(3, 1, 2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    inputs = example(found, Sizes(6, 6, 2, 2, 1), torch.Generator().manual_seed(0), {"dim": 4})
    if "[exp" in text or "linear" not in text:
        return
    outs = [one(q, k, v, inputs=inputs) for one in attend]
    assert outs[0].shape == q.shape
    torch.testing.assert_close(*outs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("elu(x) + 1", True), ("1 + elu(x)", True), ("elu(x) + 0.5", False), ("exp(x)", True), ("relu(x)", True),
        ("softmax(x)", True), ("[softmax(x), softmax(-x)]", True), ("[relu(x), x]", False), ("x ** 2", True),
        ("x ** 3", False), ("favor(x)", True), ("unit(x) + 1", True), ("x", False), ("-exp(x)", False),
        ("2 * relu(x) + 3", True), ("1 - sigmoid(x)", True), ("max(x, 0.0)", True), ("tanh(x) + 1", True),
        ("sqrt(relu(x))", True), ("1", True), ("-1", False), ("exp(x) / 2", True), ("1 / (1 + exp(x))", True),
    ],
)  # fmt: skip
def test_features_that_are_never_negative(text: str, never: bool) -> None:
    assert spec(f"linear {text}").weights.never_negative == never


def test_branches_have_their_own_on_top_of_those_for_all() -> None:
    found = check_text(
        "attention a { decay -1.0  mix { branch { attend causal } "
        "branch { attend causal  linear exp(x)  divide total  decay -h } } }"
    )
    one, two = (part.weights for part in found.alone)
    assert str(one) == "decay -1.0"
    assert str(two) == "linear exp(x)\ndivide total\ndecay -1.0 - h"
    assert check_text(str(found)) == found
    assert not replace(found, mixture=found.mixture[:1]).composed
    assert Weights().softmax_only
    assert not found.softmax_only
