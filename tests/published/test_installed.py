"""Performer and Infini-attention as packages have them, in float64 and by kernels, gradients too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from tests.published.comparing import alike, learned, split
from tests.support.marks import slow

BATCH, HEADS, DIM, FEATURES, SEGMENT = 2, 2, 16, 20, 12

# Of each: the spec, the options of performer_pytorch.FastAttention, and the length.
PERFORMERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "all keys": ("attention a { include performer(features = 20) }", {}, 41),
    "causal": ("attention a { include performer_causal(features = 20) }", {"causal": True}, 150),
    "relu": (
        "attention a { linear favor(x, features = 20, kernel = relu, eps = 1e-3)  divide total }",
        {"generalized_attention": True},
        41,
    ),
    "no projection": (
        "attention a { attend causal  linear q: softmax(x)  linear k: exp(x)  divide total + 1e-6 * mass }",
        {"causal": True, "no_projection": True},
        41,
    ),
}


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def both(
    text: str,
    theirs: Callable[[], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Mapping[str, Tensor],
    sources: Mapping[str, Tensor],
    kernel: bool,
) -> None:
    """Assert that the dense meaning and, if there is one, the kernel give what is published, and its gradients."""
    alike(lambda: attnspec.compile(text, target="dense")(q, k, v, inputs=inputs), theirs, sources, 1e-11)
    if kernel:
        narrow = {name: t.float() for name, t in inputs.items()}
        ours = attnspec.compile(text)
        alike(lambda: ours(q.float(), k.float(), v.float(), inputs=narrow).double(), theirs, sources)


@pytest.mark.parametrize("name", [name if name == "causal" else slow(name) for name in PERFORMERS])
def test_performer_pytorch(name: str) -> None:
    """``FastAttention`` with its own projection; causal it takes its sequences in 128 chunks, which changes nothing."""
    package = pytest.importorskip("performer_pytorch")
    text, options, n = PERFORMERS[name]
    torch.manual_seed(0)
    layer = package.FastAttention(DIM, FEATURES, **options).double()
    q, k, v = (random(BATCH, HEADS, n, DIM, seed=seed) for seed in range(3))
    inputs = {} if "no_projection" in options else {"projection": layer.projection_matrix}
    both(text, lambda: layer(q, k, v), q, k, v, inputs, {"q": q, "k": k, "v": v}, kernel=True)


@pytest.mark.parametrize("n", [SEGMENT, 3 * SEGMENT + 5])
def test_infini_transformer_pytorch(n: int) -> None:
    """``CausalAttention``, one segment after the other, each given the memory of those before.

    Its gate is the paper's reversed, its rotations turn neighbouring dimensions, and its queries are scaled.
    """
    package = pytest.importorskip("infini_transformer_pytorch.infini_transformer")
    layer = package.CausalAttention(40, dim_head=DIM, heads=HEADS, use_mem_delta_rule=True).double()
    layer.to_out = torch.nn.Identity()
    found = learned(layer)
    weight, gate = found["to_qkv.weight"], found["fastweight_mem.head_gates"]
    with torch.no_grad():  # not learned, and made in float32
        layer.rotary_emb.freqs.copy_(10000.0 ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM))
    x = random(BATCH, n, 40, seed=5)

    def theirs() -> Tensor:
        outs, memory = [], None
        for at in range(0, n, SEGMENT):
            out, _, memory = layer(x[:, at : at + SEGMENT], past_memories=memory, return_new_memories=True)
            outs.append(out)
        return split(torch.cat(outs, 1), HEADS)

    def ours() -> Tensor:
        q, k, v = (split(t, HEADS) for t in layer.to_qkv(layer.norm(x)).chunk(3, -1))
        return attend(q, k, v, gate=-gate)

    text = attnspec.read("infini", params={"segment": SEGMENT})
    text = str(text).replace("layout = half", "layout = pairs")
    attend = attnspec.compile(text, target="dense")
    sources = {"x": x, "weight": weight, **({"gate": gate} if n > SEGMENT else {})}
    alike(ours, theirs, sources, 1e-11)
    q, k, v = (split(t, HEADS).float() for t in layer.to_qkv(layer.norm(x)).chunk(3, -1))
    by_kernels = attnspec.compile(text, target="cpp")(q, k, v, gate=-gate.float())
    torch.testing.assert_close(by_kernels.double(), theirs(), rtol=0, atol=1e-5)
