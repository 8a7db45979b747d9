"""``flex_attention``: FlexAttention's signature over our kernels."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.attention.flex_attention import flex_attention as theirs

from attnspec import CallError
from attnspec.flex import flex_attention
from attnspec.runtime.flex import known
from tests.support.flex_dense import dense, mask_of
from tests.support.flex_masks import MaskMod, causal, lookback
from tests.support.flex_tables import DOC, documents

N = 100


def qkv(heads: int = 2, kv_heads: int = 2, n_q: int = N, n: int = N, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    sizes = ((heads, n_q), (kv_heads, n), (kv_heads, n))
    q, k, v = (torch.randn(batch, h, length, 16, requires_grad=True) for h, length in sizes)
    return q, k, v


def blocks(mask_mod: MaskMod, n_q: int = N, n: int = N, size: int = 32) -> BlockMask:
    return create_block_mask(mask_mod, None, None, n_q, n, device="cpu", BLOCK_SIZE=size)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that functions were traced to."""
    texts: list[str] = []
    whole = known.imported

    def noted(*args: Any) -> Any:
        found = whole(*args)
        texts.append(found.text)
        return found

    monkeypatch.setattr(known, "imported", noted)
    known._known.clear()
    return texts


def check(found: Any, wanted: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), atol=atol, rtol=1e-5)


def test_functions_made_anew_are_traced_once_and_what_tensors_hold_now_counts(traced: list[str]) -> None:
    q, k, v = qkv()
    slopes = torch.tensor([0.1, 0.2], requires_grad=True)

    for doc in (DOC.long(), torch.arange(N) // 30, DOC.long()):

        def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return s - slopes[h] * (i - j)

        out = flex_attention(q, k, v, score, blocks(documents(doc, causal())))
        wanted, _ = dense(q, k, v, mask_of(documents(doc, causal()), 1, 2, N, N), score)
        check(out, wanted)
    grads = [torch.autograd.grad(x.square().sum(), (q, k, v, slopes)) for x in (out, wanted)]
    for mine, right in zip(*grads, strict=True):
        check(mine, right, 1e-4)
    assert len(set(traced)) == len(traced) == 2  # the mask by itself, for its blocks, and both
    assert "doc: int[n] sorted" in traced[0]


@pytest.mark.slow
def test_what_is_no_longer_true_of_tensors_is_traced_again(traced: list[str]) -> None:
    q, k, v = qkv()
    doc, other = DOC.long(), torch.arange(N)[torch.randperm(N)] // 30
    for now in (doc, other, doc.clone().copy_(other)):
        doc.copy_(now)
        mask = mask_of(documents(doc, causal()), 1, 2, N, N)
        check(flex_attention(q, k, v, block_mask=blocks(documents(doc, causal()))), dense(q, k, v, mask, None)[0])
    assert ["doc: int[n] sorted" in text for text in traced] == [True, True, False, False]  # alone, and with its blocks


def test_the_signature_is_theirs() -> None:
    mine, others = (list(inspect.signature(f).parameters.values()) for f in (flex_attention, theirs))
    assert [(p.name, p.kind, p.default) for p in mine] == [(p.name, p.kind, p.default) for p in others]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(1, 4, N, 16)}, "enable_gqa=True"),
        ({"block_mask": "n"}, "made for 64 queries and 100 keys, and there are 100 and 100"),
        ({"block_mask": "sliced"}, "sliced"),
        ({"block_mask": causal()}, "block_mask is a BlockMask, not function"),
        ({"block_mask": "twice"}, "names a block twice"),
        ({"block_mask": "both"}, "as a partial and as a full one"),
        ({"block_mask": "beyond"}, "that there are none of"),
        ({"block_mask": "heads"}, "for a batch of 1 and 3 heads"),
        ({"score_mod": lambda s, b, h, i, j: s if i > j else -s}, "a mask has no `if`"),
        ({"query": torch.zeros(2, 2, N, 16)}, "batch sizes differ"),
        ({"return_lse": True, "return_aux": object()}, "both given"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    counts, lists = torch.tensor([[[2]]], dtype=torch.int32), torch.tensor([[[[0, 1]]]], dtype=torch.int32)
    made = {
        "n": lambda: blocks(causal(), 64),
        "sliced": lambda: blocks(causal())[:, :, 0],
        "twice": lambda: BlockMask.from_kv_blocks(counts, lists * 0, BLOCK_SIZE=(128, 64), seq_lengths=(N, N)),
        "both": lambda: BlockMask.from_kv_blocks(
            counts, lists, counts, lists, BLOCK_SIZE=(128, 64), seq_lengths=(N, N)
        ),
        "beyond": lambda: BlockMask.from_kv_blocks(
            counts, lists + 1, BLOCK_SIZE=(128, 64), seq_lengths=(N, N), compute_q_blocks=False
        ),
        "heads": lambda: create_block_mask(causal(), 1, 3, N, N, device="cpu"),
    }
    given: dict[str, Any] = dict(zip(("query", "key", "value"), qkv(), strict=True)) | change
    if isinstance(given.get("block_mask"), str):
        given["block_mask"] = made[given["block_mask"]]()
    with pytest.raises(CallError, match=message):
        flex_attention(**given)


@pytest.mark.slow
def test_results_are_theirs() -> None:
    from torch.nn.attention.flex_attention import AuxRequest

    q, k, v = qkv(4, 2, 60, N, batch=2)
    mask = blocks(lookback(31), 60)
    out, lse = flex_attention(q, k, v, None, mask, 0.3, True, True, {"BLOCK_M": 16})
    wanted = dense(q, k, v, mask_of(lookback(31), 2, 4, 60, N), None, 0.3)
    check(out, wanted[0])
    check(lse, wanted[1])
    out, aux = flex_attention(
        q, k, v, block_mask=mask, enable_gqa=True, return_aux=AuxRequest(lse=True, max_scores=True)
    )
    assert aux.lse.shape == aux.max_scores.shape == (2, 4, 60)
    assert aux.lse[0, 0, 0] == aux.max_scores[0, 0, 0]  # one key
    out, aux = flex_attention(q, k, v, block_mask=mask, enable_gqa=True, return_aux=AuxRequest())
    assert aux.lse is aux.max_scores is None
    check(
        flex_attention(q, k[:1], v[:1], block_mask=mask, enable_gqa=True),
        dense(q, k[:1].expand(2, -1, -1, -1), v[:1].expand(2, -1, -1, -1), mask_of(lookback(31), 2, 4, 60, N), None)[0],
    )
    check(flex_attention(q[:, :2], k, v), dense(q[:, :2], k, v, None, None)[0])
