"""Files for FlexAttention in tests: a pattern's text, run, and what it makes for a call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask

from attnspec.codegen.flex.module import module
from attnspec.codegen.tiles import Tile
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.runtime.prepare.example import example
from attnspec.runtime.prepare.inputs import draw
from attnspec.spec.axes import lengths
from attnspec.spec.spec import Spec
from tests.support.strategies import Case

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Exported:
    """The file of a pattern, and the sizes of a call of it."""

    spec: Spec
    sizes: Sizes
    text: str
    names: SimpleNamespace
    inputs: dict[str, Tensor]

    def made(self, name: str) -> Any:
        """What is called ``make_mask_mod``, ``make_score_mod`` or ``block_mask``, called for these sizes."""
        maker = getattr(self.names, name)
        wanted = maker.__wrapped__ if hasattr(maker, "__wrapped__") else maker
        parameters = wanted.__code__.co_varnames[: wanted.__code__.co_argcount + wanted.__code__.co_kwonlyargcount]
        s = self.sizes
        given = {"n": s.n, "n_q": s.n_q, "heads": s.heads, "kv_heads": s.kv_heads, "batch": s.batch, "m": s.m}
        given |= {"offset": s.first, "device": "cpu", **self.inputs}
        return maker(**{p: given[p] for p in parameters})

    @property
    def shape(self) -> Shape:
        """Of the scores."""
        s = self.sizes
        return s.batch, s.heads, s.n_q, s.n

    @property
    def block_mask(self) -> BlockMask:
        """That of the file."""
        made = self.made("block_mask")
        assert isinstance(made, BlockMask)
        return made

    @property
    def mask(self) -> Tensor:
        """Which pairs its function allows."""
        return create_mask(self.made("make_mask_mod"), *self.shape, device="cpu")

    @property
    def oracle(self) -> Tensor:
        """Which pairs the pattern allows."""
        s, inputs = self.sizes, {name: t.numpy() for name, t in self.inputs.items()}
        return torch.from_numpy(self.spec.mask(s.n, s.n_q, s.heads, s.batch, s.kv_heads, inputs)).bool()

    def theirs(self) -> BlockMask:
        """What PyTorch makes of the file's function, looking at all pairs; of as many heads as the file's."""
        ours = self.block_mask
        batch, heads = ours.kv_num_blocks.shape[:2]
        return create_block_mask(
            ours.mask_mod, batch, heads, self.sizes.n_q, self.sizes.n, device="cpu", BLOCK_SIZE=ours.BLOCK_SIZE
        )


def exported(spec: Spec, tile: Tile | None, n: int, n_q: int | None = None, heads: int = 4, batch: int = 2) -> Exported:
    """The file of a pattern with blocks of a size, for a call with example inputs."""
    text = module(lower(spec, heads, max(1, heads // 2), batch), tile)
    sizes = Sizes(n, n if n_q is None else n_q, heads, max(1, heads // 2), batch, spec.align == "end", m=n)
    if spec.axes:
        keys, queries = lengths(spec.axes, n)
        sizes = Sizes(keys, queries, heads, max(1, heads // 2), batch, False, m=n)
    drawn = {i.name: draw(i.name, i, sizes) for i in spec.inputs if i.random is not None}
    inputs = example(spec, sizes, torch.Generator().manual_seed(0))
    return Exported(spec, sizes, text, run(text), {**drawn, **inputs})


def of_case(case: Case, tile: Tile) -> Exported:
    """The file of a generated pattern, for its call."""
    spec, sizes = case.spec(), case.sizes()
    text = module(lower(spec, case.heads, case.heads, case.batch), tile)
    inputs = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
    return Exported(spec, replace(sizes, m=sizes.n, batch=case.batch), text, run(text), inputs)


def run(text: str) -> SimpleNamespace:
    """What a file defines."""
    names: dict[str, Any] = {}
    exec(compile(text, "exported.py", "exec"), names)  # text of our own
    return SimpleNamespace(**names)


def same_blocks(call: Exported, strict: bool = True) -> bool:
    """Whether blocks are those that PyTorch finds. If not ``strict`` blocks may be masked that need not be."""
    ours, theirs = sets(call.block_mask), sets(call.theirs())
    if strict:
        return all(torch.equal(ours[kind], dense) for kind, dense in theirs.items())
    return all(
        bool((ours[f"full{by}"] <= theirs[f"full{by}"]).all())
        and bool((theirs[f"partial{by}"] <= ours[f"partial{by}"]).all())
        and bool((theirs[f"full{by}"] <= ours[f"partial{by}"] | ours[f"full{by}"]).all())
        for by in ("", ", by keys")
    )


def sets(mask: BlockMask) -> dict[str, Tensor]:
    """The blocks that are masked and those that are not, found by queries and by keys, (.., rows, columns)."""
    return {
        "partial": _dense(mask.kv_num_blocks, mask.kv_indices),
        "full": _dense(mask.full_kv_num_blocks, mask.full_kv_indices),
        "partial, by keys": _dense(mask.q_num_blocks, mask.q_indices).mT,
        "full, by keys": _dense(mask.full_q_num_blocks, mask.full_q_indices).mT,
    }


def _dense(number: Tensor | None, indices: Tensor | None) -> Tensor:
    assert number is not None
    assert indices is not None
    assert number.dtype == indices.dtype == torch.int32
    live = torch.arange(indices.shape[-1]) < number[..., None]
    out = torch.zeros(*indices.shape[:-1], indices.shape[-1] + 1, dtype=torch.int32)
    out.scatter_add_(-1, torch.where(live, indices, indices.shape[-1]).long(), live.int())
    assert int(out.max()) <= 1, "a block is there twice"
    return out[..., :-1].bool()
