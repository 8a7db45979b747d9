"""Lines that change the score, and the functions of reals."""

from __future__ import annotations

from attnspec.reference.entry import Entry, Section

SECTION = Section(
    "scores",
    "Scores",
    "The score of a pair is `scale * dot(q, k)`; the lines below change it, in the order in which they stand. A "
    "score may not remove pairs (there is no infinity): `within` does, and skips their tiles.",
    (
        Entry(
            "score x",
            "The new score; `s` is the score so far, and integers become reals. Several lines apply one after another.",
            "score s + 0.5 * (k - q)\nscore s / 2",
            "s = 3.0 becomes 1.0 at query 5, key 3",
        ),
        Entry(
            "a / b",
            "A quotient of reals, where reals may stand. Whole division is `//`.",
            "score s - q / 4",
            "s = 1.0 becomes -0.25 at query 5, key 3",
        ),
        Entry(
            "score if c then a else b",
            "The condition may compare reals here. At a tie, in `min` and `max` too, the gradient goes to the first.",
            "score if s > 4.0 or q == k then 4.0 else s",
            "s = 9.0 becomes 4.0 at query 5, key 3",
        ),
        Entry(
            "tanh(x), exp(x), log(x), sqrt(x), abs(x), x ** y, relu(x), elu(x), sigmoid(x), softplus(x)",
            "Of reals, beside `min`, `max` and `clamp`. A fractional exponent wants a positive base.",
            "score log(exp(s)) + tanh(0.0) + sqrt(4.0)\nscore max(s, 0.5) ** 2 + abs(-1.0)",
            "s = 1.0 becomes 10.0 at query 5, key 3",
        ),
        Entry(
            "softcap(x, cap)",
            "`cap * tanh(x / cap)` (Gemma 2).",
            "score softcap(s, 50.0)",
            "s = 5000.0 becomes 50.0 at query 5, key 3",
        ),
        Entry(
            "attention name(cap = 50.0, slopes = [0.5, 0.25]) { ... }",
            "A parameter whose default is a real, or a list with one, takes any numbers. A score or sink that reads "
            "it has it as an argument of the kernel: one compile serves all values (but of a whole exponent). Where a "
            "real parameter may stand, an input may: `softcap(s, c)` or `include softcap(cap = c)` with `input c: "
            "float[heads]`.",
            "attention a(slopes = [0.5, 0.25]) {\n    score s - slopes[h] * (q - k) }",
            "s = 1.0 becomes 0.5 at query 5, key 3 (h = 1, heads = 2)",
        ),
        Entry(
            "alibi_slope(h, heads)",
            "ALiBi's slope of a head (Press et al., 2022), for any number of heads as in its code.",
            "within causal\nscore s - alibi_slope(h, heads) * (q - k)",
            "s = 1.0 becomes 0.0 at query 5, key 3 (h = 0, heads = 8)",
        ),
        Entry(
            "t5_bucket(distance, buckets, max_distance, both_sides)",
            "T5's bucket of a distance `k - q` (Raffel et al., 2020): an index for a learned bias.",
            "input bias: float[heads, 32]\nscore s + bias[h, t5_bucket(k - q, 32, 128, true)]",
        ),
        Entry(
            "sink x",
            "A logit without a value: it takes its share of the softmax (gpt-oss). It may depend on the head, the "
            "batch entry, the row and float inputs, not on the key.",
            "attend k == q\nsink 0.0",
            "the weights of query 5 sum to 0.5",
        ),
        Entry(
            "scale x",
            "The factor of the dot product where the call gives none; otherwise 1 / sqrt(dim).",
            "scale 1.0\nattend causal",
        ),
        Entry(
            "normalize k",
            "The vectors of keys (or `q`: of queries) are scaled to unit length before the dot product.",
            "normalize q\nnormalize k",
        ),
        Entry(
            "rotate rope(theta = 10000)",
            "Rotary embeddings of queries and keys; the options are below. `theta`, `factor` and `attention_factor` "
            "may be formulas over the sizes of the call and inputs, which get their gradients.",
            "attend causal\nrotate rope(theta = 500000, layout = pairs)",
        ),
        Entry(
            "rotate rope() at (x, y)",
            "The positions by which queries (`x`) and keys (`y`) turn, in place of `q` and `k`: for instance those "
            "within a packed document. They may be reals (`q / 4`, an `input pos: float[batch, n]`), and differ by "
            "pair of dimensions: `pair` is its number, from 0, `pairs` how many there are. A position that is read "
            "outside an input is 0.",
            "input doc: int[batch, n] sorted\nrotate rope() at (q - first(doc, q), k - first(doc, k))",
        ),
        Entry(
            "rotate rope(start = 32, dims = 32)",
            "Only some dimensions of a head turn. Several lines turn different parts, here by the row and by the "
            "column of a grid of width 8.",
            "rotate rope(dims = 32) at (q // 8, k // 8)\nrotate rope(start = 32) at (q % 8, k % 8)",
        ),
        Entry(
            "rotate rope(frequencies = x): frequency, pair, pairs",
            "The angle of each pair of dimensions from one position to the next: a formula, in which `frequency` is "
            "that of RoPE, `theta ** (-pair / pairs)`; a list `[1.0, 0.1]`; or an input of one number for each pair. "
            "The specs `llama3` and `longrope` show longer ones.",
            "input factors: float[32]\nrotate rope(frequencies = frequency / factors[pair])",
        ),
    ),
)
