"""Mask and score functions as specs: what they say, and that they mean what the functions do."""

from __future__ import annotations

import torch

from attnspec.flex import spec_of

DOC = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])


def packed(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    return (DOC[q_idx] == DOC[kv_idx]) & (q_idx >= kv_idx)


def test_documents_are_a_sorted_input() -> None:
    found = spec_of(packed, 2, 2, 8, 8)
    assert "input DOC: int[n] sorted" in found.text
    assert found.inputs["DOC"] is DOC
