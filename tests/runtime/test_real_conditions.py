"""`min`, `max`, `clamp`, comparisons and powers of reals in score lines, against what torch says of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attnspec.check.check import check_text
from attnspec.errors.diagnostic import SpecError
from attnspec.relation.sizes import Sizes
from attnspec.runtime.expressions.functions import score_function
from attnspec.runtime.expressions.real import real
from attnspec.spec.derive import derivatives
from attnspec.spec.real import RealRead, Score

CASES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max(s, -0.5)": lambda s, x: torch.clamp(s, min=-0.5),
    "min(s, 0.5, x[h])": lambda s, x: torch.minimum(torch.clamp(s, max=0.5), x),
    "clamp(s, -1, x[h])": lambda s, x: torch.minimum(torch.clamp(s, min=-1), x),
    "if s > x[h] then 2.0 * s else x[h] * s": lambda s, x: torch.where(s > x, 2 * s, x * s),
    "if -1 < s <= 0.25 or not s != 1 then s else 0.0": lambda s, x: torch.where((s > -1) & (s <= 0.25), s, 0.0 * s),
    "s ** 2 - s ** 3": lambda s, x: s**2 - s**3,
    "s ** -1 + s ** 0": lambda s, x: 1 / s + 1,
    "(2.5 + s) ** 0.5 + (3 + s) ** -1.5": lambda s, x: (2.5 + s) ** 0.5 + (3 + s) ** -1.5,
    "2 ** s + (3 + x[h]) ** s": lambda s, x: 2**s + (3 + x) ** s,
    "s * (if q - k < 2 and x[h] >= 0.0 then 2.0 else x[h])": lambda s, x: s * x,
}


@pytest.mark.parametrize("text", CASES)
def test_values_and_gradients(text: str) -> None:
    spec = check_text(f"attention a {{ input x: float[heads]  attend k <= q  score {text} }}")
    assert str(check_text(str(spec))) == str(spec)
    s = torch.linspace(-1.9, 2.1, 37, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.125], dtype=torch.float64, requires_grad=True)
    env = {"h": 0, "q": 9, "k": 3}
    got, want = real(spec.score, env, {"x": x}, s), CASES[text](s, x)
    if "q - k < 2" in text:
        want = s * x
    torch.testing.assert_close(got, want)
    gradients = torch.autograd.grad(want.sum(), (s, x), allow_unused=True)
    for found, wanted in zip(torch.autograd.grad(got.sum(), (s, x), allow_unused=True), gradients, strict=True):
        torch.testing.assert_close(*(torch.zeros(()).double() if g is None else g for g in (found, wanted)))
    by = derivatives(spec.score)
    torch.testing.assert_close(real(by[Score()], env, {"x": x}, s).expand(37), gradients[0])
    for leaf, derivative in by.items():
        if isinstance(leaf, RealRead):
            torch.testing.assert_close(real(derivative, env, {"x": x}, s).expand(37).sum()[None], gradients[1])
    flex = score_function(spec, Sizes(16, 16, 1, 1, 1, True), {"x": x})
    assert flex is not None
    places = (torch.tensor(value) for value in (0, 0, 9, 3))
    torch.testing.assert_close(flex(s, *places), want)


@pytest.mark.parametrize(
    "body",
    [
        "input x: float[n] attend x[k] < 0.5",
        "input x: float[n] let big = x[k] > 1 attend big",
        "input x: float[n] attend max(x[k], 1) < 2",
    ],
)
def test_reals_are_compared_in_scores_only(body: str) -> None:
    with pytest.raises(SpecError, match=r"E021.*integer"):
        check_text(f"attention a {{ {body} }}")


def test_a_power_without_a_value_is_an_error() -> None:
    with pytest.raises(SpecError):
        check_text("attention a { attend k <= q score s + (-2.0) ** 0.5 }")
