"""``flex_attention`` under torch.compile: whole graphs, that know neither what tensors hold nor which ones they are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, and_masks, create_block_mask

from attnspec.flex import flex_attention
from tests.support.flex_dense import dense, mask_of
from tests.support.flex_masks import MaskMod, causal
from tests.support.flex_scores import ScoreMod, alibi_slopes
from tests.support.flex_tables import documents

pytestmark = pytest.mark.slow
N, RUN = 200, torch.arange(200) // 50
QKV = tuple(torch.randn(1, 2, N, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))


def within(width: int) -> MaskMod:
    return lambda b, h, i, j: (i >= j) & (i - j < width)


def blocks(mask_mod: MaskMod) -> BlockMask:
    return create_block_mask(mask_mod, None, None, N, N, device="cpu", BLOCK_SIZE=64)


class Counted:
    """A backend that counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        """The graph as it is."""
        self.graphs += 1
        return graph.forward


def graphs(cases: list[tuple[MaskMod | None, ScoreMod | None]], fullgraph: bool = True) -> int:
    """Run one compiled function on mask and score functions, compare, and say how many graphs it took."""
    torch._dynamo.reset()
    backend = Counted()

    def call(q: Tensor, k: Tensor, v: Tensor, score_mod: ScoreMod | None, block_mask: BlockMask | None) -> Tensor:
        out: Tensor = flex_attention(q, k, v, score_mod, block_mask)
        return out * 1.0

    compiled = torch.compile(call, backend=backend, fullgraph=fullgraph)
    for mask_mod, score_mod in cases:
        block_mask = None if mask_mod is None else blocks(mask_mod)
        mask = None if mask_mod is None else mask_of(mask_mod, 1, 2, N, N)
        found = compiled(*QKV, score_mod, block_mask)
        torch.testing.assert_close(found.double(), dense(*QKV, mask, score_mod)[0], atol=2e-5, rtol=1e-5)
    return backend.graphs


