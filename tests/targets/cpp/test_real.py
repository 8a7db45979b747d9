"""Score expressions as C++ on vectors, and their derivatives, against torch in float64."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnspec.codegen.cpp import lanes as cxx_lanes
from attnspec.codegen.cpp import scalars as cxx
from attnspec.codegen.cpp import score as cxx_real
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.derive import SIGN, derivatives
from attnspec.spec.evaluate import FUNCTIONS, holds, table, value_real
from tests.support.real_cases import FLOATS, NAMES, PREDICATE, REAL, agree, environment, reference
from tests.support.real_unit import Call, aligned, build

EXAMPLES = max(8, settings().max_examples // 20)
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # every attempt compiles for a second
MODES = {"vectors": 0, "one key": 1, "one query": 2}

_RUN = """
namespace attnspec {{ namespace case{0} {{
{1}
template <int MODE>
static void run(const Sizes& z, const Gradients& d, int64_t count, const int32_t* qs, const int32_t* ks, const float* s,
                const float* g, pos h, pos b, float* value, float* ds) {{
    vfloat sum[Score::SUMS + 1] = {{}};
    for (int64_t i = 0; i < count; i += W) {{
        vint q = *(const vint*)(qs + i), k = *(const vint*)(ks + i);
        vfloat x = load(s + i), y = load(g + i);
        if constexpr (MODE == 0) {{
            store(value + i, Score::value(x, q, k, h, b, z));
            store(ds + i, Score::backward(y, x, q, k, h, b, z, d, sum));
        }} else if constexpr (MODE == 1) {{
            store(value + i, Score::value(x, q, (pos)k[0], h, b, z));
            store(ds + i, Score::backward(y, x, q, (pos)k[0], h, b, z, d, sum));
        }} else {{
            store(value + i, Score::value(x, (pos)q[0], k, h, b, z));
            store(ds + i, Score::backward(y, x, (pos)q[0], k, h, b, z, d, sum));
        }}
    }}
    if (d.of) Score::flush(sum, h, b, z, d);
}}
}} }}
extern "C" __attribute__((visibility("default"))) void run{0}(
    int mode, const attnspec::Sizes* z, const attnspec::Gradient* of, int64_t count, const int32_t* q, const int32_t* k,
    const float* s, const float* g, int64_t h, int64_t b, float* value, float* ds) {{
    using namespace attnspec;
    const auto f = mode == 0 ? case{0}::run<0> : mode == 1 ? case{0}::run<1> : case{0}::run<2>;
    f(*z, {{of}}, count, q, k, s, g, (pos)h, (pos)b, value, ds);
}}
extern "C" __attribute__((visibility("default"))) int width{0}() {{ return attnspec::W; }}
"""


def _positions(mode: str, width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Positions, some of them outside; W neighbours on the lanes."""
    rows, lanes = np.meshgrid(np.arange(-3, 14), np.arange(-2, -2 + 2 * width), indexing="ij")
    rows, lanes = rows.reshape(-1).astype(np.int32), lanes.reshape(-1).astype(np.int32)
    return (rows, lanes) if mode == "one query" else (lanes, rows)


@settings(max_examples=EXAMPLES, phases=NO_SHRINKING)
@given(st.lists(REAL, min_size=6, max_size=6), st.sampled_from([np.int32, np.int32, np.int64]), st.integers(0, 2))
def test_values_and_gradients(tmp_path_factory: Any, nodes: list[r.RealExpr], kind: type, seed: int) -> None:
    unit = build(
        tmp_path_factory.mktemp("real"),
        [_RUN.format(i, cxx_real.score(node, NAMES)) for i, node in enumerate(nodes)],
        wide=kind is np.int64,
    )
    call, random = Call(kind), np.random.default_rng(seed)
    for i, node in enumerate(nodes):
        for mode, number in MODES.items():
            h, b = int(random.integers(3)), int(random.integers(2))
            q, k = (aligned(x, np.int32) for x in _positions(mode, unit.width0()))
            s = aligned(random.uniform(-3, 3, len(q)))
            g = aligned(random.uniform(-1, 1, len(q)) * (random.random(len(q)) < 0.7))
            value, ds = np.empty((2, len(q) + 32), np.float32)
            value, ds = aligned(value[: len(q)]), aligned(ds[: len(q)])
            of, grads = call.gradients()
            _run(unit, i, number, call, of, q, k, s, g, h, b, value, ds)
            exact = reference(node, q, k, s, g, h, b, torch.float64)
            rough = reference(node, q, k, s, g, h, b, torch.float32)
            agree(value, exact[0], rough[0])
            agree(ds, exact[1], rough[1])
            assert not ds[g == 0].any(), "a masked pair has a gradient"
            for name, (inner, whole), x, y in zip(FLOATS, grads, exact[2], rough[2], strict=True):
                agree(inner, x, y)
                before = whole.size - np.isnan(whole).sum()
                assert np.isnan(x).any() or before <= max(inner.size, 0) or inner.ndim == 0, f"{name}: outside"


