"""Expressions: integers, predicates, lists."""

from __future__ import annotations

from attnspec.errors.values import MAX_RANGE
from attnspec.reference.entry import Entry, Section

SECTION = Section(
    "expressions",
    "Expressions",
    "An expression is an integer, a predicate, a list, or (in scores) a real. From weakest to strongest: `if`; "
    "`or`; `and`; `not`, `any`, `all`; comparisons and `in`; `+ -`; `* / // %`; unary `-`, `sum`; `**`; calls, "
    "indices, `.slot`, `at`. As in Python, except that bodies of `any`, `all` and `sum` reach as far right as they "
    "can.",
    (
        Entry(
            "q, k, h, b",
            "The position of the query and of the key, the query head, the batch entry. `h` counts as a constant: "
            "it may be a factor, a divisor or an index, and the pattern is compiled for each class of heads that "
            "agree.",
            "attend 0 <= q - k <= h",
            "query 5 sees 4 5 (h = 1, heads = 2)",
        ),
        Entry(
            "n, n_q, heads, kv_heads, batch",
            "The number of keys, of query rows, of query heads, of key heads and of batch entries. `n` may stand in "
            "comparisons, not in divisors.",
            "attend k >= n - 2 and q - k < n_q\nattend k * heads == b",
            "query 5 sees 0 6 7",
        ),
        Entry(
            "+ - * // %",
            "Integers, exact, within 2 ** 62. A product of positions is allowed (`q * k`), but tiles are proved "
            "only from sums of positions with constant factors, floor divisions and remainders.",
            "attend (q + 2 * k) % 4 == 1",
            "query 5 sees 0 2 4 6",
        ),
        Entry(
            "a ** b",
            "A power of integers, both known at compile time; binds tighter than a sign before it. (Reals have "
            "powers too: see scores.)",
            "attend q - k == 2 ** 2\nattend k == -(-1) ** 3",
            "query 5 sees 1",
        ),
        Entry(
            "-x",
            "The negative of a number.",
            "attend -2 <= q - k < 0",
            "query 5 sees 6 7",
        ),
        Entry(
            "|x|, abs(x)",
            "The absolute value. Bars directly inside bars need brackets: `|(|x|) - 1|`.",
            "attend |q - k| == 2\nattend abs(q - k) == 0",
            "query 5 sees 3 5 7",
        ),
        Entry(
            "min(a, b, ...), max(a, b, ...), clamp(x, low, high)",
            "The least, the greatest, and `x` moved into `low` to `high` (both included).",
            "attend |clamp(q, 2, 5) - k| <= 1\nattend k == min(q, 0) or k == max(q, 7)",
            "query 7 sees 0 4 5 6 7",
        ),
        Entry(
            "== != < <= > >=",
            "Comparisons; chains mean what they mean in mathematics. `==` and `!=` also compare predicates.",
            "attend q - 3 < k <= q != 4 and k >= 2 and k > 0\nwithin (k < 4) == (q < 6)",
            "query 5 sees 3",
        ),
        Entry(
            "and, or, not",
            "Of predicates. There are no `&`, `|`, `!`.",
            "attend q == k or k < 4 and not k % 2 == 0",
            "query 5 sees 1 3 5",
        ),
        Entry(
            "true, false",
            "The predicates that always and never hold; the values of boolean parameters.",
            "attention a(both = false) {\n    attend k <= q or both != false   attend both == true }",
            "query 1 sees 0 1",
        ),
        Entry(
            "if c then a else b",
            "Both sides are integers, or predicates, or (in scores) reals. It binds loosest: bracket it inside a "
            "larger expression.",
            "attend k == (if q < 4 then q else q - 4)",
            "query 5 sees 1",
        ),
        Entry(
            "(x)",
            "Brackets.",
            "attend (q - k) * 2 == 4",
            "query 5 sees 3",
        ),
        Entry(
            "[a, b, c], (a, b), xs[i]",
            "A list of numbers, or of lists of one kind (of reals: all of one length); an entry, counted from 0. A "
            "tuple is a list too. The index may be any expression: of `h`, it must be inside for every head; of a "
            "position, the comparison is false where it is outside.",
            "let offsets = [(0, 1), (2, 3)]\nattend q - k == offsets[1][h] or q - k == [0, 5][h]",
            "query 5 sees 0 2 (h = 1, heads = 2)",
        ),
        Entry(
            "len(list)",
            "The number of entries.",
            "attend k < len([7, 7, 7])",
            "query 5 sees 0 1 2",
        ),
        Entry(
            "x in a..b, x in list, x not in ...",
            "Membership. An input of integers may stand there too: see inputs.",
            "attend q - k in 0..3 and k not in [4]",
            "query 5 sees 3 5",
        ),
        Entry(
            "any i in a..b: P, all i in list: P",
            "Whether `P` holds for some, or for all, values of a range or list that is known at compile time. "
            f"Bracket it where more follows. At most {MAX_RANGE:,} values.",
            "attend any i in 0..3: q - k == 2 ** i\nwithin all x in [4, 6]: k != x",
            "query 5 sees 1 3",
        ),
        Entry(
            "sum j in a..b: x",
            "The sum over a range or list that is known at compile time.",
            "attend k == sum j in 0..4: j",
            "query 5 sees 6",
        ),
        Entry(
            "P at (x, y)",
            "The predicate at other positions: `x` in place of `q`, `y` in place of `k`. It applies to what stands "
            "directly before it (bracket the predicate). Positions outside 0..n are plain arithmetic there.",
            "attend causal at (q // 2, k // 2)\nwithin (q - k < 4) at (q + 1, k)",
            "query 5 sees 3 4 5",
        ),
        Entry(
            "q.slot, k.slot, q.bucket, k.bucket",
            "Places in a computed order and their buckets; only beside `order by`.",
            "order by lsh(buckets = 2, rounds = 1)\nattend q.bucket == k.bucket",
            "query 3 counts 0 1 0 1 0 1 0 1 (buckets = [[[[0, 1, 0, 1, 0, 1, 0, 1]]]])",
        ),
    ),
)
