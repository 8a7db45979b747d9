"""Lines about weights beyond softmax, and the functions that map vectors."""

from __future__ import annotations

from attnspec.reference.entry import Entry, Section

SECTION = Section(
    "weights",
    "Weights beyond softmax",
    "A pair weighs `exp(score)`, and a row is divided by the sum of its weights. A `linear` line says that it weighs "
    "`scale * phi(q) . phi(k)` instead, with a scale of 1 where none is given, and that nothing is divided; the "
    "pattern of pairs stays what it is. The other lines divide, let weights decay with the distance, correct values. "
    '`target="dense"` computes all of them, in float64; C++ kernels serve many, and an error says which they do not.',
    (
        Entry(
            "linear x",
            "What queries and keys are mapped to, entry by entry: `x` is the vector, after `normalize` and `rotate`, "
            "`c` the number of an entry; inputs are read by head and entry (`x * w[h, c]`, `input w: float[heads, "
            "dim]`). A constant needs no vectors: with `linear 1` every pair weighs one, and `attend(v=v)` adds up "
            "values over the pattern.",
            "attend causal\nlinear elu(x) + 1\ndivide total",
            "the weights of query 5 sum to 1.0",
        ),
        Entry(
            "linear q: x, linear k: x",
            "Each side its own map. Both give as many features, or one that is a constant.",
            "attend causal   linear q: softmax(x)\nlinear k: exp(x)   divide each total",
            "the weights of query 5 sum to 1.0",
        ),
        Entry(
            "linear [a, b]",
            "The features of one map behind those of another.",
            "linear [softmax(x), softmax(-x)]\ndivide total",
        ),
        Entry(
            "softmax(x), unit(x)",
            "Of the whole vector: softmax over its entries, and the vector scaled to unit length. They stand in "
            "`linear` lines, not inside an `if`.",
            "linear q: softmax(x)\nlinear k: unit(x)",
        ),
        Entry(
            "favor(x, features = 256)",
            "Random features of the exponential of dot products (Performer); the options are with those of rotations. "
            "It stands alone, or with `stable = none` in a list. `projection=` in the call, (features, dim), takes the "
            "place of the directions that are drawn from the seed. With `stable = all`, as published, and `eps` above "
            "0 the largest key of the future has a part in the past: models that are trained causally want "
            "`stable = running`.",
            "attend causal\nlinear favor(x, features = 64, stable = running)\ndivide total",
            "the weights of query 5 sum to 1.0",
        ),
        Entry(
            "favor(x, stable = all)",
            "How exponentials are kept small: `all` keys have one largest entry, as published; it is a word of the "
            "language elsewhere.",
            "linear favor(x, features = 64, stable = all, eps = 0)\ndivide total",
        ),
        Entry(
            "divide x: total, mass",
            "What the sum of weighted values is divided by: `total` is the sum of the row's weights, `mass` that of "
            "its query's features; it may read `h`, `b` and inputs. A row that sees nothing, or whose divisor is 0, "
            "gives zeros. Of `divide total` a call can return the log-sum-exp, where features are not negative.",
            "linear 1\ndivide total + mass",
            "the weights of query 5 sum to 0.8888888888888888",
        ),
        Entry(
            "divide each x",
            "Each feature has its own `total`, the sum of that feature over the keys of the row, and its part of the "
            "output is divided by its own divisor (Latte). Where features of keys are `exp(...)` or `favor` their "
            "logarithms are what is computed with: keys may be of any size.",
            "attend causal\nlinear q: softmax(x)   linear k: exp(x)   divide each total",
            "the weights of query 5 sum to 1.0",
        ),
        Entry(
            "guarded(x, e)",
            "`x`, with `2 * e` added where `|x| <= e`: a divisor that is never near 0.",
            "linear x\ndivide guarded(total, 1e-6)",
        ),
        Entry(
            "decay x",
            "The logarithm of a factor for each step, at most 0: a weight is multiplied by `exp` of the sum over the "
            "positions `t` after the earlier of query and key up to the later one. It may read `h`, `b`, inputs, and "
            "beside `linear` the number of a feature, `c`. Beside softmax the sum is added to the score; kernels do "
            "so for keys that are not after their query. Several lines add up. A step below -1000, "
            "minus infinity too, counts as -1000.",
            "attend causal\nlinear 1\ndecay log(0.5)",
            "the weights of query 2 sum to 1.75",
        ),
        Entry(
            "decay gate[b, h, t]",
            "Gates that come with the call (Forgetting Transformer; with `linear x` Mamba-2).",
            "input gate: float[batch, heads, n]\nattend causal   decay gate[b, h, t]",
        ),
        Entry(
            "branch { linear x }",
            "A branch of a mixture may have these lines of its own, on top of those that hold for all. Branches are "
            "mixed by their denominators where each is softmax, or has features that are not negative and is divided "
            "by its total (LoLCATs); or each has its `share` (Infini-attention).",
            "mix { branch { attend window(2) }\n      branch { attend k <= q - 2  linear elu(x) + 1  divide total } }",
            "the weights of query 5 sum to 1.0",
        ),
        Entry(
            "delta x",
            "Each value first loses what its key recalls over the pattern, without itself, of the corrected values "
            "before it, and counts `x` times; `x` may read the key's position `k`, `h`, `b` and inputs. Keys must lie "
            "in the past, and best are of length one (`normalize k`): longer ones let values grow. The recall is "
            "divided as the output is; `scale` does not enter it. C++ kernels serve any such pattern, but not beside "
            "`divide each`, a decay by channel or an order.",
            "attend causal\nlinear 1\ndelta 0.5",
            "the weights of query 1 sum to 0.75",
        ),
    ),
)
