"""A formula as a spec: inputs, and a line for each part of what it says."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.language.format import format_source
from attnspec.runtime.flex.tables import Call, Tables, declared
from attnspec.spec import expr as e
from attnspec.spec import real as r


def text(name: str, mask: e.Pred | None, score: r.RealExpr | None, tables: Tables, call: Call) -> str:
    """The spec of a mask and a score, in the one style. Rows count from the start, as FlexAttention has them.

    >>> near = e.And((e.Cmp(">=", e.Var("q"), e.Var("k")), e.Cmp("<", e.Var("k"), e.Int(4))))
    >>> print(text("near", near, None, Tables({}), Call()), end="")
    attention near {
        align start
        attend q >= k
        within k < 4
    }
    """
    roots: list[e.Node] = [root for root in (mask, score) if root is not None]
    lines = [declared(table, roots, call, tables) for table in tables.read_by(roots)]
    lines += ["align start", *_mask(mask or e.Bool(True))]
    if score is not None and score != r.Score():
        lines.append(f"score {score}")
    return format_source(f"attention {name} {{\n" + "\n".join(lines) + "\n}\n")


def _mask(mask: e.Pred) -> Iterator[str]:
    """What all lines together allow: a union is several ``attend``, what else must hold is ``within``."""
    if mask == e.Bool(True):
        return
    parts = list(mask.args) if isinstance(mask, e.And) else [mask]
    union = next((part for part in parts if isinstance(part, e.Or)), parts[0])
    yield from (f"attend {part}" for part in (union.args if isinstance(union, e.Or) else (union,)))
    yield from (f"within {part}" for part in parts if part is not union)