def _run(unit: ctypes.CDLL, i: int, mode: int, call: Call, of: Any, *arrays: Any) -> None:
    q, k, s, g, h, b, value, ds = arrays
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (q, k, s, g)]
    results = [ctypes.c_void_p(x.ctypes.data) for x in (value, ds)]
    where = [ctypes.c_int64(h), ctypes.c_int64(b)]
    unit[f"run{i}"](mode, ctypes.byref(call.sizes), of, ctypes.c_int64(len(q)), *pointers, *where, *results)


_MASK = """
namespace attnspec {{ namespace case{0} {{
static inline bool allowed(pos q, pos k, pos h, pos b, const Sizes& s) {{
    (void)q, (void)k, (void)h, (void)b, (void)s;
    return {1};
}}
template <class Q, class K>
static ATTNSPEC_INLINE vint allowed_lanes(Q q, K k, pos h, pos b, const Sizes& s) {{
    (void)q, (void)k, (void)h, (void)b, (void)s;
    {2}
}}
}} }}
extern "C" __attribute__((visibility("default"))) void run{0}(
    int mode, const attnspec::Sizes* s, int64_t count, const int32_t* q, const int32_t* k, int64_t h, int64_t b,
    int32_t* to) {{
    using namespace attnspec;
    for (int64_t i = 0; i < count; i += W) {{
        if (mode < 0) {{
            for (int l = 0; l < W; ++l) to[i + l] = -(int32_t)case{0}::allowed(q[i + l], k[i + l], (pos)h, (pos)b, *s);
            continue;
        }}
        const vint x = *(const vint*)(q + i), y = *(const vint*)(k + i);
        *(vint*)(to + i) = mode == 0 ? case{0}::allowed_lanes(positions(x), positions(y), (pos)h, (pos)b, *s)
            : mode == 1 ? case{0}::allowed_lanes(positions(x), (pos)y[0], (pos)h, (pos)b, *s)
                        : case{0}::allowed_lanes((pos)x[0], positions(y), (pos)h, (pos)b, *s);
    }}
}}
extern "C" __attribute__((visibility("default"))) int width{0}() {{ return attnspec::W; }}
"""


@pytest.mark.slow
@settings(max_examples=EXAMPLES, phases=NO_SHRINKING)
@given(st.lists(PREDICATE, min_size=8, max_size=8), st.sampled_from([np.int32, np.int32, np.int64]))
def test_predicates_that_read_inputs(tmp_path_factory: Any, preds: list[e.Pred], kind: type) -> None:
    """As scalars and on vectors, as the definition says."""
    texts = [
        _MASK.format(i, cxx.predicate(pred, NAMES), "\n    ".join(cxx_lanes.mask(pred, NAMES)))
        for i, pred in enumerate(preds)
    ]
    unit = build(tmp_path_factory.mktemp("mask"), texts, wide=kind is np.int64)
    call = Call(kind)
    for i, pred in enumerate(preds):
        for mode, number in ({"scalars": -1} | MODES).items():
            q, k = (aligned(x, np.int32) for x in _positions(mode, unit.width0()))
            found = aligned(np.full(len(q), 7), np.int32)
            pointers = [ctypes.c_void_p(x.ctypes.data) for x in (q, k)]
            where = [ctypes.c_int64(i % 3), ctypes.c_int64(i % 2)]
            count = ctypes.c_int64(len(q))
            unit[f"run{i}"](
                number, ctypes.byref(call.sizes), count, *pointers, *where, ctypes.c_void_p(found.ctypes.data)
            )
            expected = np.broadcast_to(holds(pred, environment(q, k, i % 3, i % 2)), q.shape)
            wrong = found != -expected.astype(np.int32)
            assert not wrong.any(), (str(pred), mode, q[wrong][:4], k[wrong][:4])


