"""A Python file with a pattern for FlexAttention: its mask, its score, and its block mask, which looks at no pair.

>>> from attnspec.check.check import check_text
>>> from attnspec.relation.lower import lower
>>> text = module(lower(check_text("attention near(width = 512) { attend 0 <= q - k < width }")))
>>> print(text[text.index("def block_mask"):text.index("def _block_mask")].rstrip())
def block_mask(n, n_q=None, *, device="cpu"):
    \"\"\"The block mask of n keys, and of as many queries if n_q does not say otherwise: the last n_q.\"\"\"
    n_q = n if n_q is None else n_q
    if not 0 < n_q <= n:
        raise ValueError(f"there must be 1 to n = {n} queries, not {n_q}")
    offset = n - n_q
    i = torch.arange(-(-n_q // 128), device=device).view(1, 1, -1, 1)
    j = torch.arange(-(-n // 128), device=device).view(1, 1, 1, -1)
    touched = (j >= i + (n - n_q + 1) // 128 - 4) & (j <= i + (n - n_q + 127) // 128)
    full = (j >= i + (n - n_q - 1) // 128 - 2) & (j <= i + (n - n_q + 1) // 128 - 1)
    mask = make_mask_mod(offset=offset)
    return _block_mask(touched, full, 1, 1, n_q, n, mask, device)
"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.flex.blocks import blocks, size
from attnspec.codegen.flex.functions import Function, mask, score
from attnspec.codegen.flex.grid import block_mask
from attnspec.codegen.flex.library import BLOCK_MASK, FUNCTIONS
from attnspec.codegen.flex.printer import argument
from attnspec.codegen.flex.refused import require_exportable
from attnspec.codegen.tiles import Tile
from attnspec.relation.relation import Relation


def module(relation: Relation, tile: Tile | None = None) -> str:
    """The text; blocks are of the size of ``tile``, by default FlexAttention's own.

    Raises SpecError (E411) for what FlexAttention has no place for.
    """
    spec = relation.spec
    require_exportable(spec)
    tile = size(relation, tile)
    masked, scored = mask(relation), score(relation)
    found = block_mask(relation, blocks(relation, tile), masked.captured, tile)
    functions = [function for function in (masked, scored) if function is not None]
    calls = found.calls.union(*(function.captured.calls for function in functions))
    cached = any(not function.captured.inputs for function in functions)
    parts = [
        *(text for name, text in FUNCTIONS.items() if name in calls),
        *("\n".join(function.lines(_SAID[function.name])) for function in functions),
        *(["score_mod = None"] if scored is None else []),
        "\n".join(found.lines),
        BLOCK_MASK,
    ]
    head = [
        "\n".join(_head(relation, functions, found.parameters, tile)),
        "\n".join(["import functools\n"] * cached + ["import torch", _BLOCK_MASK]),
        f"BLOCK_SIZE = {(tile.rows, tile.columns)}\nSCALE = {spec.scale!r}",
    ]
    return "\n\n\n".join(["\n\n".join(head), *(part.rstrip("\n") for part in parts)]) + "\n"


_BLOCK_MASK = "from torch.nn.attention.flex_attention import BlockMask"
_SAID = {
    "mask_mod": "Which keys a query attends to: FlexAttention's mask_mod.",
    "score_mod": "What becomes of a score: FlexAttention's score_mod.",
}


def _head(relation: Relation, functions: list[Function], parameters: str, tile: Tile) -> Iterator[str]:
    spec = relation.spec
    yield f'"""The pattern `{spec.name}` for PyTorch\'s FlexAttention, printed by attnspec.'
    yield ""
    yield from (line.replace("\\", "\\\\").replace('"""', "'''") for line in str(spec).splitlines())
    yield ""
    needed = ", ".join(f"{p}={p}" for p in parameters.split(", ") if "=" not in p and p not in ("n", "m", "*"))
    first = "m" if spec.axes else "n"
    call = f"block_mask({', '.join(filter(None, [first, needed]))})"
    named = {function.name: function for function in functions}
    score = "None"
    if "score_mod" in named:
        captured = named["score_mod"].captured
        score = "score_mod" if captured.free else f"make_score_mod({captured.needed})"
    yield f"    mask = {call}  # blocks of {tile} (queries x keys), in closed form: no pair is looked at"
    yield f"    out = flex_attention(q, k, v, score_mod={score}, block_mask=mask, scale=SCALE)"
    yield ""
    if spec.axes:
        axes = ", ".join(f"{axis.name}[{axis.size}]" for axis in spec.axes)
        yield f"`m` is what `n` means beside axes: {axes}. Queries and keys are as many as these add up to."
    elif spec.align == "end":
        yield "With fewer queries than keys the last query stands at the last key: rows are those of positions from"
        yield "n - n_q on, which is `offset` in what makes functions."
    else:
        yield "Query row 0 stands at key 0, however many queries there are."
    for item in spec.inputs:
        yield f"`{argument(item.name)}` is `{item}`."
    if relation.heads is not None and relation.known:
        yield f"It holds for {relation.heads} heads."
    yield '"""'
