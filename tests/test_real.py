"""Score expressions as C++ on vectors, and their derivatives, against torch in float64."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnspec import real as r
from attnspec.codegen import cxx, cxx_real
from attnspec.evaluate import table
from attnspec.runtime.compiler import compiler
from attnspec.runtime.real import real as in_torch
from tests.real_cases import FLOATS, INTEGERS, NAMES, REAL, SIZES

EXAMPLES = max(8, settings().max_examples // 20)
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # every attempt compiles for a second
MODES = {"vectors": 0, "one key": 1, "one query": 2}
_DEFINES = {"DTYPE": 0, "D": 16, "DV": 16, "BM": 16, "BN": 16, "CARRY": 0}
_NUMBER = itertools.count()


def _file(name: str) -> str:
    return files("attnspec.codegen").joinpath("cpp", f"{name}.hpp").read_text(encoding="utf-8")


def _build(folder: Path, parts: Sequence[str], wide: bool = False) -> ctypes.CDLL:
    defines = "".join(f"#define ATTNSPEC_{name} {value}\n" for name, value in _DEFINES.items())
    if wide:
        defines += "#define ATTNSPEC_POS int64_t\n"
    library = [_file("vector"), _file("tensor")]
    helpers = f"namespace attnspec {{\n{cxx.HELPERS}}}\n"
    text = "\n".join([defines, *library, helpers, _file("input"), _file("real"), *parts])
    output = folder / f"unit{next(_NUMBER)}.so"
    compiler().compile(text, output)
    return ctypes.CDLL(str(output))


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


class _Input(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_int64 * 4), ("stride", ctypes.c_int64 * 4))


class _Gradient(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * 4))


class _Sizes(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "n_q", "heads", "kv_heads", "batch", "m")),
        ("passes", ctypes.c_void_p),
        ("inputs", ctypes.POINTER(_Input)),
    )


def _apart(array: NDArray[Any], fill: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """An array's values as a view with odd strides into a larger one whose other entries are ``fill``; and that one."""
    whole = np.full([3 * size + 4 for size in array.shape] or [1], fill).astype(array.dtype)
    inner = whole[tuple(slice(2, 2 + 3 * size, 3) for size in array.shape)] if array.shape else whole[0:1].reshape(())
    inner[...] = array
    return inner, whole