@given(REAL, st.integers(-3, 12), st.integers(-3, 12), st.floats(-3, 3))
def test_derivatives_are_differences(node: r.RealExpr, q: int, k: int, s: float) -> None:
    env, step = environment(np.array([q]), np.array([k]), 1, 1), 1e-6
    for leaf, slope in derivatives(node).items():
        ours = _value(slope, env, s, {})
        start = _value(leaf, env, s, {})
        there = [_value(node, env, s, {leaf: start + sign * step}) for sign in (-2, -1, 0, 1, 2)]
        near, far = (there[3] - there[1]) / (2 * step), (there[4] - there[0]) / (4 * step)
        kink = abs(there[3] - 2 * there[2] + there[1]) / step
        rough = max(abs(near - far), kink) > 1e-4 * (1 + abs(near)) or not all(map(math.isfinite, (*there, near, far)))
        if rough or math.isnan(ours) or max(map(abs, there)) > 1e6 or not _inside(leaf, env):
            continue  # a kink, a pole, a place without a value: there is no difference to compare with
        assert ours == pytest.approx(near, rel=1e-3, abs=1e-3), (str(leaf), slope)


def _inside(leaf: r.RealExpr, env: Any) -> bool:
    if isinstance(leaf, r.RealRead):
        ones = {**env, table(leaf.name): np.ones_like(FLOATS[leaf.name])}
        return bool(np.all(value_real(leaf, ones)))
    return True


def _value(node: r.RealExpr, env: Any, s: float, known: dict[r.RealExpr, float]) -> float:
    """The value at one pair, with some leaves given."""
    if node in known:
        return known[node]
    match node:
        case r.Score():
            return s
        case r.Apply("sign", arg):
            return float(np.sign(_value(arg, env, s, known)))
        case r.Total(terms):
            return sum(_value(term, env, s, known) for term in terms)
        case r.Choose(r.Order(op, left, right), then, other):
            holding = e.COMPARE[op](_value(left, env, s, known), _value(right, env, s, known))
            return _value(then if holding else other, env, s, known)
        case r.Choose(cond, then, other):
            if isinstance(cond, r.Order):
                met = e.COMPARE[cond.op](*(np.float64(_value(side, env, s, known)) for side in (cond.left, cond.right)))
            else:
                met = np.all(holds(cond, env))
            return _value(then if met else other, env, s, known)
        case r.Product(left, right):
            return _value(left, env, s, known) * _value(right, env, s, known)
        case r.Quotient(left, right):
            with np.errstate(all="ignore"):
                return float(np.float64(_value(left, env, s, known)) / _value(right, env, s, known))
        case r.Apply(function, arg):
            with np.errstate(all="ignore"):
                return float(FUNCTIONS[function](np.float64(_value(arg, env, s, known))))
    return float(np.asarray(value_real(node, env)).reshape(-1)[0])


