"""Patterns: named predicates."""

from __future__ import annotations

from attnspec.reference.entry import Entry, Section

SECTION = Section(
    "patterns",
    "Patterns",
    "A pattern is a named predicate with parameters. It knows `q`, `k` and the other variables of expressions, its "
    "own parameters, and the patterns of its file and of the prelude; it may not use itself.",
    (
        Entry(
            "pattern name(a, b = 1) = P",
            "Defines one, outside of attentions, in any order. A parameter is a number, a boolean, a list, or "
            "another pattern or predicate; a default may read the parameters before it. The brackets may be left "
            "out.",
            "pattern near(w, ahead = 0) = -ahead <= q - k < w\nattention a { attend near(2, ahead = 1) }",
            "query 5 sees 4 5 6",
        ),
        Entry(
            "name(arguments)",
            "A use: arguments by place, then by name. `causal` and `causal()` are the same.",
            "attend band(left = 2)\nattend causal and sinks(1)",
            "query 5 sees 0 3 4 5",
        ),
        Entry(
            "pattern name(inner) = inner at (x, y)",
            "A pattern may take a pattern, or a predicate, and apply it at other positions.",
            "pattern doubled(inner) = inner at (q // 2, k // 2)\nattention a { attend doubled(q == k) }",
            "query 5 sees 4 5",
        ),
        Entry(
            "a pattern named as one of the prelude",
            "takes its place in that file. The patterns of the prelude always mean each other.",
            "pattern causal = k < q\nattention a { attend causal }",
            "query 2 sees 0 1",
        ),
    ),
)