def _dims(array: NDArray[Any]) -> tuple[Any, Any, Any]:
    """Where an array begins (null where it is empty), its sizes and its strides in elements."""
    padding = 4 - array.ndim
    strides = [stride // array.itemsize for stride in array.strides]
    return (
        array.ctypes.data if array.size else None,
        (ctypes.c_int64 * 4)(*array.shape, *[1] * padding),
        (ctypes.c_int64 * 4)(*strides, *[0] * padding),
    )


@dataclass
class _Call:
    """The sizes and inputs of a call in C, and the arrays that keep them alive."""

    kind: type

    def __post_init__(self) -> None:
        self.arrays = []
        inputs = []
        for array in (*FLOATS.values(), *INTEGERS.values()):
            typed = array if array.dtype == np.float32 else array.astype(np.uint8 if array.dtype == bool else self.kind)
            inner, whole = _apart(typed, np.nan if typed.dtype == np.float32 else 1)
            self.arrays.append(whole)
            inputs.append(_Input(*_dims(inner)))
        self.sizes = _Sizes(**SIZES, inputs=(_Input * len(inputs))(*inputs))

    def gradients(self) -> tuple[Any, list[tuple[NDArray[Any], NDArray[Any]]]]:
        pairs = [_apart(np.zeros_like(array), np.nan) for array in FLOATS.values()]
        of = []
        for inner, _ in pairs:
            data, _, stride = _dims(inner)
            of.append(_Gradient(data, stride))
        return (_Gradient * len(NAMES))(*of), pairs


def _positions(mode: str, width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Positions, some of them outside; W neighbours on the lanes."""
    rows, lanes = np.meshgrid(np.arange(-3, 14), np.arange(-2, -2 + 2 * width), indexing="ij")
    rows, lanes = rows.reshape(-1).astype(np.int32), lanes.reshape(-1).astype(np.int32)
    return (rows, lanes) if mode == "one query" else (lanes, rows)


def _aligned(values: Any, dtype: type = np.float32) -> NDArray[Any]:
    count = len(values)
    buffer = np.empty(count * 4 + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    array = buffer[start : start + 4 * count].view(dtype)
    array[:] = values
    return array


def _reference(
    node: r.RealExpr, q: Any, k: Any, s: Any, g: Any, h: int, b: int, dtype: torch.dtype
) -> tuple[NDArray[Any], NDArray[Any], list[NDArray[Any]]]:
    env: dict[str, Any] = {"q": q.astype(np.int64), "k": k.astype(np.int64)}
    env.update({name: np.array([value]) for name, value in ({"h": h, "b": b} | SIZES).items()})
    env.update({table(name): array for name, array in INTEGERS.items()})
    floats = {name: torch.tensor(array, dtype=dtype, requires_grad=True) for name, array in FLOATS.items()}
    score = torch.tensor(s, dtype=dtype, requires_grad=True)
    value = in_torch(node, env, floats, score) + 0 * score.detach()
    live = torch.tensor(g != 0)
    if value.requires_grad:
        value[live].backward(torch.tensor(g, dtype=dtype)[live])
    grads = [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in (score, *floats.values())]
    return value.detach().numpy(), grads[0], grads[1:]


def _agree(ours: Any, exact: Any, rough: Any) -> None:
    """Ours is as close to the exact values as single precision allows, which ``rough`` shows."""
    exact, rough = (np.where(np.isfinite(x), x, np.nan) for x in (exact, rough))
    known = ~np.isnan(exact) & ~np.isnan(rough) & (np.abs(exact) < 1e30)
    noise = np.abs(exact - rough)[known].max(initial=0)
    wrong = known & ~(np.abs(ours - exact) <= 2e-5 * np.abs(exact) + 30 * noise + 1e-5)
    assert not wrong.any(), (np.asarray(ours)[wrong][:4], np.asarray(exact)[wrong][:4], noise)


@settings(max_examples=EXAMPLES, phases=NO_SHRINKING)
@given(st.lists(REAL, min_size=6, max_size=6), st.sampled_from([np.int32, np.int32, np.int64]), st.integers(0, 2))
def test_values_and_gradients(tmp_path_factory: Any, nodes: list[r.RealExpr], kind: type, seed: int) -> None:
    unit = _build(
        tmp_path_factory.mktemp("real"),
        [_RUN.format(i, cxx_real.score(node, NAMES)) for i, node in enumerate(nodes)],
        wide=kind is np.int64,
    )
    call, random = _Call(kind), np.random.default_rng(seed)
    for i, node in enumerate(nodes):
        for mode, number in MODES.items():
            h, b = int(random.integers(3)), int(random.integers(2))
            q, k = (_aligned(x, np.int32) for x in _positions(mode, unit.width0()))
            s = _aligned(random.uniform(-3, 3, len(q)))
            g = _aligned(random.uniform(-1, 1, len(q)) * (random.random(len(q)) < 0.7))
            value, ds = np.empty((2, len(q) + 32), np.float32)
            value, ds = _aligned(value[: len(q)]), _aligned(ds[: len(q)])
            of, grads = call.gradients()
            _run(unit, i, number, call, of, q, k, s, g, h, b, value, ds)
            exact = _reference(node, q, k, s, g, h, b, torch.float64)
            rough = _reference(node, q, k, s, g, h, b, torch.float32)
            _agree(value, exact[0], rough[0])
            _agree(ds, exact[1], rough[1])
            assert not ds[g == 0].any(), "a masked pair has a gradient"
            for name, (inner, whole), x, y in zip(FLOATS, grads, exact[2], rough[2], strict=True):
                _agree(inner, x, y)
                before = whole.size - np.isnan(whole).sum()
                assert np.isnan(x).any() or before <= max(inner.size, 0) or inner.ndim == 0, f"{name}: outside"


def _run(unit: ctypes.CDLL, i: int, mode: int, call: _Call, of: Any, *arrays: Any) -> None:
    q, k, s, g, h, b, value, ds = arrays
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (q, k, s, g)]
    results = [ctypes.c_void_p(x.ctypes.data) for x in (value, ds)]
    where = [ctypes.c_int64(h), ctypes.c_int64(b)]
    unit[f"run{i}"](mode, ctypes.byref(call.sizes), of, ctypes.c_int64(len(q)), *pointers, *where, *results)
