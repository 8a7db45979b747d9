"""Up to which lengths a kernel's numbers are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnspec.errors.diagnostic import SpecError
from attnspec.errors.relations import too_large_for_kernels
from attnspec.spec.bounds import fits

if TYPE_CHECKING:
    from attnspec.codegen.plan.plan import Plan

NARROW_LENGTH = 1 << 28
"""Positions and lengths up to which a narrow kernel (positions in 32 bits) is right."""
WIDE_LENGTH = 1 << 40
"""The same for a wide kernel (64 bits)."""
_MULTIPLIED = 1 << 30
"""The same where a pattern multiplies positions and its numbers would not fit at WIDE_LENGTH."""


def longest(plans: Sequence[Plan]) -> int:
    """The largest length for which the numbers of kernels of these plans are right.

    Raises SpecError where a predicate overflows 64 bits at all lengths.
    """
    found = WIDE_LENGTH
    for plan in plans:
        for pass_ in plan.passes:
            length = next((n for n in (WIDE_LENGTH, _MULTIPLIED) if fits(pass_.pred, n, 64)), None)
            if length is None:
                raise SpecError([too_large_for_kernels(plan.relation.spec.span, WIDE_LENGTH.bit_length() - 1)])
            found = min(found, length)
    return found


def is_wide(plans: Sequence[Plan]) -> bool:
    """Whether kernels of these plans must compute positions, and read integer inputs, in 64 bits at any length."""
    return any(not fits(pass_.pred, NARROW_LENGTH, 32) for plan in plans for pass_ in plan.passes)
