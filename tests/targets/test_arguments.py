"""Real parameters and lists of reals: arguments of kernels, so that one kernel serves all their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import attnspec
from attnspec.analysis.weights import differences
from attnspec.codegen.cpp.unit import KernelKey
from attnspec.codegen.triton.module import TritonKey
from attnspec.codegen.triton.schedule import schedule_for
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.program import facts
from attnspec.runtime.cpp.load import native
from attnspec.runtime.expressions.functions import score_function
from attnspec.runtime.expressions.real import real
from attnspec.runtime.triton.module import made
from tests.support.marks import slow
from tests.support.oracle import agree, tensors
from tests.support.targets import MOSTLY_CPP, TARGETS, compiled, results

SOURCE = """attention a(cap = 50.0, slopes = [0.5, 0.25], tilts = [[0.5, 1], [0.25, 0.125]]) {
    attend 0 <= q - k < 40
    score softcap(4.0 * s, cap) - slopes[h] * (q - k) + tilts[h][k % 2] * exp(-cap / 50) * s
    score if s > cap / 4.0 then s - slopes[1] else s / cap
}"""
OTHER = {"cap": 3, "slopes": [1, -0.3], "tilts": [[0.1, 2.0], [0.7, -3]]}


def paths(attend: Attention, target: str) -> list[str]:
    """The files of the kernels of a pattern."""
    if target == "cpp":
        keys = (KernelKey(direction, "float32", 16, 16) for direction in ("forward", "backward"))
        return [native(attend.program, key, ()).path for key in keys]
    return [made(attend.program, TritonKey(16, 16), (), schedule_for(16, 4, 64)).path]


@pytest.mark.parametrize("target", TARGETS)
def test_one_kernel_serves_all_values(target: str) -> None:
    first, second = (compiled(SOURCE, target, params=params) for params in ({}, OTHER))
    assert paths(first, target) == paths(second, target)
    agree(second, *tensors(70 if target == "cpp" else 40))
    if target == "cpp":
        agree(first, *tensors(70, batch=2))


@pytest.mark.parametrize(
    ("source", "params"),
    [
        ("softcap", {"cap": 30}),
        *(slow("rope", {"theta": 5e5}), slow("yarn", {"theta": 5e5, "factor": 8.5}), slow("xpos", {"decay": 300.5})),
        slow("attention a(t = 2.0) { scale 1.0 / t sink t * 2.0 score s / t }", {"t": 0.3}),
    ],
)
def test_shipped_patterns_share_kernels(source: str, params: dict[str, Any]) -> None:
    first, second = attnspec.compile(source), attnspec.compile(source, params=params)
    assert paths(first, "cpp") == paths(second, "cpp")
    agree(second, *tensors(70))


def test_a_value_that_was_not_seen_before_needs_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a plan was made")

    q, k, v = tensors(50)
    attnspec.compile("softcap")(q, k, v)
    second = attnspec.compile("softcap", cap=17.25)
    monkeypatch.setattr("attnspec.runtime.cpp.load.plan", refuse)
    second(q, k, v)


LITERALS = [
    ("cpp", "softcap(s, cap) - slopes[h] * (q - k)", "softcap(s, 49.0) - [0.3, 0.1][h] * (q - k)"),
    *(
        slow(target, *scores)
        for target in TARGETS
        for scores in (
            ("softcap(s, cap)", "softcap(s, 49.0)"),
            ("s - slopes[h] * (q - k) / cap", "s - [0.3, 0.1][h] * (q - k) / 49.0"),
            ("s / cap + log(cap) * s * s", "s / 49.0 + log(49.0) * s * s"),
        )
    ),
]


@pytest.mark.parametrize(("target", "parametric", "literal"), LITERALS)
def test_arguments_give_the_bits_of_literals(target: str, parametric: str, literal: str) -> None:
    head = "attention a(cap = 1.0, slopes = [0.5, 0.5])"
    params = {"cap": 49, "slopes": [0.3, 0.1]}
    first = compiled(f"{head} {{ within causal score {parametric} }}", target, params=params)
    second = compiled(f"attention a {{ within causal score {literal} }}", target)
    given = tensors(60 if target == "cpp" else 40)
    assert all(torch.equal(a, b) for a, b in zip(results(first, *given), results(second, *given), strict=True))


@pytest.mark.parametrize("target", MOSTLY_CPP)
@pytest.mark.parametrize(("power", "whole"), [(3, True), slow(2.0, True), slow(0.5, False), (2.5, False)])
def test_exponents_shape_the_score_and_are_right(target: str, power: float, whole: bool) -> None:
    source = "attention a(p = 2.5) { within causal score (abs(s) + 0.1) ** p }"
    attend = compiled(source, target, params={"p": power})
    agree(attend, *tensors(45))
    assert ("exp" in str(attend.spec)) == (not whole and power != 0.5)


@pytest.mark.parametrize("target", MOSTLY_CPP)
@pytest.mark.parametrize(
    ("declared", "shape"), [("float", ()), ("float[heads]", (2,)), slow("float[batch, heads]", (2, 2))]
)
def test_an_input_stands_where_a_real_parameter_may(target: str, declared: str, shape: tuple[int, ...]) -> None:
    source = f"attention a {{ input c: {declared}  within causal  score softcap(s, c) }}"
    c = (torch.rand(shape) + 1.0).requires_grad_()
    agree(compiled(source, target), *tensors(45, batch=2), inputs={"c": c})


@pytest.mark.parametrize("cap", ["c", slow("2.0 * c + 0.5"), slow("c * m")])
def test_an_input_stands_where_an_included_pattern_has_a_real(cap: str, tmp_path: Path) -> None:
    source = f"""
        attention sloped(slopes = [0.5]) {{ score s - slopes[h] * (q - k) }}
        attention a(m = 2.0) {{
            input c: float[heads]
            include sloped(slopes = c)
            include softcap(width = 20, cap = {cap})
        }}"""
    (tmp_path / "a.attn").write_text(source, encoding="utf-8")
    attend = attnspec.compile(f"{tmp_path}/a.attn:a")
    agree(attend, *tensors(45, batch=2), inputs={"c": (torch.rand(2) + 1.0).requires_grad_()})


@pytest.mark.parametrize("wrong", ["softcap(width = c)", "softcap(cap = d)", "softcap(width = 0.5 * c)"])
def test_an_input_does_not_stand_where_integers_are_wanted(wrong: str) -> None:
    with pytest.raises(attnspec.SpecError, match="E02"):
        attnspec.read(f"attention a {{ input c: float input d: int include {wrong} }}")


def test_values_of_libraries_are_taken() -> None:
    np = pytest.importorskip("numpy")
    source = "attention a(cap = 5.0, slopes = [0.5]) { score softcap(s, cap) - slopes[h] * k }"
    lists = (np.array([0.5, 1]), torch.tensor([0.5, 1.0]), (np.float32(0.5), 1))
    for cap, slopes in zip((np.float64(2.5), torch.tensor(2.5), np.float32(2.5)), lists, strict=True):
        assert attnspec.compile(source, cap=cap, slopes=slopes).spec.params == (("cap", 2.5), ("slopes", (0.5, 1.0)))
    with pytest.raises(TypeError, match="input cap: float"):
        attnspec.compile(source, cap=torch.nn.Parameter(torch.tensor(2.5)))


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 10**400, True, [1.0], "1", None])
def test_values_that_no_score_has_are_refused(value: Any) -> None:
    with pytest.raises((attnspec.SpecError, TypeError)):
        attnspec.compile("softcap", cap=value)


@pytest.mark.parametrize("score", ["s / t", "s * log(t)", "s / (2.0 * t)", "if t > 0.0 then s / t else s"])
def test_what_is_not_finite_is_an_error_by_value(score: str) -> None:
    source = f"attention a(t = 1.0) {{ score {score} }}"
    attnspec.compile(source)
    with pytest.raises(attnspec.SpecError, match="not a finite number"):
        attnspec.compile(source, t=0.0)


@pytest.mark.parametrize("target", ["cpp", "dense"])
def test_a_list_read_by_head_covers_all_heads(target: str) -> None:
    attend = attnspec.compile("attention a(slopes = [0.5, 0.25]) { score s - slopes[h] * k }", target=target)
    with pytest.raises(attnspec.CallError, match=r"the list in `slopes\[h\]` has no entry for head 2.*has 3 heads"):
        attend(*tensors(10, heads=3))


@pytest.mark.parametrize(
    "line", ["score s + c", "score s * 1e-50 * k * c", "sink c", "scale c", "score s * [c, 1.0][h]"]
)
def test_numbers_that_float32_has_not_are_refused(line: str) -> None:
    """They are infinite in a kernel, and results no numbers."""
    text = f"attention a(c = 1.0) {{ {line} }}"
    for c in (1e39, -1e50):
        with pytest.raises(attnspec.SpecError, match=r"the number -?1e\+[35][90] is too large for a kernel"):
            attnspec.compile(text, c=c)
        attnspec.compile(text, c=c, target="dense")
    attnspec.compile(text, c=-3e38)


def test_patterns_of_other_values_differ() -> None:
    first, second = (attnspec.compile("softcap", cap=cap).spec for cap in (30.0, 50.0))
    assert differences(first, second)
    assert not differences(first, attnspec.compile("softcap", cap=30).spec)
    assert facts(attnspec.compile("softcap", cap=30).program).arguments == ((".cap", 30.0), (".c0", 1.0 / 30.0))


def test_flexattention_is_given_the_values() -> None:
    spec = attnspec.read(SOURCE, params=OTHER)
    sizes = Sizes(50, 50, 2, 2, 1)
    score = score_function(spec, sizes, {})
    assert score is not None
    s, q, k = torch.randn(6), torch.tensor([3, 40, 7, 49, 20, 20]), torch.tensor([3, 10, 0, 48, 5, 4])
    for h in range(2):
        env = {**sizes.parameters(h, 0), "q": q.numpy(), "k": k.numpy()}
        torch.testing.assert_close(score(s, torch.tensor(0), torch.tensor(h), q, k), real(spec.score, env, {}, s))


@pytest.mark.slow
def test_compiled_graphs_carry_the_values() -> None:
    q, k, v = tensors(50)
    for cap in (2.0, 5.5):
        attend = attnspec.compile("softcap", cap=cap)
        graph = torch.compile(lambda q, k, v, f=attend: f(q, k, v), fullgraph=True)
        assert torch.equal(graph(q, k, v), attend(q, k, v))
