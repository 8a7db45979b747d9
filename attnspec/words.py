"""The words of the language that cannot name anything else (DESIGN 2.13)."""

from __future__ import annotations

VARIABLES = frozenset({"q", "k", "h", "b", "n", "n_q", "heads", "kv_heads", "batch"})
"""What a predicate may read without declaring it."""

BUILTINS = frozenset({"min", "max", "clamp", "len"})

SYNTAX = frozenset({"and", "or", "not", "any", "all", "sum", "in", "if", "then", "else", "at", "true", "false"})

RESERVED = VARIABLES | BUILTINS | SYNTAX
"""Names that parameters, `let`, patterns and bound names may not have."""

CLAUSES = frozenset({"attend", "within", "let", "align", "for"})

LATER = frozenset({"mix", "axis", "input", "order", "score", "rotate", "sink"})
"""Words that begin a clause in a later version of the language (DESIGN 2.5 to 2.9)."""

HEADINGS = frozenset({"pattern", "attention"})
