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

_FIRST_OUTPUT = """
import json, sys, time
import torch
spec, params = json.loads(sys.argv[1])
q = torch.randn(1, 8, 1000, 64)
again = torch.randn(1, 8, 1234, 64)
start = time.perf_counter()
import attnspec
attend = attnspec.compile(spec, params=params)
with torch.no_grad():
    attend(q, q, q)
    first = time.perf_counter() - start
    attend(again, again, again)
print(json.dumps(first))
"""

_PLAN = """
import json, sys, time
spec, params, length = json.loads(sys.argv[1])
import resource
import attnspec
from attnspec.codegen.cost import cost
from attnspec.codegen.schedule import TILE
from attnspec.codegen.tile import tile
from attnspec.lower import listed_heads, lower
from attnspec.sizes import Sizes
checked = attnspec.read(spec, params=params)
heads = listed_heads(checked) or 8
start = time.perf_counter()
plan = tile(lower(checked, heads), TILE)
planned = time.perf_counter() - start
start = time.perf_counter()
cost(plan, Sizes(length, length, heads, heads, 1, checked.align == "end"), 64, 64, 4)
counted = time.perf_counter() - start
print(json.dumps([planned, counted, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""

_PEAK = """
import json, resource, sys
import torch
import attnspec
spec, params, n, heads, dim, dtype = json.loads(sys.argv[1])
attend = attnspec.compile(spec, params=params)
def call(length):
    q, k, v, g = (torch.randn(1, heads, length, dim, dtype=getattr(torch, dtype)) for _ in range(4))
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    out, lse = attend(q, k, v, return_lse=True)
    gradients = torch.autograd.grad(out, (q, k, v), g)
    return sum(t.nbytes for t in (q, k, v, g, out, lse, *gradients))
call(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
held = call(n)
print(json.dumps([(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, held]))
"""


@dataclass(frozen=True)
class Startup:
    """Median seconds: from a spec to its first output beyond ``import torch``, the check command, and the tile plan.

    ``plan`` and ``count`` are the tile plan and the exact cost at ``length`` tokens; ``plan_memory`` is that process's
    peak in bytes and ``small_plan_memory`` the same for 1,000 tokens.
    """

    cold: float
    cached: float
    check: float
    plan: float
    count: float
    length: int
    plan_memory: int
    small_plan_memory: int


def startup(spec: str, params: dict[str, Any], runs: int, length: int = 10**9) -> Startup:
    """Measure start-up in fresh processes, ``runs`` times each; cold ones get an empty kernel cache."""
    cold, cached = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(_ask(_FIRST_OUTPUT, [spec, params], ATTNSPEC_CACHE=folder))
            cached.append(_ask(_FIRST_OUTPUT, [spec, params], ATTNSPEC_CACHE=folder))
    plans = [_ask(_PLAN, [spec, params, length]) for _ in range(runs)]
    small = [_ask(_PLAN, [spec, params, 1000]) for _ in range(runs)]
    middle = [statistics.median(p[i] for p in plans) for i in range(3)]
    return Startup(
        statistics.median(cold),
        statistics.median(cached),
        statistics.median(_check(spec) for _ in range(runs)),
        middle[0],
        middle[1],
        length,
        int(middle[2]) * 1024,
        int(statistics.median(p[2] for p in small)) * 1024,
    )


def peak(spec: str, params: dict[str, Any], n: int, heads: int, dim: int, dtype: str) -> tuple[int, int]:
    """Peak memory of one forward and backward pass, and the bytes of its inputs, outputs and gradients."""
    used, held = _ask(_PEAK, [spec, params, n, heads, dim, dtype])
    return int(used), int(held)


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
