"""What can only be measured in a fresh process: the time to the first output, and the peak of memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from attnspec.check.check import check_text
from attnspec.language.load import load
from attnspec.relation.lower import listed_heads

_CALL = """
import torch
def given(attend, m, heads, dim, dtype="float32"):
    # Vectors and inputs of a call: of length m, or of axes that are sized for m; of one segment at most.
    from attnspec.spec.axes import lengths
    from attnspec.relation.sizes import Sizes
    spec = attend.spec
    m = m if spec.recurrence is None else min(m, spec.recurrence.recur.size)
    n, n_q = lengths(spec.axes, m) if spec.axes else (m, m)
    q, g = (torch.randn(1, heads, n_q, dim, dtype=getattr(torch, dtype)) for _ in range(2))
    k, v = (torch.randn(1, heads, n, dim, dtype=getattr(torch, dtype)) for _ in range(2))
    if not spec.inputs:
        return (q, k, v, g), {}
    from attnspec.runtime.prepare.example import example
    sizes = Sizes(n, n_q, heads, heads, 1, spec.align == "end", m if spec.axes else None)
    return (q, k, v, g), example(spec, sizes, torch.Generator().manual_seed(0))
"""

_FIRST_OUTPUT = (
    _CALL
    + """
import json, sys, time
spec, params, heads = json.loads(sys.argv[1])
start = time.perf_counter()
import attnspec
attend = attnspec.compile(spec, params=params)
spent = time.perf_counter() - start
(q, k, v, _), inputs = given(attend, 1000, heads, 64)
(q2, k2, v2, _), more = given(attend, 1234, heads, 64)
with torch.no_grad():
    start = time.perf_counter()
    attend(q, k, v, **inputs)
    first = spent + time.perf_counter() - start
    attend(q2, k2, v2, **more)
print(json.dumps(first))
"""
)

_PLAN = """
import json, sys, time
spec, params, length = json.loads(sys.argv[1])
import attnspec
from attnspec.runtime.bench.high_water import high_water
from attnspec.spec.axes import lengths
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.cost.cost import cost
from attnspec.relation.lower import listed_heads, lower
from attnspec.relation.count import TooIrregular
from attnspec.relation.presburger import SCALARS
from attnspec.relation.sizes import Scalar, Sizes
checked = attnspec.read(spec, params=params)
heads = listed_heads(checked) or 8
start = time.perf_counter()
made = plan(lower(checked, heads, heads, 1))
planned = time.perf_counter() - start
n, n_q = lengths(checked.axes, length) if checked.axes else (length, length)
scalars = tuple(Scalar.of(length) for _ in SCALARS)
m = length if checked.axes else None
start = time.perf_counter()
try:
    cost(made, Sizes(n, n_q, heads, heads, 1, checked.align == "end", m, scalars), 64, 64, 4)
    counted = time.perf_counter() - start
except TooIrregular:
    counted = None
print(json.dumps([planned, counted, high_water()]))
"""

_PEAK = (
    _CALL
    + """
import json, sys
import attnspec
from attnspec.runtime.bench.high_water import high_water
spec, params, n, heads, dim, dtype = json.loads(sys.argv[1])
attend = attnspec.compile(spec, params=params)
def call(length):
    (q, k, v, g), inputs = given(attend, length, heads, dim, dtype)
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    out, lse = attend(q, k, v, return_lse=True, **inputs)
    gradients = torch.autograd.grad(out, (q, k, v), g)
    return sum(t.nbytes for t in (q, k, v, g, out, lse, *gradients, *inputs.values()))
call(64)
before = high_water()
held = call(n)
print(json.dumps([high_water() - before, held]))
"""
)

_BEYOND = (
    _CALL
    + """
import json, sys
import attnspec
from attnspec.runtime.bench.high_water import high_water
spec, n, heads, dim = json.loads(sys.argv[1])
attend = attnspec.compile(spec)
def call(length):
    (q, k, v, _), inputs = given(attend, length, heads, dim)
    before = high_water()
    with torch.no_grad():
        out = attend(q, k, v, **inputs)
    return high_water() - before - out.nbytes
call(64)
print(json.dumps(call(n)))
"""
)


@dataclass(frozen=True)
class Startup:
    """Median seconds: from a spec to its first output beyond ``import torch``, the check command, and the tile plan.

    ``plan`` and ``count`` are the tile plan and the exact cost at ``length`` tokens (None: too irregular to be
    counted); ``plan_memory`` is that process's peak in bytes and ``small_plan_memory`` the same for 1,000 tokens.
    """

    cold: float
    cached: float
    check: float
    plan: float
    count: float | None
    length: int
    plan_memory: int
    small_plan_memory: int


def startup(spec: str, params: dict[str, Any], runs: int, length: int = 10**9) -> Startup:
    """Measure start-up in fresh processes, ``runs`` times each; cold ones get an empty kernel cache."""
    cold, cached = [], []
    text, filename, name = load(spec)
    heads = listed_heads(check_text(text, name, params, filename)) or 8
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(_ask(_FIRST_OUTPUT, [spec, params, heads], ATTNSPEC_CACHE=folder))
            cached.append(_ask(_FIRST_OUTPUT, [spec, params, heads], ATTNSPEC_CACHE=folder))
    plans = [_ask(_PLAN, [spec, params, length]) for _ in range(runs)]
    small = [_ask(_PLAN, [spec, params, 1000]) for _ in range(runs)]
    counts = [p[1] for p in plans if p[1] is not None]
    return Startup(
        statistics.median(cold),
        statistics.median(cached),
        statistics.median(_check(spec) for _ in range(runs)),
        statistics.median(p[0] for p in plans),
        statistics.median(counts) if counts else None,
        length,
        int(statistics.median(p[2] for p in plans)),
        int(statistics.median(p[2] for p in small)),
    )


def peak(spec: str, params: dict[str, Any], n: int, heads: int, dim: int, dtype: str) -> tuple[int, int]:
    """Peak memory of one forward and backward pass, and the bytes of its inputs, outputs and gradients."""
    used, held = _ask(_PEAK, [spec, params, n, heads, dim, dtype])
    return int(used), int(held)


def beyond(spec: str, n: int, heads: int, dim: int) -> int:
    """Peak memory of a forward pass beyond its inputs and its output, in bytes; at least 0."""
    return max(0, int(_ask(_BEYOND, [spec, n, heads, dim])))


def _check(spec: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "attnspec", "check", spec], check=True)
    return time.perf_counter() - start


def _ask(code: str, arguments: list[Any], **env: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )
    if done.returncode:
        raise RuntimeError(f"the measuring process failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout)
