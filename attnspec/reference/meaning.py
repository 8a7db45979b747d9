"""What a spec means as a whole: files, defaults, alignment, empty rows, numbers."""

from __future__ import annotations

from attnspec.reference.entry import Entry, Section

SECTION = Section(
    "meaning",
    "What a spec means",
    "A spec says which query may attend to which key. `q` and `k` are positions, counted from 0. A pair is seen or "
    "not; what is seen takes part in the softmax of its row.",
    (
        Entry(
            "attention name(parameter = default) { ... }",
            "One pattern. `attnspec.compile('mine.attn')` compiles the one of a file, `'mine.attn:name'` one of "
            "several; so does `attnspec inspect mine.attn`. A parameter is a number, a boolean or a (nested) "
            "list; without a default it must be given. The parameter list may be left out. Newlines and indentation "
            "mean nothing.",
            "attention near(width = 3, ahead = false) { attend 0 <= q - k < width\n"
            "    attend ahead and q < k < q + width }",
            "query 5 sees 3 4 5",
        ),
        Entry(
            "no attend line",
            "Without any `attend` line every pair is seen, inside the `within` lines. The same holds inside a group "
            "of heads and inside a branch of a mixture.",
            "attention everything { }",
            "query 5 sees 0 1 2 3 4 5 6 7",
        ),
        Entry(
            "empty rows",
            "A row that sees no key is no error: its output is zeros and its log-sum-exp minus infinity, and no "
            "gradient flows through it. `attnspec inspect` says which rows those are.",
            "attend k <= q\nwithin k >= 3",
            "query 2 sees nothing",
        ),
        Entry(
            "alignment",
            "With fewer queries than keys the last query stands at the last key, as decoding wants: row i has the "
            "position `i + n - n_q`. `q` is that position, not the row, and may be negative where there are more "
            "queries than keys. `align start` makes row i stand at position i.",
            "attend k <= q",
            "row 0 sees 0 1 2 3 4 5 (n = 8, n_q = 3)",
        ),
        Entry(
            "a..b",
            "The integers from `a` up to but not including `b`: `0..4` is 0, 1, 2, 3, as `range` in Python. It is "
            "empty where `b <= a`. It stands after `in`, in `for h in`, `any`, `all`, `sum`, `mix`, `branch for` "
            "and membership.",
            "attend q - k in 0..3",
            "query 5 sees 3 4 5",
        ),
        Entry(
            "// and %",
            "Both round downwards, as in Python: `-1 // 4` is -1 and `-1 % 4` is 3. The right side must be positive "
            "and known once the parameters and the head are: a divisor that depends on a position or a length is an "
            "error (E024).",
            "attend q // 3 == k // 3\nattend (k - q) % 4 == 3",
            "query 5 sees 0 3 4 5",
        ),
        Entry(
            "reads outside",
            "A comparison that reads outside a list or an input is false, whichever comparison it is; a score reads "
            "0 there. An index that is known to be outside (a constant, or one that is outside for every position) "
            "is an error.",
            "attend [5, 6][k] == q",
            "query 5 sees 0",
        ),
        Entry(
            '# and "..."',
            "A comment goes from `#` to the end of the line. A string documents what it stands before (a `pattern`, "
            "an `attention`), or the body whose first line it is. Three quotes may hold several lines.",
            '"""The query itself."""\nattention self { attend q == k }  # nothing else',
            "query 5 sees 5",
        ),
        Entry(
            "1_000, 0.5, 1e-3",
            "Integers may be grouped with `_`. Reals have digits on both sides of their point, or an exponent; they "
            "are for `score`, `sink`, `scale` and options, not for positions.",
            "attend q < 1_000\nscore s * 0.5 + 1e-3",
            "s = 2.0 becomes 1.001 at query 5, key 3",
        ),
        Entry(
            "name=value on the command line",
            "What the command line takes for a parameter or an input is an expression of the language too: "
            "`width=2*512`, `rates=[1,2,4]`, `contiguous=true`.",
            "attention a(width = 2 * 2, rates = [1, 2]) {\n    attend q - k in 0..width and (q - k) % rates[1] == 0 }",
            "query 5 sees 3 5",
        ),
    ),
)
