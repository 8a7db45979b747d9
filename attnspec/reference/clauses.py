"""The clauses of an attention, but for inputs and scores."""

from __future__ import annotations

from attnspec.errors.clauses import MAX_BRANCHES
from attnspec.reference.entry import Entry, Section

SECTION = Section(
    "clauses",
    "Clauses",
    "A clause begins with its word and ends where the next one begins. The words of clauses are words only there: a "
    "parameter may be called `scale` or `order`. `P` stands for a predicate, `x` for an integer.",
    (
        Entry(
            "attend P",
            "The pairs for which `P` holds are seen. Several lines are a union: a pair is seen if one of them "
            "allows it, and counts once. `attnspec inspect` shows what each line costs.",
            "attend |q - k| <= 1\nattend k < 2",
            "query 5 sees 0 1 4 5 6",
        ),
        Entry(
            "within P",
            "Restricts all `attend` lines: a pair is seen if one of them allows it and every `within` line does. "
            "Inside a group of heads it restricts that group, inside a branch that branch.",
            "attend |q - k| <= 1\nwithin k <= q",
            "query 5 sees 4 5",
        ),
        Entry(
            "let name = x",
            "Names an integer, a predicate or a list for the lines below. It reads `q` and `k` where it is used: "
            "inside `P at (...)` they are the positions given there.",
            "let block = q // 4\nattend k // 4 == block",
            "query 5 sees 4 5 6 7",
        ),
        Entry(
            "let name(i) = x",
            "A function, mostly of a position: used as `name(q)` and `name(k)`. It may have several parameters, "
            "without defaults, and use the functions above it.",
            "let block(i) = i // 4\nattend block(q) == block(k)",
            "query 5 sees 4 5 6 7",
        ),
        Entry(
            "align start",
            "Query row i stands at position i, as in cross-attention; `align end` is the default (see alignment). "
            "Beside axes rows always count from the start.",
            "align start\nattend k <= q",
            "row 1 sees 0 1 (n = 8, n_q = 3)",
        ),
        Entry(
            "for h in 0..4 { ... }",
            "Clauses for some heads only. A head in several groups gets their union, a head in none what stands "
            "outside groups. Heads are query heads; groups do not nest.",
            "for h in 0..1 { attend k == q }\nfor h in [1, 3] { attend k < 2 }",
            "query 5 sees 0 1 (h = 1, heads = 4)",
        ),
        Entry(
            "mix (w, r) in [(2, 1), (4, 2)] { ... }",
            "One softmax for each entry of a list or range, combined by their denominators: as a union, except that "
            "a pair which stands in two branches counts twice. LongNet's dilated attention is one. `within` and "
            f"`let` outside hold in every branch. At most {MAX_BRANCHES} branches; a body has either `attend` lines or "
            "one mixture.",
            "mix w in [1, 3] { attend 0 <= q - k < w }",
            "query 5 counts 0 0 0 1 1 2 0 0",
        ),
        Entry(
            "mix ... weights detached { ... }",
            "`weights detached` behind the list, or behind `mix` where branches are written out: no gradient flows "
            "through the weights by which branches are mixed (LongNet's published code does so, its paper does not).",
            "mix (w, r) in [(2, 1), (8, 2)] weights detached {\n    attend 0 <= q - k < w and (q - k) % r == 0 }",
            "query 5 counts 0 1 0 1 1 2 0 0",
        ),
        Entry(
            "mix { branch { ... } branch times 2 { ... } }",
            "Branches that are not alike. `times x` counts a branch as often as it says. Beside branches a mixture "
            "holds `let` and `within`.",
            "mix { branch { attend k == q }\n      branch times 2 { attend k < 2 } }",
            "query 5 counts 2 2 0 0 0 1 0 0",
        ),
        Entry(
            "branch { attend P   score x   rotate rope()   scale x   normalize k }",
            "Lines about vectors and scores that hold for one branch. They come on top of those outside the mixture: "
            "`s` is the score that these give, rotations turn other dimensions, a scale stands in one place (a call"
            "'s `scale=` is that of all). Each branch is then a call of its own, and costs what a call does.",
            "score s + 1\nmix { branch { attend k == q   score s / 2 }\n"
            "      branch { attend k < 2   rotate rope() } }",
            "query 5 counts 1 1 0 0 0 1 0 0",
        ),
        Entry(
            "mix { branch share x { ... } branch share y { ... } }",
            "A mixture by given weights: the sum of the outputs of its branches times their shares, which need not add "
            "up to one. A share is a real, of what a sink may read (the head, the batch entry, the row, float inputs, "
            "which are trained); all branches have one, or none has. There is no log-sum-exp, and a sink is one "
            "of each branch.",
            "input gate: float[heads]\nmix { branch share 1.0 - gate[h] { attend causal }\n"
            "      branch share gate[h] { attend k < 2 } }",
        ),
        Entry(
            "branch for (x, y) in list { ... }",
            "Several branches written as one, beside others; `times` may read the names: `branch for i in 0..3 "
            "times i + 1 { ... }`.",
            "mix { branch for i in 0..2 { attend k == i }\n      branch { attend k == q } }",
            "query 5 counts 1 1 0 0 0 1 0 0",
        ),
        Entry(
            "axis name[size], axis name[size] keys, axis name[size] queries",
            "Several axes of positions, concatenated in the tensors in the order of their declaration; "
            "`attend.axes(n)` gives their slices. A size is a number, or grows with `n`, which is then the number "
            "for which the axes add up to the tensors. `keys` or `queries` behind it: the axis is only that.",
            "axis latent[2] queries   axis token[n] keys\nlatent -> token: k % 2 == q",
            "row 1 sees 1 3 5 7 (n = 8, n_q = 2)",
        ),
        Entry(
            "source -> target: P",
            "What queries of one axis see of the keys of another; both count from 0 within their own axis. Several "
            "lines for two axes are a union; two axes without a line see nothing of each other. Beside axes there "
            "is no `attend` and no `within`.",
            "axis token[n]   axis memory[2]   token -> token: k <= q\ntoken -> memory: true   memory -> token: true",
            "row 1 sees 0 1 6 7",
        ),
        Entry(
            "order by lsh(buckets = 64, rounds = 1, seed = 0)",
            "Sorts the positions by a hash of their vectors, for each head, in each of `rounds` rounds (Reformer). "
            "`q.slot` and `k.slot` are places in that order, `q.bucket` and `k.bucket` the hashes. `buckets` is "
            "even, or a list of even numbers whose product counts. `buckets=` in the call, (batch, heads, rounds, "
            "n), takes the place of hashing. A pair that stands in several rounds counts in each.",
            "order by lsh(buckets = 4)\nattend q.slot // 2 == k.slot // 2 and k <= q",
            "query 3 counts 0 0 1 1 0 0 0 0 (buckets = [[[[0, 0, 0, 0, 1, 1, 1, 1]]]])",
        ),
        Entry(
            "include name(x = 4)",
            "The clauses of another attention, as if they were written here: one of the same file, or a shipped one "
            "(`attnspec list`). Its parameters get values that are known, by place or by name, or keep their defaults; "
            "its `let` names and parameters stay its own, its inputs and axes are those of the call and can be read "
            "by the lines below. So `attend` lines add up, `within` lines all hold, scores apply in order; what may "
            "stand once (a sink, a scale, an order, a mixture, an alignment) may not come twice. It stands in a "
            "body, in a group of heads (for those heads) and in a branch of a mixture, wherever its clauses may. No "
            "text reads a file: a path cannot be included.",
            "include window(width = 2)\ninclude padded",
            "query 5 sees 4 (length = [5])",
        ),
    ),
)
