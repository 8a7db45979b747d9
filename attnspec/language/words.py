"""The words of the language that cannot name anything else."""

from __future__ import annotations

VARIABLES = frozenset({"q", "k", "h", "b", "n", "n_q", "heads", "kv_heads", "batch"})
"""What a predicate may read without declaring it."""

BUILTINS = frozenset({"min", "max", "clamp", "len"})
"""Functions whose names nothing else may have."""

LIBRARY = frozenset(
    {"first", "last", "tanh", "exp", "log", "sqrt", "abs", "relu", "elu", "sigmoid", "softplus", "guarded"}
    | {"softcap", "alibi_slope", "t5_bucket", "softmax", "unit", "favor"}
)
"""Functions that a spec may call, unless it gives their names to things of its own."""

SYNTAX = frozenset({"and", "or", "not", "any", "all", "sum", "in", "if", "then", "else", "at", "true", "false"})

RESERVED = VARIABLES | BUILTINS | SYNTAX
"""Names that parameters, `let`, patterns and bound names may not have."""

CLAUSES = frozenset(
    {"attend", "within", "let", "align", "for", "mix", "branch", "axis", "input"}
    | {"order", "score", "rotate", "sink", "scale", "normalize", "include"}
    | {"linear", "divide", "decay", "delta", "recur", "carry", "recall", "horizon"}
)
"""Words that begin a clause, and only there mean anything."""

PARTICLES = frozenset(
    {"by", "detached", "int", "bool", "float", "keys", "offsets", "queries", "random", "share", "sorted", "times"}
    | {"each", "weights", "ragged", "layer", "from"}
)
"""Words inside clauses: names elsewhere."""

HEADINGS = frozenset({"pattern", "attention"})