def test_functions_around_other_tensors_take_no_new_graph() -> None:
    shuffled = RUN[torch.randperm(N)]
    assert graphs([(documents(doc, causal()), None) for doc in (RUN, shuffled, RUN // 2)]) == 1
    assert graphs([(None, alibi_slopes(torch.tensor(x))) for x in ([0.1, 0.2], [0.3, -0.4])]) == 1
    both = [(and_masks(documents(doc, causal()), within(90)), alibi_slopes(torch.rand(2))) for doc in (RUN, shuffled)]
    assert graphs(both) == 1


def test_numbers_that_functions_make_do_not_break_graphs() -> None:
    def scored(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return torch.where(i - j > 7, s - 2.0, 0.5) * torch.tensor([1.0, 0.5])[h] + torch.stack([i, j])[h] / N

    assert graphs([(causal(), scored), (None, scored)]) == 2


def test_functions_that_were_read_again_are_functions() -> None:
    """As the cell of a notebook is, when it runs again: the code is equal."""
    made = [eval("lambda b, h, i, j: (i >= j) & (i - j < 9)") for _ in range(2)]
    for mask in made:
        graphs([(mask, None)])


def test_one_tensor_in_two_places_may_be_two_later() -> None:
    def documents_of(queries: Tensor, keys: Tensor) -> MaskMod:
        return lambda b, h, i, j: queries[i] == keys[j]

    assert graphs([(documents_of(*pair), None) for pair in ((RUN, RUN), (RUN, RUN // 2), (RUN // 2, RUN))]) == 2


def test_other_numbers_and_functions_take_one() -> None:
    assert graphs([(within(width), None) for width in (30, 40, 30)]) == 2
    assert graphs([(within(30), None), (causal(), None), (None, None)]) == 3


WIDTH = 30
_TABLES = {"table": torch.arange(N) % 3}


class Masks:
    """A mask with what it reads as attributes."""

    def __init__(self, width: int) -> None:
        self.width, self.doc = width, RUN

    def mask(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """The same document, not far before."""
        return (self.doc[i] == self.doc[j]) & (i - j < self.width)

    def score(self, s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Soft cap."""
        return torch.tanh(s / self.width) * self.width


def test_wherever_they_have_it_from() -> None:
    def near(width: int, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i - j).abs() < width

    def of(masks: Masks) -> MaskMod:
        return lambda b, h, i, j: masks.mask(b, h, i, j)

    assert graphs([(of(Masks(width)), None) for width in (30, 40)]) == 2
    graphs([(functools.partial(near, width), None) for width in (30, 40)], fullgraph=False)
    graphs([(None, Masks(width).score) for width in (30, 40)], fullgraph=False)
    assert graphs([(lambda b, h, i, j: (i - j < WIDTH) & (_TABLES["table"][i] == _TABLES["table"][j]), None)]) == 1


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_gradients_are_those_of_eager_calls(backend: str) -> None:
    torch._dynamo.reset()
    slopes = torch.rand(2, requires_grad=True)
    given = [t.clone().requires_grad_() for t in QKV]
    score, block_mask = alibi_slopes(slopes), blocks(documents(RUN, causal()))
    compiled = torch.compile(flex_attention, backend=backend, fullgraph=True)
    found, wanted = (f(*given, score, block_mask) for f in (compiled, flex_attention))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad(out.square().sum(), [*given, slopes]) for out in (found, wanted)]
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_blocks_without_a_function_and_blocks_that_change() -> None:
    torch._dynamo.reset()
    counts = torch.full((1, 1, 4), 2, dtype=torch.int32)
    lists = torch.stack([torch.randperm(4) for _ in range(4)])[None, None].int()
    compiled = torch.compile(flex_attention, backend=(backend := Counted()), fullgraph=True)
    for order in (lists, lists.flip(-1)):
        block_mask = BlockMask.from_kv_blocks(counts, order, BLOCK_SIZE=64, seq_lengths=(N, N))
        mask = torch.zeros(4, 4, dtype=torch.bool).scatter_(1, order[0, 0, :, :2].long(), True)
        mask = mask.repeat_interleave(64, 0).repeat_interleave(64, 1)[:N, :N]
        found = compiled(*QKV, block_mask=block_mask)
        torch.testing.assert_close(found.double(), dense(*QKV, mask, None)[0], atol=1e-5, rtol=1e-5)
    assert backend.graphs == 1
    wrong = BlockMask.from_kv_blocks(counts, lists * 0, BLOCK_SIZE=64, seq_lengths=(N, N))
    with pytest.raises(RuntimeError, match="names a block twice"):
        compiled(*QKV, block_mask=wrong)


class Layer(torch.nn.Module):
    """A module to export."""

    def __init__(self) -> None:
        super().__init__()
        self.block_mask = blocks(documents(RUN, causal()))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention within documents."""
        out: Tensor = flex_attention(q, k, v, block_mask=self.block_mask)
        return out


@pytest.mark.parametrize("strict", [True, False])
def test_it_is_exported(strict: bool) -> None:
    layer = Layer()
    exported = torch.export.export(layer, QKV, strict=strict).module()
    torch.testing.assert_close(exported(*QKV), layer(*QKV), atol=1e-6, rtol=1e-6)


def test_fake_tensors_have_shapes() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    layer = Layer()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(*map(mode.from_tensor, QKV)).shape == QKV[0].shape


def test_a_function_that_is_made_inside_breaks_the_graph() -> None:
    def layer(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
        out: Tensor = flex_attention(q * 1.0, k, v, lambda s, b, h, i, j: s + slopes[h] * (j - i))
        return out * 2.0

    torch._dynamo.reset()
    slopes = torch.tensor([0.1, 0.2])
    found = torch.compile(layer, backend=Counted())(*QKV, slopes)
    wanted, _ = dense(*QKV, None, alibi_slopes(slopes))
    torch.testing.assert_close(found.double(), 2 * wanted, atol=1e-4, rtol=1e-5)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="made inside what is compiled"):
        torch.compile(layer, backend=Counted(), fullgraph=True)(*QKV, slopes)


@pytest.mark.parametrize(
    "mask_mod",
    [
        lambda b, h, i, j: i - j < RUN[60].item() + 50,
        lambda b, h, i, j: i - j < int(RUN[60]) + 50,
        lambda b, h, i, j: (RUN + 1)[i] == 2,
    ],
)
def test_what_no_graph_can_know_breaks_it(mask_mod: MaskMod) -> None:
    torch._dynamo.reset()
    block_mask = blocks(causal())
    block_mask.mask_mod = mask_mod
    found = torch.compile(flex_attention, backend=Counted())(*QKV, block_mask=block_mask)
    torch.testing.assert_close(found, flex_attention(*QKV, block_mask=block_mask))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="tensors of others or looks into them"):
        torch.compile(flex_attention, backend=Counted(), fullgraph=True)(*QKV, block_mask=block_mask)
