"""Run by two processes: calls of distributed tensors against calls of whole ones, results and gradients."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

import attnspec

BATCH, HEADS, N = 2, 4, 10
BIAS = "attention a { input bias: float[heads, n_q, n]  attend causal  score s + bias[h, q, k] }"
BIASES, LOGITS = torch.linspace(-2, 2, HEADS * N * N).sin().view(HEADS, N, N), torch.tensor([0.5, -1.0, 2.0, 0.0])
BRANCHES = "input logit: float[heads]  mix { branch { attend causal  score s * logit[h] } branch { rotate rope() } }"
DOC = torch.tensor([[0, 0, 1, 1, 1, 1, 4, 4, 5, 5], [0] * 10])
# The pattern, its inputs with how they come, how q comes and how the output must be; key heads.
CASES: list[tuple[str, dict[str, tuple[Tensor, Placement]], Placement, Placement, int]] = [
    ("causal", {}, Shard(0), Shard(0), 2),
    ("causal", {}, Shard(1), Shard(1), 2),
    ("causal", {}, Shard(1), Replicate(), 1),  # one key head cannot be shared out
    ("causal", {}, Shard(2), Replicate(), 2),  # nor can a sequence
    ("causal", {}, Replicate(), Replicate(), 2),
    ("rope", {}, Shard(1), Shard(1), 4),
    ("packed", {"doc": (DOC, Shard(0))}, Shard(0), Shard(0), 2),
    ("packed", {"doc": (DOC, Replicate())}, Shard(0), Shard(0), 2),
    ("packed", {"doc": (DOC, Replicate())}, Shard(1), Shard(1), 2),
    (BIAS, {"bias": (BIASES, Replicate())}, Shard(0), Shard(0), 2),  # its gradients are summed
    (BIAS, {"bias": (BIASES, Replicate())}, Shard(1), Shard(1), 2),
    ("attention a { input logit: float[heads]  sink logit[h] }", {"logit": (LOGITS, Shard(0))}, Shard(1), Shard(1), 2),
    ("attention a { attend q - k <= b }", {}, Shard(0), Replicate(), 2),
    ("attention a { attend q - k <= b }", {}, Shard(1), Shard(1), 2),
    ("attention a { attend q - k <= h }", {}, Shard(1), Replicate(), 2),
    ("alibi", {}, Shard(1), Replicate(), 4),
    (f"attention a {{ {BRANCHES} }}", {"logit": (LOGITS, Shard(0))}, Shard(1), Shard(1), 2),
    (f"attention a {{ {BRANCHES} }}", {"logit": (LOGITS, Replicate())}, Shard(0), Shard(0), 2),
    ("attention a { mix { branch { score s * h } branch { attend q == k } } }", {}, Shard(1), Replicate(), 2),
    ("attention a { input t: int[batch, n] random(0..n, 3)  attend k >= t[b, q] }", {}, Shard(0), Replicate(), 2),
]


def results(attend: attnspec.Attention, given: list[Tensor], inputs: dict[str, Tensor]) -> list[Tensor]:
    """Output, log-sum-exp and gradients."""
    out, lse = attend(*given, return_lse=True, inputs=inputs)
    wanted = [t for t in (*given, *inputs.values()) if t.requires_grad]
    return [out, lse, *torch.autograd.grad(out.sin().sum() + lse.nan_to_num(neginf=0.0).sum(), wanted)]


def compare(mesh: DeviceMesh, case: Any) -> None:
    """One case: the same numbers, and where they are."""
    text, inputs, place, wanted, kv_heads = case
    attend = attnspec.compile(text)
    torch.manual_seed(0)
    plain = [torch.randn(BATCH, heads, N, 8, requires_grad=True) for heads in (HEADS, kv_heads, kv_heads)]
    values = {name: t.clone().requires_grad_(t.is_floating_point()) for name, (t, _) in inputs.items()}
    places = [place if t.shape[1] > 1 else Replicate() for t in plain]
    spread = [distribute_tensor(t.detach(), mesh, [at]) for t, at in zip(plain, places, strict=True)]
    shared = {name: distribute_tensor(t.detach(), mesh, [inputs[name][1]]) for name, t in values.items()}
    for t in (*spread, *shared.values()):
        t.requires_grad_(t.is_floating_point())
    found = results(attend, spread, shared)  # type: ignore[arg-type]
    for number, (got, want) in enumerate(zip(found, results(attend, plain, values), strict=True)):
        assert isinstance(got, DTensor)
        assert number > 1 or got.placements == (wanted,), f"{text} {place}: {got.placements}"
        error = float((got.full_tensor() - want).abs().max())
        assert error < 3e-5, f"{text} {place}: result {number} is wrong by {error}"


def main(rank: int, store: str) -> None:
    """All cases, in one of two processes."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for case in CASES:
        compare(mesh, case)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
