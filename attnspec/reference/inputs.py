"""Inputs: tensors that come with a call."""

from __future__ import annotations

from attnspec.errors.clauses import MAX_DIMENSIONS
from attnspec.reference.entry import Entry, Section

SECTION = Section(
    "inputs",
    "Inputs",
    "A tensor that comes with the call, by its name: `attend(q, k, v, doc=doc)`. What the text alone does not "
    "decide the kernel asks of the input for a whole tile at once where it can (a sorted input, a scalar, a table "
    "or list of blocks), and pair by pair inside the tiles that are left. `attnspec inspect` says which.",
    (
        Entry(
            "input name: int[batch, n]",
            "`int`, `bool` or `float`, and its sizes, over `batch`, `heads`, `kv_heads`, `n`, `n_q` and parameters "
            f"(at most {MAX_DIMENSIONS}); the call's tensor has exactly these. Declared without `batch` or `heads` it "
            "is the same for all. In an index the leading `b` and `h` may be left out: `doc[q]` is `doc[b, q]`.",
            "input kind: int[batch, n]\nattend kind[q] == kind[b, k]",
            "query 5 sees 1 3 5 7 (kind = [[0, 1, 0, 1, 0, 1, 0, 1]])",
        ),
        Entry(
            "input name: int[n, _]",
            "A size `_` is whatever comes: it is not checked, and nothing reads it. Indices beyond it are outside, "
            "and one kernel serves all sizes.",
            "input seen: int[n, _]\nattend k in seen[q]",
            "query 1 sees 0 (n = 2, seen = [[1, 0, 1], [0, -1, 5]])",
        ),
        Entry(
            "input name: bool[n]",
            "A `bool` input is a predicate.",
            "input live: bool[n]\nattend live[k] and k <= q",
            "query 5 sees 0 4 (live = [true, false, false, false, true, false, true, true])",
        ),
        Entry(
            "input name: int[batch]",
            "One number for each batch entry, for each head (`int[heads]`), or for all (`int`): read by its name "
            "alone. Tiles and counts know up to twelve such integers, so a length or a prefix costs nothing.",
            "input length: int[batch]\nwithin k < length",
            "query 5 sees 0 1 2 (length = [3])",
        ),
        Entry(
            "input name: int[batch, n] sorted",
            "The values never decrease, which the call checks: the keys that share a query tile's values are found "
            "by binary search.",
            "input doc: int[batch, n] sorted\nattend doc[q] == doc[k] and k <= q",
            "query 5 sees 3 4 5 (doc = [[0, 0, 0, 1, 1, 1, 2, 2]])",
        ),
        Entry(
            "input name: int[n] offsets",
            "The call gives where each document begins, and at last `n` (`cu_seqlens`: 0, ..., n; its last size is "
            "the number of documents + 1). Read at a position it is the number of the document there. Documents may "
            "be empty.",
            "input cu_seqlens: int[n] offsets\nattend cu_seqlens[q] == cu_seqlens[k]",
            "query 5 sees 3 4 5 (cu_seqlens = [0, 3, 6, 8])",
        ),
        Entry(
            "input name: int[heads, 4] random(a..b, seed)",
            "Where the call does not give it, it is drawn: each entry from `a..b`, the same for the same seed and "
            "sizes.",
            "input rand: int[heads, n, 2] random(0..n, 7)\nattend k in rand[h, q]",
        ),
        Entry(
            "first(input, x), last(input, x)",
            "The first and last position of the run of equal values around position `x`, for a `sorted` or "
            "`offsets` input: `q - first(doc, q)` is the position within the document.",
            "input doc: int[batch, n] sorted\nattend k == first(doc, q) or k == last(doc, q)",
            "query 4 sees 3 5 (doc = [[0, 0, 0, 1, 1, 1, 2, 2]])",
        ),
        Entry(
            "keep[q // 64, k // 64]",
            "Blocks chosen by a table: only those are visited.",
            "input keep: bool[(n + 3) // 4, (n + 3) // 4]\nattend keep[q // 4, k // 4]",
            "query 5 sees 0 1 2 3 (keep = [[true, true], [true, false]])",
        ),
        Entry(
            "x in top[b, h, q // 64]",
            "A list in the last dimension: repeats count once; negative entries, and those beyond the last position "
            "or block, match nothing. With `k // 64` before `in` the kernel walks the list.",
            "input top: int[(n + 3) // 4, 2]\nattend k // 4 in top[q // 4]",
            "query 5 sees 0 1 2 3 (top = [[1, -1], [0, 0]])",
        ),
        Entry(
            "input bias: float[heads, 4]",
            "A `float` input is read in `score` and `sink` lines; gradients flow to it. Outside of it a score reads 0.",
            "input bias: float[heads, 4]\nscore s + bias[h, q - k]",
            "s = 1.0 becomes 1.5 at query 5, key 3 (bias = [[0.0, 0.0, 0.5, 0.0]])",
        ),
        Entry(
            "input name: float[heads, dim]",
            "`dim`, `dim_v` and `features` are sizes too: of queries and keys, of values, and of what a `linear` line "
            "maps to.",
            "input w: float[heads, dim]\nlinear relu(x * w[h, c])   divide total",
        ),
        Entry(
            "an input of n_q",
            "`q` and `k` are positions in an index too: a dimension of size `n_q` has an entry for each query row, "
            "found by the query's position, whatever the alignment. Write `tree[q, ...]`, without `n - n_q`.",
            "input tree: bool[n_q, n]\nattend tree[q, k]",
            "row 0 sees 1 (n = 4, n_q = 2, tree = [[false, true, false, false], [false, false, true, true]])",
        ),
    ),
)
