"""Predicates, scores and gradients as Triton functions, in Triton's interpreter: they mean what evaluation means."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnspec.check.check import check_text
from attnspec.codegen.triton import functions as triton_values
from attnspec.codegen.triton.functions import Function
from attnspec.codegen.triton.parameters import size
from attnspec.codegen.triton.syntax import MOST_RUNS, LongList
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.arrays import derive
from attnspec.spec.derive import SIGN
from attnspec.spec.evaluate import holds, table
from tests.support.marks import slow
from tests.support.real_cases import FLOATS, INTEGERS, PREDICATE, REAL, SIZES, agree, reference
from tests.support.strategies import Case, cases
from tests.support.triton_unit import MODES, call, kernel, load, text

pytest.importorskip("triton")
EXAMPLES = max(40, settings().max_examples // 4)
KINDS = st.sampled_from([np.int32, np.int64])
Q, K, H, B = (e.Var(name) for name in "qkhb")
Inputs = Mapping[str, NDArray[Any]]


def found(
    folder: Path, pred: e.Pred, q: Any, k: Any, mode: str, env: Mapping[str, int], inputs: Inputs
) -> NDArray[Any]:
    """Where a predicate holds, in Triton."""
    function = triton_values.allowed(pred, "allowed")
    module = load(folder, function.text, kernel("truth", function, ["truth"]))
    nothing = np.zeros((len(q), len(k)), np.float32)
    (truth,) = call(module, "truth", function, {"truth": torch.uint8}, mode, env, inputs, q, k, nothing, nothing)
    return truth.astype(bool)


def wanted(pred: e.Pred, q: Any, k: Any, env: Mapping[str, int], inputs: Inputs) -> NDArray[Any]:
    """Where it holds, by definition."""
    known = {**env, **{table(name): array for name, array in inputs.items()}}
    known |= {"q": q.astype(np.int64)[:, None], "k": k.astype(np.int64)[None, :]}
    return np.broadcast_to(np.asarray(holds(pred, known)), (len(q), len(k)))


def check(folder: Path, pred: e.Pred, q: Any, k: Any, mode: str, env: Mapping[str, int], inputs: Inputs) -> None:
    got, want = found(folder, pred, q, k, mode, env, inputs), wanted(pred, q, k, env, inputs)
    assert np.array_equal(got, want), triton_values.allowed(pred, "allowed").text


@settings(max_examples=EXAMPLES)
@given(PREDICATE, st.sampled_from(MODES), KINDS, st.integers(0, 99))
def test_predicates(tmp_path_factory: Any, pred: e.Pred, mode: str, kind: type, seed: int) -> None:
    random = np.random.default_rng(seed)
    q, k = (random.integers(-3, 13, size).astype(kind) for size in (4, 8))
    env = {**SIZES, "h": seed % 3, "b": seed % 2}
    check(tmp_path_factory.mktemp("predicate"), pred, q, k, mode, env, FLOATS | INTEGERS)


@settings(max_examples=EXAMPLES)
@given(st.booleans().flatmap(lambda inputs: cases(inputs=inputs)), st.sampled_from(MODES[:2]), KINDS, st.data())
def test_specs(tmp_path_factory: Any, case: Case, mode: str, kind: type, data: st.DataObject) -> None:
    spec = case.spec()
    sizes = spec.sizes(case.n, case.n_q, heads=case.heads, batch=case.batch)
    inputs = derive(spec, case.inputs, sizes)
    env = {**sizes, "h": data.draw(st.integers(0, case.heads - 1)), "b": data.draw(st.integers(0, case.batch - 1))}
    q = np.resize(np.arange(case.n_q) + (case.n - case.n_q) * (spec.align == "end"), 16).astype(kind)
    k = np.resize(np.arange(case.n), 16).astype(kind)
    for branch in spec.branches:
        check(tmp_path_factory.mktemp("spec"), branch.pred, q, k, mode, env, inputs)


@settings(max_examples=EXAMPLES)
@given(REAL, st.sampled_from(MODES), KINDS, st.integers(0, 99))
def test_values_and_gradients(tmp_path_factory: Any, node: r.RealExpr, mode: str, kind: type, seed: int) -> None:
    random = np.random.default_rng(seed)
    q, k = (random.integers(-3, 13, size).astype(kind) for size in (4, 8))
    s = random.uniform(-3, 3, (4, 8)).astype(np.float32)
    g = (random.uniform(-1, 1, (4, 8)) * (random.random((4, 8)) < 0.7)).astype(np.float32)
    env = {**SIZES, "h": seed % 3, "b": seed % 2}
    value, ds, of = run(tmp_path_factory.mktemp("real"), node, mode, env, FLOATS | INTEGERS, q, k, s, g)
    pairs = (q[:, None], k[None, :], s, g, env["h"], env["b"])
    exact, rough = reference(node, *pairs, torch.float64), reference(node, *pairs, torch.float32)
    agree(value, exact[0], rough[0])
    agree(ds, exact[1], rough[1])
    assert not ds[g == 0].any(), "a masked pair has a gradient"
    for name, x, y in zip(FLOATS, exact[2], rough[2], strict=True):
        agree(of[name], x, y)


def run(
    folder: Path, node: r.RealExpr, mode: str, env: Mapping[str, int], inputs: Inputs, *arrays: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
    """The values of a score; its gradients by the score, and by each float input: all from Triton."""
    value, gradient = triton_values.value(node), triton_values.gradient(node)
    names = ["ds", *(f"e{n}" for n in range(len(gradient.entries)))]
    functions = [value, gradient.function, *(entry.place for entry in gradient.entries)]
    kernels = [kernel("value", value, ["to"]), kernel("gradient", gradient.function, names)]
    kernels += [kernel(f"place{n}", x.place, ["spot", "inside"]) for n, x in enumerate(gradient.entries)]
    module = load(folder, *(f.text for f in functions), *kernels)

    def results(name: str, function: Function, **kinds: torch.dtype) -> list[NDArray[Any]]:
        return call(module, name, function, kinds, mode, env, inputs, *arrays)

    (values,) = results("value", value, to=torch.float32)
    ds, *amounts = results("gradient", gradient.function, **dict.fromkeys(names, torch.float32))
    of = {name: np.zeros(array.shape, np.float32) for name, array in inputs.items() if array.dtype == np.float32}
    for n, (entry, amount) in enumerate(zip(gradient.entries, amounts, strict=True)):
        assert not amount[arrays[3] == 0].any(), "a masked pair has a gradient"
        at, inside = results(f"place{n}", entry.place, spot=torch.int64, inside=torch.uint8)
        inside = inside.astype(bool)
        for axis, moves in enumerate("qk"):
            assert moves in entry.moves or (np.ptp(np.where(inside, at, 0), axis) == 0).all()
        np.add.at(of[entry.name].reshape(-1), at[inside], amount[inside])
    return values, ds, of


def test_numbers_below_zero(tmp_path: Path) -> None:
    """Division rounds downwards, by constants and by what is not one."""
    places = np.arange(-9, 7)
    for divisor in (e.Int(1), e.Int(3), e.Int(8), e.Add((H, e.Int(1)))):
        for node in (e.FloorDiv(Q, divisor), e.Mod(Q, divisor), e.FloorDiv(e.Int(-7), divisor)):
            for kind in (np.int32, np.int64):
                q, k = places.astype(kind), np.arange(-9, 7).astype(kind)
                check(tmp_path, e.Cmp("==", node, K), q, k, MODES[0], {"h": 4}, {})


@pytest.mark.parametrize("mode", MODES)
def test_far_reads_touch_nothing(tmp_path: Path, mode: str) -> None:
    """Far outside every input, where a read would end the process."""
    far = e.Mul(Q, e.Int(1 << 20))
    preds: list[e.Pred] = [
        e.Cmp("==", e.Read("doc", (B, far)), e.Int(0)),
        e.Cmp("!=", e.Read("doc", (far, K)), e.Int(0)),
        e.Flag("keep", (far, K)),
        e.Among(e.Int(0), "top", (H, far)),
        e.Cmp(">=", e.Read("top", (H, e.Read("doc", (B, far)), K)), e.Int(-9)),
    ]
    q, k = np.array([-5, -1, 1, 2000], np.int32), np.arange(-4, 4, dtype=np.int32)
    env = {**SIZES, "h": 1, "b": 1}
    for pred in preds:
        assert not found(tmp_path, pred, q, k, mode, env, INTEGERS).any()
    node = r.Product(r.RealRead("bias", (H, far, K)), r.Score())
    ones = np.ones((4, 8), np.float32)
    value, ds, of = run(tmp_path, node, mode, env, FLOATS, q, k, ones, ones)
    assert not value.any()
    assert not ds.any()
    assert not of["bias"].any()


def test_lists(tmp_path: Path) -> None:
    """Nested lists with rows of several lengths, long lists, large entries; indices outside have no value."""
    q, k = np.arange(-2, 30, dtype=np.int64), np.arange(-2, 6, dtype=np.int64)
    ragged = ((3, 1, 4), (), (1, 5, 9, 2), (6,))
    long = tuple(int(x) for x in np.random.default_rng(0).integers(0, 9, 25))
    for node in (e.Index(long, (Q,)), e.Index(ragged, (K, Q)), e.Index((1 << 40, -(1 << 40)), (K,))):
        for op in ("==", "!=", "<"):
            other = e.Mul(e.Int(1 << 38), Q) if 1 << 40 in node.items else e.Int(5)
            check(tmp_path, e.Cmp(op, node, other), q, k, MODES[0], {}, {})
    with pytest.raises(LongList):
        triton_values.allowed(e.Cmp("==", e.Index(tuple(range(MOST_RUNS + 1)), (Q,)), K), "allowed")


LOOPS = [
    "any i in 0..100: q == 3 * i + k",
    "all i in 0..100: q != 3 * i + k",
    slow("all i in 0..70: any j in 0..80: q - k != i * j"),
    "any i in [90, 80, 70, 60, 50]: q + k == i",
    "(any i in 0..100: q - 2 == i % 7) == (any i in 0..100: q - 2 == i % 7 + 1)",
    "not (all i in 0..100: i >= 0) or (any i in 0..100: k == i * i)",
    "any i in 0..100: (any j in 0..66: q == i * j) and k > i",
    f"any i in {[x * x for x in range(70)]}: q - k == i",
    f"any i in 0..70: any j in {[[i, 5 * i] for i in range(70)]}[i]: q - k == j",
]


@pytest.mark.parametrize("pred", LOOPS)
def test_many_values(tmp_path: Path, pred: str) -> None:
    """More than are written out: a loop, where they are evenly spaced."""
    node = check_text(f"attention a {{ attend {pred} }}").pred
    for kind in (np.int32, np.int64):
        q, k = np.arange(-3, 61, dtype=kind), np.arange(-2, 14, dtype=kind)
        check(tmp_path, node, q, k, MODES[0], {}, {})


def test_far_positions(tmp_path: Path) -> None:
    """Beyond 32 bits, where literals must not be narrower than positions."""
    base = 1 << 35
    q, k = base + np.arange(-8, 8, dtype=np.int64), base + np.arange(-8, 8, dtype=np.int64)
    texts = ["k <= q and q // 3 % 5 == k // 3 % 5", "q * 2 - k > 34359738368", "|q - k| % 7 < 3 and q % 16 < 12"]
    texts += [f"(if q > k then 3 else 4) * {base} < q * 4", f"[2, 3][k % 2] * {base} > q * 2 + 1"]
    for pred in texts:
        node = check_text(f"attention a {{ attend {pred} }}").pred
        assert wanted(node, q, k, {}, {}).any()
        check(tmp_path, node, q, k, MODES[0], {}, {})


def test_constants(tmp_path: Path) -> None:
    """What does not depend on anything is a value of Triton all the same."""
    q, k = np.arange(4, dtype=np.int32), np.arange(8, dtype=np.int32)
    for pred in (e.Bool(True), e.Bool(False), e.Not(e.Bool(True)), e.Cmp("<", e.Int(3), e.Int(4))):
        assert triton_values.allowed(pred, "allowed").arguments == ()
        check(tmp_path, pred, q, k, MODES[0], {}, {})
    s, g = np.zeros((4, 8), np.float32), np.ones((4, 8), np.float32)
    for number in (2.5, -0.0, 1e-40, np.inf, -np.inf, np.nan, 1e39):
        for node in (r.Real(number), r.Choose(e.Cmp("<", Q, K), r.Real(number), r.Real(number))):
            value, ds, _ = run(tmp_path, node, MODES[0], {}, {}, q, k, s, g)
            assert value == pytest.approx(np.full((4, 8), number, np.float32), abs=1e-37, nan_ok=True)
            assert not ds.any()
    value, *_ = run(tmp_path, r.Quotient(r.Real(1.0), r.Real(0.0)), MODES[0], {}, {}, q, k, s, g)
    assert (value == np.inf).all()


def test_infinite_scores(tmp_path: Path) -> None:
    """A pair that is masked adds nothing to a gradient, whatever the score is."""
    q, k = np.arange(2, dtype=np.int32), np.arange(4, dtype=np.int32)
    s = np.array([[-np.inf, np.inf, np.nan, 0.0]] * 2, np.float32)
    g = np.array([[0, 0, 0, 0], [0, 0, 0, 1]], np.float32)
    slope = r.RealRead("slope", (H,))
    for node in (
        r.Product(slope, r.Score()),
        r.Product(slope, r.Apply("exp", r.Score())),
        r.Quotient(slope, r.Score()),
    ):
        value, ds, of = run(tmp_path, node, MODES[0], {"h": 1}, {"slope": FLOATS["slope"]}, q, k, s, g)
        assert not ds[g == 0].any()
        assert np.isnan(value[:, 2]).all()
        finite = not isinstance(node, r.Quotient)
        assert of["slope"][1] == (pytest.approx(s[1, 3] if node.right == r.Score() else 1.0) if finite else np.inf)
    value, *_ = run(tmp_path, r.Total((r.Score(), r.Real(1.0))), MODES[0], {}, {}, q, k, s, g)
    np.testing.assert_array_equal(value, s + 1)


def test_functions_are_accurate(tmp_path: Path) -> None:
    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-30,
        -1e-30,
        1e38,
        -1e38,
        88.0,
        89.0,
        -87.0,
        -120.0,
        8.0,
        -8.0,
        1.0,
    ]
    usual = [np.linspace(-20, 20, 3000), np.geomspace(1e-20, 80, 1080)]
    s = np.concatenate([special, *usual]).astype(np.float32).reshape(16, 256)
    q, k = np.arange(16, dtype=np.int32), np.arange(256, dtype=np.int32)
    for name, allowed in {"tanh": 6e-7, "exp": 2e-6, "log": 3e-7, "sqrt": 1e-7, "abs": 0.0, SIGN: 0.0}.items():
        value, *_ = run(tmp_path, r.Apply(name, r.Score()), MODES[0], {}, {}, q, k, s, s)
        with np.errstate(all="ignore"):
            exact = getattr(np, name)(s.astype(np.float64))
            assert np.array_equal(np.isnan(value), np.isnan(exact)), name
            known = np.isfinite(exact.astype(np.float32))
            error = np.abs(value[known] - exact[known]) / np.maximum(np.abs(exact[known]), 1e-37)
        assert error.max() <= allowed, (name, error.max(), s[known][error.argmax()])


def test_arguments_are_what_the_body_uses() -> None:
    spec = check_text(
        "attention a { input doc: int[batch, n] sorted  input slope: float[heads]  attend doc[q] == doc[k] and k < n"
        "  within q - first(doc, q) < 9  score s + slope[h] * (k - q) }"
    )
    sizes = [size(name, axis) for name in ("doc", "doc.first") for axis in (0, 1)]
    made = triton_values.allowed(spec.pred, "allowed").arguments
    assert made == ("q", "k", "b", "n", "in_doc", *sizes[:2], "first_of_doc", *sizes[2:])
    assert triton_values.value(spec.score).arguments == ("q", "k", "h", "s", "in_slope", "size0_in_slope")
    gradient = triton_values.gradient(spec.score)
    assert gradient.function.arguments == ("q", "k", "g")
    (entry,) = gradient.entries
    assert (entry.name, entry.argument, entry.moves) == ("slope", "in_slope", frozenset())
    assert entry.place.arguments == ("h", "size0_in_slope")


AHEAD = """
import importlib.util, sys, triton
from triton.backends.compiler import GPUTarget
spec = importlib.util.spec_from_file_location("unit", sys.argv[1])
unit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unit)
types = {"Q": "*i32", "K": "*i32", "in_keep": "*u8", "in_doc": "*i32", "in_top": "*i32", "in_bias": "*fp32",
         "TO_truth": "*u8", "TO_at": "*i64", "TO_inside": "*u8"}