def test_functions_are_accurate(tmp_path: Path) -> None:
    """To a few units in the last place, and right where there is nothing to compute."""
    names = ["tanh", "exp", "log", "sqrt", "abs", SIGN]
    nodes = [r.Apply(name, r.Score()) for name in names]
    unit = build(tmp_path, [_RUN.format(i, cxx_real.score(node)) for i, node in enumerate(nodes)])
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e-42, 1e38, -1e38, 88.0, 89.0, -87.0, -120.0, 1.0]
    usual = np.concatenate(
        [np.linspace(-20, 20, 40001), np.geomspace(1e-20, 80, 20000), 1 + np.geomspace(1e-7, 1, 999)]
    )
    x = np.concatenate([special, usual, np.zeros(-(len(special) + len(usual)) % 16)]).astype(np.float32)
    allowed = {"tanh": 6e-7, "exp": 6e-6, "log": 3e-7}
    for i, name in enumerate(names):
        value = _value_of_score(unit, i, x)
        with np.errstate(all="ignore"):
            exact = getattr(np, name)(x.astype(np.float64))
            exact32 = exact.astype(np.float32)
        assert np.array_equal(np.isnan(value), np.isnan(exact)), name
        known = np.isfinite(exact32)
        assert np.array_equal(value[~known], exact32[~known], equal_nan=True), name
        error = np.abs(value[known] - exact[known]) / np.maximum(np.abs(exact[known]), 1e-37)
        assert error.max() <= allowed.get(name, 7e-8), (name, error.max(), x[known][error.argmax()])
    assert (np.abs(_value_of_score(unit, 0, x)[~np.isnan(x)]) <= 1).all()


def _value_of_score(unit: ctypes.CDLL, i: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
    call = Call(np.int32)
    s, zeros = aligned(x), aligned(np.zeros(len(x)))
    places = aligned(np.zeros(len(x)), np.int32)
    value, ds = aligned(np.zeros(len(x))), aligned(np.zeros(len(x)))
    _run(unit, i, 0, call, None, places, places, s, zeros, 0, 0, value, ds)
    return value


def test_far_reads_touch_nothing(tmp_path: Path) -> None:
    """Far outside every input, where a read would end the process."""
    q, k = e.Var("q"), e.Var("k")
    inputs: list[r.RealExpr] = [
        r.RealRead("bias", (e.Var("h"), q, k)),
        r.RealRead("bias", (q, e.Int(1), k)),
        r.RealRead("steps", (e.Var("b"), k)),
        r.RealRead("slope", (q,)),
        r.Cast(e.Read("doc", (q, k))),
        r.Choose(e.Flag("keep", (q, k)), r.Real(1.0), r.Real(0.0)),
        r.Choose(e.Among(e.Int(1), "top", (e.Var("h"), q)), r.Real(1.0), r.Real(0.0)),
    ]
    unit = build(tmp_path, [_RUN.format(i, cxx_real.score(node, NAMES)) for i, node in enumerate(inputs)])
    call = Call(np.int32)
    far = aligned(np.tile([1 << 28, -(1 << 28), 1 << 20, -(1 << 20)], 16), np.int32)
    ones = aligned(np.ones(len(far)))
    for i in range(len(inputs)):
        for mode in MODES.values():
            of, grads = call.gradients()
            value, ds = aligned(ones), aligned(ones)
            _run(unit, i, mode, call, of, far, far, ones, ones, 0, 0, value, ds)
            assert not value.any()
            assert all(not inner.any() for inner, _ in grads)


def test_no_gradients_are_wanted(tmp_path: Path) -> None:
    node = r.Product(r.RealRead("slope", (e.Var("h"),)), r.RealRead("bias", (e.Var("h"), e.Var("q"), e.Var("k"))))
    unit = build(tmp_path, [_RUN.format(0, cxx_real.score(r.Product(node, r.Score()), NAMES))])
    call = Call(np.int32)
    x, places = aligned(np.ones(32)), aligned(np.full(32, 2), np.int32)
    for of in (None, (type(call.gradients()[0]))()):
        value, ds = aligned(np.zeros(32)), aligned(np.zeros(32))
        _run(unit, 0, 0, call, of, places, places, x, x, 1, 0, value, ds)
        assert ds == pytest.approx(FLOATS["slope"][1] * FLOATS["bias"][1, 2, 2])


def test_a_score_that_is_the_score() -> None:
    assert "IDENTITY = true" in cxx_real.score(r.Score())
    assert "IDENTITY = false" in cxx_real.score(r.Product(r.Real(2.0), r.Score()))
    with pytest.raises(ValueError, match="slot"):
        cxx_real.score(r.Cast(e.Var("q_slot")))
