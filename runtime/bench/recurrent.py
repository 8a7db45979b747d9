"""What training over segments takes: one step on a long sequence, in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_STEP = """
import json, sys, time
import torch
import attnspec
from attnspec.runtime.bench.high_water import high_water
from attnspec.runtime.modules.segment_model import segment_model
spec, params, n = json.loads(sys.argv[1])
torch.manual_seed(0)
model = segment_model(attnspec.compile(spec, params=params), width=64)
optimizer = torch.optim.AdamW(model.parameters())
def step(ids):
    loss = model(ids, labels=ids).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss)
size = model.recurrence.recur.size
ids = torch.randint(256, (1, n))
step(ids[:, : 3 * size])
done, told = 0, 0
def count(*_):
    global done, told
    done += 1
    if done - told >= 32:
        told = done
        print(done, flush=True)
model.step.register_forward_hook(count)
before, start, cpu = high_water(), time.perf_counter(), time.process_time()
loss = step(ids)
took, spent = time.perf_counter() - start, time.process_time() - cpu
used = high_water() - before
held = sum(p.nbytes for p in model.parameters())
cost = model.cost(n)
print(json.dumps([cost.segments, cost.positions, held, used, cost.kept_bytes, took, spent, loss]))
"""


@dataclass(frozen=True)
class Trained:
    """One step of a model of bytes on one sequence of ``n`` bytes, forward, backward and optimizer.

    ``used_bytes`` is the peak of memory beyond what the process had with the model and its optimizer, after a step of
    three segments; ``kept_bytes`` what of it segments hand on, where that is known. ``seconds`` are of the clock,
    ``cpu`` of the processor.
    """

    n: int
    segments: int
    positions: int
    model_bytes: int
    used_bytes: int
    kept_bytes: int | None
    seconds: float
    cpu: float
    loss: float


def trained(spec: str, params: dict[str, Any], n: int, tick: Callable[[str], None]) -> Trained:
    """Measure it in a fresh process; ``tick`` is told how far that is. Raises RuntimeError where it fails."""
    command = [sys.executable, "-c", _STEP, json.dumps([spec, params, n])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        last = ""
        for line in process.stdout:
            last = line
            if line.strip().isdecimal():
                tick(f"{int(line):,} runs of a segment, forward and again backward")
        said = process.stderr.read()
    if process.returncode:
        raise RuntimeError(f"the measuring process failed:\n{said[-4000:]}")
    return Trained(n, *json.loads(last))
