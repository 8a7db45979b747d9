"""The shape of what a call gives for an input, where some sizes are whatever comes.

>>> from attnspec.spec.expr import Var
>>> top = Input("top", "int", (Var("batch"), Var("n"), ANY_SIZE))
>>> shape = shape_in(top, {"batch": 2, "n": 8})
>>> shape, fits(shape, (2, 8, 5)), fits(shape, (2, 7, 5)), written(top, shape)
((2, 8, None), True, False, '(2, 8, _)')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnspec.spec import contents, exact
from attnspec.spec import expr as e
from attnspec.spec.parts import ANY_SIZE, VECTOR_SIZES, Input

Shape = tuple[int | None, ...]
"""None is a size that is whatever comes."""


def shape_in(declared: Input, sizes: Mapping[str, int]) -> Shape:
    """The shape of an input in a call of these sizes; that of offsets ends with one more than there are documents.

    Raises :class:`attnspec.spec.exact.Unknown` or TooLarge where a size has no value.
    """
    shape = tuple(None if _comes(size, sizes) else exact.integer(size, sizes) for size in declared.sizes)
    return (*shape[:-1], None) if declared.form == "offsets" else shape


def _comes(size: e.IntExpr, sizes: Mapping[str, int]) -> bool:
    """Whether a size is whatever comes, or of vectors that are not here."""
    return size == ANY_SIZE or bool(contents.free(size) & VECTOR_SIZES - sizes.keys())


def fits(shape: Shape, actual: Sequence[int]) -> bool:
    """Whether a tensor may have this shape."""
    return len(actual) == len(shape) and all(size is None or at == size for at, size in zip(actual, shape, strict=True))


def written(declared: Input, shape: Shape) -> str:
    """A shape as messages say it."""
    if declared.form == "offsets":
        return f"({', '.join([*('_' if size is None else str(size) for size in shape[:-1]), 'documents + 1'])})"
    return str(shape).replace("None", "_")
