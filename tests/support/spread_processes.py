"""What processes of a gloo group do: the same layers as simulated ranks, and what can only be seen of processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from tests.support.spread import Layer, spread, wrong_by

LAYERS = [
    (Layer("causal"), {"shard": "zigzag"}),
    (Layer("window", params={"width": 9}, dtype=torch.bfloat16), {"shard": "contiguous"}),
    (Layer("longformer", n=300, params={"width": 16}), {}),
    (Layer("dilated", n=128, params={"width": 5, "rate": 4}), {"shard": "residue"}),
    (Layer("longnet", params={"branches": [[8, 1], [16, 2], [40, 5]]}), {}),
    (
        Layer(
            "attention a { input logit: float[heads]  within causal  sink logit[h] }",
            inputs={"logit": torch.tensor([0.5, -1.0, 2.0, 0.0])},
        ),
        {"shard": "contiguous"},
    ),
]


def worst() -> list[float]:
    """Of each layer the largest difference from one device, as a share of what is allowed."""
    return [wrong_by(spread(None, layer, **options)[0], layer) for layer, options in LAYERS]


def in_sub_groups() -> list[float]:
    """The same in two groups at once, of which neither is all processes, and over a mesh."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "cp"))
    layer = Layer("causal")
    return [wrong_by(spread(of, layer)[0], layer) for of in (mesh["cp"].get_group(), mesh["cp"], mesh["dp"])]


def one_dies() -> Any:
    """A rank that ends before the others are through: they hear of it."""
    if dist.get_rank() == 1:
        raise SystemExit(3)
    return spread(None, Layer("causal"))
