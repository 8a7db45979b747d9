"""Keys in pages at the border: what is refused by name, what has no gradient, what torch.compile sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from tests.support.pages import in_pages

HELD = in_pages((20, 5), 8)  # 3 pages and 1, of 6: the table has room for 4
GOOD: dict[str, Any] = {
    "q": torch.zeros(2, 4, 1, 16),
    "k_pages": HELD.k_pages,
    "v_pages": HELD.v_pages,
    "table": HELD.table,
    "lengths": HELD.lengths,
}


def call(name: str = "causal", **given: Any) -> Tensor:
    """A call in which some arguments are other ones."""
    given = GOOD | given
    q, k, v = (given.pop(name) for name in ("q", "k_pages", "v_pages"))
    found: Tensor = attnspec.compile(name).paged(q, k, v, **given)
    return found


def table(b: int, at: int, page: int) -> Tensor:
    """The table with another page in a place."""
    found = HELD.table.clone()
    found[b, at] = page
    return found


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no tensor": ({"k_pages": [0.0]}, "k_pages must be a tensor, not list"),
    "rank": ({"k_pages": torch.zeros(6, 8, 16)}, r"k_pages must have 4 dimensions \(pages, kv_heads, page_size, dim\)"),
    "rank of NHD": ({"v_pages": torch.zeros(3), "layout": "NHD"}, r"v_pages must have .*\(pages, page_size, kv_heads"),
    "layout": ({"layout": "BHSD"}, r'layout says .* "HND" \(pages, .* "NHD" .*; not \'BHSD\''),
    "page size": (
        {"v_pages": HELD.v_pages[:, :, :4]},
        r"same pages, heads and page size.*\(6, 2, 8, 16\) and \(6, 2, 4,",
    ),
    "empty pages": ({"k_pages": HELD.k_pages[:, :, :0], "v_pages": HELD.v_pages[:, :, :0]}, "of at least 1"),
    "wrong layout": ({"layout": "NHD"}, r"4 heads cannot be shared among 8 key heads.*k_pages \(6, 8, 2, 16\)"),
    "dim": ({"q": torch.zeros(2, 4, 1, 8)}, r"q and k_pages must have one head size: q \(2, 4, 1, 8\), k_pages \(6, 2"),
    "dtype": (
        {"q": torch.zeros(2, 4, 1, 16).bfloat16()},
        "q and k_pages must have one dtype; .*bfloat16 and torch.float32",
    ),
    "heads": ({"q": torch.zeros(2, 3, 1, 16)}, "q's 3 heads cannot be shared among 2 key heads"),
    "no table": ({"table": [[0]]}, "table must be a tensor, not list"),
    "float table": ({"table": HELD.table.float()}, "table must hold int32 or int64; it is torch.float32"),
    "flat table": ({"table": HELD.table[0]}, r"table must be \(batch, most pages\); it is \(4,\), and q has 2 batch"),
    "short table": ({"table": HELD.table[:1]}, r"table must be .*; it is \(1, 4\), and q has 2 batch entries"),
    "short lengths": ({"lengths": HELD.lengths[:1]}, r"lengths must be \(batch,\); it is \(1,\)"),
    "bool lengths": ({"lengths": HELD.lengths > 0}, "lengths must hold int32 or int64; it is torch.bool"),
    "device": ({"lengths": HELD.lengths.to("meta")}, "lengths is on meta, but q is on cpu: move it there"),
    "too long": (
        {"lengths": torch.tensor([20, 33])},
        r"lengths\[1\] is 33; .* of 4 pages of 8 keys each, holds 0 to 32",
    ),
    "negative": ({"lengths": torch.tensor([-1, 5])}, r"lengths\[0\] is -1"),
    "no such page": (
        {"table": table(0, 2, 6)},
        r"table\[0, 2\] is 6, and there are 6 pages; lengths\[0\] is 20, .* uses 3",
    ),
    "no page": (
        {"table": table(1, 0, -1)},
        r"table\[1, 0\] is -1, and there are 6 pages; lengths\[1\] is 5, .* uses 1",
    ),
    "beyond 32 bits": ({"table": table(1, 0, 0).long() + (1 << 32)}, r"table\[0, 0\] is 4,294,967,\d+, and there are"),
    "unknown input": ({"lenght": torch.zeros(1)}, "causal: there is no input `lenght`"),
    "scale": ({"scale": float("inf")}, "scale is inf"),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_arguments(name: str) -> None:
    given, message = CASES[name]
    with pytest.raises(attnspec.CallError, match=message):
        call(**given)


TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "reformer": (r"reformer: a computed order sorts all keys", {}),
    "rope": ("rope: the pattern rotates .* say rotated=True", {}),
    "packed_offsets": (
        "input `cu_seqlens` is declared `offsets`.*where each entry",
        {"cu_seqlens": torch.tensor([[0, 20]] * 2)},
    ),
    "bigbird": ("input `rand` is drawn for a length", {}),
    "attention a { input doc: int[batch, n] sorted  attend k <= last(doc, q) }": (
        r"input `doc` is read by `last\(doc, ...\)`",
        {"doc": torch.zeros(2, 20, dtype=torch.int64)},
    ),
    "attention a { input doc: int[batch, n] sorted  attend doc[q] == doc[k] }": (
        r"input `doc` has the shape \(2, 5\); .*, here \(2, 20\)",
        {"doc": torch.zeros(2, 5, dtype=torch.int64)},
    ),
    "padded": (r"padded: input `length` is missing", {}),
    "xpos": ("xpos: keys are stored turned.*xPos turns around the middle of a call", {"rotated": True}),
    "attention a { attend causal  rotate rope(theta = 100) at (q - n, k - n) }": (
        "here they turn otherwise at each length: .* reads `n`, which grows",
        {"rotated": True},
    ),
}


@pytest.mark.parametrize("text", TEXTS)
def test_patterns_without_pages(text: str) -> None:
    message, given = TEXTS[text]
    q, k, v, table, lengths = GOOD.values()
    with pytest.raises(attnspec.CallError, match=message):
        attnspec.compile(text).paged(q, k, v, table=table, lengths=lengths, **given)


def test_other_targets() -> None:
    q, k, v, table, lengths = GOOD.values()
    with pytest.raises(attnspec.CallError, match="causal: keys in pages are read by kernels: target"):
        attnspec.compile("causal", target="dense").paged(q, k, v, table=table, lengths=lengths)


def test_there_is_no_gradient() -> None:
    """A model runs without ``no_grad``; a gradient that reaches the result is an error."""
    out = call(q=GOOD["q"].clone().requires_grad_())
    assert out.requires_grad
    with pytest.raises(NotImplementedError, match="results of keys in pages have no gradient"):
        out.sum().backward()  # type: ignore[no-untyped-call]
    assert not call().requires_grad


def test_autocast_leaves_pages_alone() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(attnspec.CallError, match=r"q and k_pages must have one dtype"):
            call()
        out = call(k_pages=HELD.k_pages.bfloat16(), v_pages=HELD.v_pages.bfloat16())
    assert out.dtype == torch.bfloat16


@pytest.mark.slow
def test_compiled_graphs() -> None:
    """One graph for all lengths: what tables and lengths hold is looked at when it runs."""
    attend = attnspec.compile("alibi")
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def step(q: Tensor, table: Tensor, lengths: Tensor) -> Tensor:
        return attend.paged(q, HELD.k_pages, HELD.v_pages, table=table, lengths=lengths)

    q = torch.randn(2, 4, 1, 16)
    for lengths in (torch.tensor([20, 5]), torch.tensor([3, 0])):
        torch.testing.assert_close(step(q, HELD.table, lengths), call("alibi", q=q, lengths=lengths))
    with pytest.raises(attnspec.CallError, match=r"lengths\[0\] is 100"):
        step(q, HELD.table, torch.tensor([100, 5]))


def test_shapes_on_meta() -> None:
    given = {name: t.to("meta") for name, t in GOOD.items()}
    assert call(**given).shape == (2, 4, 1, 16)


def test_rotated_lengths() -> None:
    """The last rows of each entry turn by where they stand; wrong lengths are refused."""
    attend = attnspec.compile("rope")
    q, k = torch.randn(2, 2, 4, 3, 16).unbind(0)
    rows_q, rows_k = attend.rotated(q, k, lengths=torch.tensor([3, 9]))
    whole_q, whole_k = attend.rotated(*(torch.cat((t.new_zeros(2, 4, 6, 16), t), 2) for t in (q, k)))
    torch.testing.assert_close(rows_q[1], whole_q[1, :, 6:])
    torch.testing.assert_close(rows_k[1], whole_k[1, :, 6:])
    torch.testing.assert_close((rows_q[0], rows_k[0]), tuple(t[0] for t in attend.rotated(q, k)))
    for lengths, message in (([3, 9], "lengths must be a tensor"), (torch.tensor([3]), r"lengths must be \(batch,\)")):
        with pytest.raises(attnspec.CallError, match=message):
            attend.rotated(q, k, lengths=lengths)  # type: ignore[arg-type]
    with pytest.raises(attnspec.CallError, match="xPos"):
        attnspec.compile("xpos").rotated(q, k, lengths=torch.tensor([3, 9]))
