"""Keys in pages: each entry gives what dense attention to its own keys gives, wherever these lie."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from tests.support.marks import slow
from tests.support.pages import agree_in_pages, in_pages
from tests.support.targets import threads

LENGTHS = (37, 0, 1, 130, 64)
PATTERNS: dict[str, dict[str, Any]] = {
    "causal": {},
    "dense": {},
    "window": {"width": 40},
    "dilated": {"width": 8, "rate": 4},
    "sinks": {"recent": 20},
    "alibi": {},
    "softcap": {},
    "chunked": {"size": 24},
    "longformer": {"width": 16, "globals": 3},
    "sparse_fixed": {"stride": 16, "summary": 4},
    "sparse_strided": {"stride": 16},
    "neighborhood_2d": {"width": 8, "radius": 2},
    "longnet": {"branches": [[16, 1], [64, 3]]},
    "logsparse": {},
}
"""Strides, lists of positions, several passes, score lines, mixtures."""


def queries(
    batch: int, heads: int = 4, n_q: int = 1, dim: int = 16, dtype: torch.dtype = torch.float32, seed: int = 1
) -> Tensor:
    return torch.randn(batch, heads, n_q, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("size", [1, 16, 17, 64])
def test_page_sizes(size: int) -> None:
    """Ragged lengths, 0 and 1 among them, shuffled pages, NaN in every row that holds no key."""
    attend = attnspec.compile("window", width=40)
    for layout in ("HND", "NHD"):
        held = in_pages(LENGTHS, size, layout=layout)
        agree_in_pages(attend, queries(len(LENGTHS)), held, layout=layout)
        agree_in_pages(attend, queries(len(LENGTHS), n_q=5), held, layout=layout)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    attend = attnspec.compile(name, **PATTERNS[name])
    for size in (1, 16, 17, 64):
        held = in_pages(LENGTHS, size, shared=2, seed=size)
        for n_q in (1, 3, 40):
            agree_in_pages(attend, queries(len(LENGTHS), n_q=n_q), held)


def by_entry(inputs: dict[str, Tensor], sized: dict[str, int]) -> list[dict[str, Tensor]]:
    """The inputs of each entry by itself; ``sized`` are the dimensions that are as long as its keys."""
    found = []
    for b, length in enumerate(LENGTHS):
        own = {name: t[b : b + 1] for name, t in inputs.items()}
        found.append({name: t.narrow(sized[name], 0, length) if name in sized else t for name, t in own.items()})
    return found


def test_inputs_by_position() -> None:
    """What is sized by ``n`` is given for the longest entry; to the others it ends where their keys end."""
    text = """attention a {
        input doc: int[batch, n] sorted
        input bias: float[batch, heads, n_q, n]
        input near: bool[batch, n_q, n_q]
        within doc[q] == doc[k] or near[b, q, k]
        within k < first(doc, q) + 30 and doc[k + 1] >= 0
        score s + bias[b, h, q, k]
    }"""
    longest, batch = max(LENGTHS), len(LENGTHS)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "doc": (torch.arange(longest) // torch.tensor([[9], [5], [7], [41], [60]])).int(),
        "bias": torch.randn(batch, 4, 3, longest, generator=generator),
        "near": torch.rand(batch, 3, 3, generator=generator) < 0.5,
    }
    held = in_pages(LENGTHS, 16)
    own = by_entry(inputs, {"doc": 1, "bias": 3})
    agree_in_pages(attnspec.compile(text), queries(batch, n_q=3), held, inputs=inputs, by_entry=own)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["padded", "left_padded", "prefix_lm_lengths", "packed_window"])
def test_shipped_patterns_with_inputs(name: str) -> None:
    attend = attnspec.compile(name, **({"start": 2, "recent": 20} if name == "packed_window" else {}))
    inputs: dict[str, Tensor] = {"length": torch.tensor([30, 0, 1, 200, 7]), "start": torch.tensor([3, 1, 0, 100, 63])}
    inputs |= {"doc": torch.arange(max(LENGTHS)).expand(len(LENGTHS), -1) // 50}
    given = {declared.name: inputs[declared.name] for declared in attend.spec.inputs}
    for size in (16, 17):
        held = in_pages(LENGTHS, size)
        own = by_entry(given, {"doc": 1})
        agree_in_pages(attend, queries(len(LENGTHS), n_q=4), held, inputs=given, by_entry=own)


@pytest.mark.slow
def test_texts_that_read_sizes() -> None:
    """``n`` is the length of the entry: in predicates, in score lines, in sinks by row, for ``align start``."""
    for text in (
        "attention a { within k >= n // 3 or q == n - 1  score s * log(n + 1) }",
        "attention a { input logit: float[heads, n]  attend causal  sink logit[h, q] + 0.1 * n }",
        "attention a { align start  attend k <= q + 3 }",
        "attention a { align start  attend (q - k) % 5 == 0  score s - 0.1 * (n - k) }",
        "attention a { input keep: bool[batch, n_q, (n + 7) // 8]  attend keep[b, q, k // 8] }",
    ):
        attend = attnspec.compile(text)
        longest, generator = max(LENGTHS), torch.Generator().manual_seed(0)
        inputs: dict[str, Tensor] = {}
        own = None
        for declared in attend.spec.inputs:
            if declared.name == "logit":
                inputs["logit"] = torch.randn(4, longest, generator=generator)
                own = [{"logit": inputs["logit"][:, :length]} for length in LENGTHS]
            else:
                inputs["keep"] = torch.rand(len(LENGTHS), 3, (longest + 7) // 8, generator=generator) < 0.5
                own = [{"keep": inputs["keep"][b : b + 1, :, : (n + 7) // 8]} for b, n in enumerate(LENGTHS)]
        held = in_pages(LENGTHS, 16)
        agree_in_pages(attend, queries(len(LENGTHS), n_q=3), held, inputs=inputs, by_entry=own)


@pytest.mark.slow
def test_entries_keep_their_numbers() -> None:
    """``b`` and ``batch`` are those of the call: an entry gives what it does in a call with its keys in every entry."""
    attend = attnspec.compile("attention a { within (k + b) % batch != 0 or h == 1 }")
    held, q = in_pages(LENGTHS, 16), queries(len(LENGTHS), n_q=2)
    out = attend.paged(q, held.k_pages, held.v_pages, table=held.table, lengths=held.lengths)
    for b, (keys, values) in enumerate(zip(held.keys, held.values, strict=True)):
        whole = (t.expand(len(LENGTHS), *t.shape).contiguous() for t in (q[b], keys, values))
        torch.testing.assert_close(out[b], attend(*whole)[b], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_types_and_sizes(dtype: torch.dtype) -> None:
    for dim, dim_v, heads, kv_heads in ((16, 16, 4, 2), (33, 7, 6, 1), (64, 80, 3, 3)):
        for layout in ("HND", "NHD"):
            for size in (3, 16, 64):
                held = in_pages(
                    LENGTHS, size, kv_heads=kv_heads, dim=dim, dim_v=dim_v, dtype=dtype, layout=layout, shared=1
                )
                q = queries(len(LENGTHS), heads, 3, dim, dtype)
                agree_in_pages(attnspec.compile("causal"), q, held, layout=layout)


def test_halves_of_one_tensor() -> None:
    """Engines keep keys and values in one tensor: vLLM in (2, pages, ...), FlashInfer in (pages, 2, ...)."""
    held, q = in_pages(LENGTHS, 16), queries(len(LENGTHS))
    attend = attnspec.compile("causal")
    for dim in (0, 1):
        both = torch.stack((held.k_pages, held.v_pages), dim)
        k_pages, v_pages = both.unbind(dim)
        agree_in_pages(attend, q, held._replace(k_pages=k_pages, v_pages=v_pages, table=held.table.long()))


def test_many_threads_and_no_entries() -> None:
    attend, held = attnspec.compile("window", width=40), in_pages(LENGTHS, 16)
    with threads(3):
        agree_in_pages(attend, queries(len(LENGTHS), n_q=70), held)
    table, lengths = torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    out = attend.paged(queries(0), held.k_pages, held.v_pages, table=table, lengths=lengths)
    assert out.shape == (0, 4, 1, 16)
    assert attend.paged(
        queries(5, n_q=0), held.k_pages, held.v_pages, table=held.table, lengths=held.lengths
    ).shape == (5, 4, 0, 16)


ROTATED: dict[str, dict[str, Any]] = {
    "rope": {},
    "gpt_oss": {"width": 20},
    "streaming": {"start": 2, "recent": 20},
    "rope_2d": {},
    "mrope": {"time": 3, "height": 3},
    "attention a { normalize q  normalize k  attend causal  rotate rope(theta = 100) at (q // 2, k // 2) }": {},
}


@pytest.mark.parametrize("name", ["rope", *(slow(name) for name in ROTATED if name != "rope")])
def test_steps_of_an_engine(name: str) -> None:
    """Each step turns what is new, writes it into pages and attends: the same as a call on all that was written."""
    attend = attnspec.compile(name, **ROTATED[name])
    generator = torch.Generator().manual_seed(0)
    lengths, size, heads, dim = torch.tensor([5, 0, 29]), 4, 4, 64 if name == "rope_2d" else 16
    steps = [3, 1, 1]
    longest = int(lengths.max()) + sum(steps)
    whole = [torch.randn(3, h, longest, dim, generator=generator) for h in (heads, 2, 2)]  # from position 0 on
    k_pages, v_pages = torch.zeros(2, 30, 2, size, dim).unbind(0)
    table = torch.randperm(30, generator=generator).view(3, 10)
    inputs: dict[str, Tensor] = {}
    for declared in attend.spec.inputs:
        shape = (heads,) if declared.kind == "float" else (3, 3, longest)
        kinds = {
            "float": torch.randn(shape, generator=generator),
            "int": torch.randint(0, 50, shape, generator=generator),
        }
        inputs[declared.name] = kinds[declared.kind]

    def write(rows: list[int]) -> Tensor:
        """Turn and store so many rows of each entry, the last of those that it has now; the turned queries."""
        turned_q = []
        given = upto(int(lengths.max()))
        q, k = last(whole[0], max(rows)), last(whole[1], max(rows))
        q, k = attend.rotated(q, k, lengths=lengths, **given)
        for b, count in enumerate(rows):
            for row in range(count):
                at = int(lengths[b]) - count + row
                k_pages[table[b, at // size], :, at % size] = k[b, :, k.shape[2] - count + row]
                v_pages[table[b, at // size], :, at % size] = whole[2][b, :, at]
            turned_q.append(q[b])
        return torch.stack(turned_q)

    def last(x: Tensor, count: int) -> Tensor:
        """The last rows of each entry; zeros before its first."""
        padded = torch.cat((x.new_zeros(3, x.shape[1], count, dim), x), 2)
        return torch.stack([padded[b, :, n : n + count] for b, n in enumerate(lengths.tolist())])

    def upto(n: int) -> dict[str, Tensor]:
        return {name: t if t.dim() == 1 else t[..., :n] for name, t in inputs.items()}

    write(lengths.tolist())
    for count in steps:
        lengths += count
        q = write([count] * 3)
        given = upto(int(lengths.max()))
        out = attend.paged(q, k_pages, v_pages, table=table, lengths=lengths, rotated=True, **given)
        for b, n in enumerate(lengths.tolist()):
            own = {name: t if t.dim() == 1 else t[:, b : b + 1, :n] for name, t in inputs.items()}
            own_q, own_k, own_v = (x[b : b + 1, :, :n] for x in whole)
            want = attend(own_q[:, :, n - count :], own_k, own_v, **own)
            torch.testing.assert_close(out[b : b + 1], want, rtol=1e-4, atol=1e-4)


def test_only_pages_in_the_window_are_walked() -> None:
    """A window against 2^18 keys takes about as long as against 2^10; all of them would take 256 times as long."""
    attend, size = attnspec.compile("window", width=40), 16
    pages, q = torch.randn(4, 2, size, 16), queries(1)

    def least(n: int) -> float:
        table, lengths, found = torch.arange(n // size)[None] % 4, torch.tensor([n]), []
        for _ in range(7):
            start = time.process_time()
            attend.paged(q, pages, pages, table=table, lengths=lengths)
            found.append(time.process_time() - start)
        return min(found)

    least(1 << 10)  # makes the kernel
    assert least(1 << 18) < 20 * least(1 << 10)
