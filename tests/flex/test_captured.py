"""Tensors around functions: what they are called, how they are declared, and that they are the very tensors."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import functools

import torch

import attnspec
from attnspec.flex import spec_of
from tests.support.flex_point import imported_alike

doc = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])


class Windows(torch.nn.Module):
    """A mask that is a model's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("width", torch.tensor([2, 5]))
        self.lengths = torch.tensor([6, 8])

    def mask(self, b, h, q, k):
        """The keys that are seen."""
        return (q - k < self.width[h]) & (k < self.lengths[b])

    def forward(self, b, h, q, k):
        """The others."""
        return ~self.mask(b, h, q, k)


def same(b, h, q, k, table=doc):
    return table[q] == table[k]


def within(b, h, q, k, far):
    return (q - k).abs() <= far


def both(one, other):
    return lambda *at: one(*at) & other(*at)


def test_where_they_are_found() -> None:
    windows, far = Windows(), torch.tensor(3)
    inner = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1], dtype=torch.bool)
    for mask, names in (
        (lambda b, h, q, k: inner[q] & (doc[q] == doc[k]), ["inner", "doc"]),
        (same, ["table"]),
        (windows.mask, ["width", "lengths"]),
        (windows, ["width", "lengths"]),
        (functools.partial(within, far=far), ["far"]),
        (functools.partial(lambda far, b, h, q, k: q - k < far, far), ["far"]),
        (both(same, both(windows.mask, lambda b, h, q, k: inner[k])), ["table", "width", "lengths", "inner"]),
    ):
        found = imported_alike(mask)
        assert list(found.inputs) == names
    assert found.inputs["table"] is doc
    assert found.inputs["width"] is windows.width


def test_names_that_the_language_has_are_changed() -> None:
    n, s, attend, first, dim, window = (torch.tensor([1, 2]) for _ in range(6))
    any = torch.tensor([4, 3])
    found = imported_alike(
        lambda b, h, q, k: (n[b] + s[h] <= q) & (attend[b] < first[h] + k) & (dim[h] <= any[b]) & (window[h] > 0)
    )
    assert list(found.inputs) == ["n_", "s_", "attend_", "first_", "dim_", "any_", "window"]


def test_tensors_of_one_name_are_told_apart() -> None:
    def reads(table):
        return lambda b, h, q, k: table[q] <= table[k]

    found = imported_alike(both(reads(torch.arange(8)), reads(torch.arange(8).flip(0))))
    assert list(found.inputs) == ["table", "table_2"]


def test_sizes_are_those_of_the_call_where_they_fit() -> None:
    by_entry, by_head, rows = torch.zeros(3, dtype=torch.long), torch.zeros(2, dtype=torch.long), torch.arange(5)
    pairs, blocks, offsets = torch.ones(3, 5, 8).bool(), torch.ones(3, 2).bool(), torch.tensor([0, 2, 5, 8])

    def mask(b, h, q, k):
        seen = (by_entry[b] <= by_head[h]) & (rows[q] <= doc[k]) & pairs[b, q, k] & blocks[q // 2, k // 4]
        return seen & (k >= offsets[doc[k]])

    text = imported_alike(mask, 3, 2, 5, 8).text
    for line in (
        "by_entry: int[batch]",
        "by_head: int[heads]",
        "rows: int[n_q] sorted",
        "doc: int[n] sorted",
        "pairs: bool[batch, n_q, n]",
        "blocks: bool[(n_q + 1) // 2, (n + 3) // 4]",
        "offsets: int[_]",
    ):
        assert f"    input {line}\n" in text, text
    assert "input doc: int[8]\n" in spec_of(lambda b, h, q, k: doc[q] == doc[k]).text
    counted_from_the_end = spec_of(lambda b, h, q, k: doc[q] == doc[k - 1], 1, 1, 8, 8)
    assert "input doc: int[8]\n" in counted_from_the_end.text


def test_a_tensor_read_by_other_element_types_is_one_input() -> None:
    found = imported_alike(lambda b, h, q, k: doc.long()[q] == doc.to(torch.int32)[k])
    assert found.inputs == {"doc": doc}
    bias = torch.nn.Parameter(torch.zeros(2, 8, dtype=torch.bfloat16))
    assert spec_of(score_mod=lambda s, b, h, q, k: s + bias.float()[h, k]).inputs["bias"] is bias


def test_what_a_tensor_holds_in_a_call_counts() -> None:
    table = doc.clone()
    found = spec_of(lambda b, h, q, k: table[q] == table[k], 1, 1, 8, 8)
    attend = attnspec.compile(found.text, target="dense")
    q, k, v = torch.randn(3, 1, 1, 8, 4)
    before = attend(q, k, v, inputs=found.inputs)
    table.zero_()
    whole = (q[0, 0, 0] @ k[0, 0].T / 2).softmax(-1) @ v[0, 0]
    torch.testing.assert_close(attend(q, k, v, inputs=found.inputs)[0, 0, 0], whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, attend(q, k, v, inputs=found.inputs))
