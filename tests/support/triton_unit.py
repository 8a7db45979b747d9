"""Small Triton modules of generated functions: imported from a file, and called in the interpreter.

A call is at a block of positions (``q`` of shape (BM, 1), ``k`` of (1, BN), or the other way round) or at single pairs.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnspec.codegen.triton.functions import Function
from attnspec.codegen.triton.parameters import argument, size

MARK = "# ---- text of generated kernels from here on ----\n"
SCALARS = ("h", "b", "n", "n_q", "heads", "kv_heads", "batch", "m")
TRUTHS = ("truth", "inside")  # outputs that are stored as bytes
MODES = ("queries first", "keys first", "pairs")
_NUMBER = itertools.count()


def text(*parts: str) -> str:
    values = files("attnspec.codegen.triton").joinpath("library", "values.py")
    library = values.read_text(encoding="utf-8").split(MARK)[1]
    return "\n\n".join(["import triton\nimport triton.language as tl", library, *parts])


def load(folder: Path, *parts: str) -> ModuleType:
    path = folder / f"unit{next(_NUMBER)}.py"
    path.write_text(text(*parts), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kernel(name: str, function: Function, outputs: Sequence[str]) -> str:
    """A kernel that calls a function at each pair of a block and stores what it returns, as ``outputs``."""
    inputs = [p.name for p in function.inputs]
    scalars = [a for a in function.arguments if a in SCALARS]
    given = ", ".join(f"{a}.to(POS)" if a in scalars else a for a in function.arguments)
    results = ", ".join(outputs)
    # (The interpreter makes int32 of a scalar truth that it broadcasts, and would store that.)
    values = {o: f"tl.where({o}, 1, 0)" if o in TRUTHS else o for o in outputs}
    stores = "\n".join(
        f"    tl.store(TO_{o} + pair, tl.broadcast_to({value}, (BM, BN)).to(TO_{o}.dtype.element_ty))"
        for o, value in values.items()
    )
    pair_stores = "\n".join(
        f"            tl.store(TO_{o} + pair, ({value}).to(TO_{o}.dtype.element_ty))" for o, value in values.items()
    )
    parameters = ", ".join(
        ["Q", "K", "S", "G", *(f"TO_{o}" for o in outputs), *scalars, *inputs]
        + [f"{name}: tl.constexpr" for name in ("BM", "BN", "POS", "TURNED")]
    )
    return f"""\
@triton.jit
def block_{name}({parameters}):
    i = tl.arange(0, BM)[:, None]
    j = tl.arange(0, BN)[None, :]
    pair = i * BN + j
    q = tl.load(Q + j if TURNED else Q + i).to(POS)
    k = tl.load(K + i if TURNED else K + j).to(POS)
    q_slot = q
    k_slot = k
    s = tl.load(S + pair)
    g = tl.load(G + pair)
    {results} = {function.name}({given})
{stores}


@triton.jit
def pairs_{name}({parameters}):
    for i in range(BM):
        for j in range(BN):
            pair = i * BN + j
            q = tl.load(Q + i).to(POS)
            k = tl.load(K + j).to(POS)
            q_slot = q
            k_slot = k
            s = tl.load(S + pair)
            g = tl.load(G + pair)
            {results} = {function.name}({given})
{pair_stores}
"""


def call(
    module: ModuleType,
    name: str,
    function: Function,
    outputs: Mapping[str, Any],
    mode: str,
    env: Mapping[str, int],
    inputs: Mapping[str, NDArray[Any]],
    *arrays: NDArray[Any],
) -> list[NDArray[Any]]:
    """What a function returns at each pair of positions; ``outputs`` are names and types, ``arrays`` q, k, s and g."""
    q, k, s, g = arrays
    turned = mode == "keys first"
    shape = (len(k), len(q)) if turned else (len(q), len(k))
    wide = q.dtype == np.int64
    to = [torch.zeros(shape, dtype=kind) for kind in outputs.values()]
    given = [torch.from_numpy(np.ascontiguousarray(x.T if turned and x.ndim == 2 else x)) for x in (q, k, s, g)]
    tensors: dict[str, Any] = {}
    for title, array in inputs.items():
        kind = np.uint8 if array.dtype == bool else array.dtype if array.dtype == np.float32 else q.dtype
        tensors[argument(title)] = torch.from_numpy(np.ascontiguousarray(array.astype(kind)))
        tensors |= {size(title, axis): length for axis, length in enumerate(array.shape)}
    extra = {a: env[a] if a in SCALARS else tensors[a] for a in function.arguments if a in SCALARS or a in tensors}
    pos = module.tl.int64 if wide else module.tl.int32
    run = getattr(module, f"{'pairs' if mode == 'pairs' else 'block'}_{name}")
    names = [f"TO_{o}" for o in outputs]
    run[(1,)](
        **dict(zip(("Q", "K", "S", "G", *names), (*given, *to), strict=True)),
        **extra, BM=shape[0], BN=shape[1], POS=pos, TURNED=turned,
    )  # fmt: skip
    return [x.numpy().T if turned else x.numpy() for x in to]