for target in (GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)):
    for name in sys.argv[2:]:
        function = getattr(unit, name)
        fixed = {"BM": 32, "BN": 64, "POS": triton.language.int32, "TURNED": False}
        default = lambda n: "*fp32" if n in "SG" or n.startswith("TO_") else "i32"
        signature = {n: "constexpr" if n in fixed else types.get(n, default(n)) for n in function.arg_names}
        made = triton.compile(triton.compiler.ASTSource(function, signature, fixed), target=target)
        print(name, target.backend, len(made.asm["ttir"]) > 0)
"""


@pytest.mark.slow
def test_ahead_of_time(tmp_path: Path) -> None:
    """For two makes of GPUs. In a process of its own: one that interprets kernels cannot compile any."""
    pred = check_text(
        "attention a { input doc: int[batch, n] sorted  input keep: bool[n // 8, n // 8]  input top: int[heads, n, 3]"
        "  attend doc[q] == doc[k] or keep[q // 8, k // 8]  within k // 8 in top[h, q] or q % 7 == [1, 2, 4][k % 3]"
        "  within any i in 0..100: q - k == i * i }"
    ).pred
    bias = r.RealRead("bias", (B, Q, K))
    node = r.Total((bias, r.Product(r.Apply("tanh", bias), r.Apply("exp", r.Apply("sqrt", r.Score())))))
    node = r.Choose(e.Cmp("<", Q, K), node, r.Apply("log", r.Apply("abs", node)))
    truth, value, gradient = triton_values.allowed(pred, "a"), triton_values.value(node), triton_values.gradient(node)
    place = gradient.entries[0].place
    functions = (truth, value, gradient.function, place)
    outputs = (["truth"], ["to"], ["ds", "e0"], ["spot", "inside"])
    kernels = [kernel(str(n), *pair) for n, pair in enumerate(zip(functions, outputs, strict=True))]
    path = tmp_path / "unit.py"
    path.write_text(text(*(f.text for f in functions), *kernels), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "TRITON_DEFAULT_FP_FUSION": "1"}
    names = [f"{way}_{n}" for way in ("block", "pairs") for n in range(4)]
    done = subprocess.run([sys.executable, "-c", AHEAD, str(path), *names], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"{name} {kind} True" for kind in ("cuda", "hip") for name in names]
