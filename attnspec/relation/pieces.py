"""isl's basic sets as pieces of plain integer rows, which are counted without isl."""

from __future__ import annotations

from typing import Any

import islpy as isl

from attnspec.relation import hardness
from attnspec.relation.count import Floor, Piece


def piece(basic: Any) -> Piece:
    """One basic set over (x, y) with its floor divisions, as integer rows ``constant, x, y, divisions...``."""
    kinds = isl.dim_type
    order = (kinds.cst, kinds.param, kinds.set, kinds.div)
    equalities, inequalities = (
        hardness.rows(basic.equalities_matrix(*order)),
        hardness.rows(basic.inequalities_matrix(*order)),
    )
    divisions = []
    for i in range(basic.dim(kinds.div)):
        aff = basic.get_div(i)
        denominator = aff.get_denominator_val().to_python()

        def scaled(value: Any, by: int = denominator) -> int:
            return int(value.mul(isl.Val.int_from_si(value.get_ctx(), by)).to_python())

        row = [scaled(aff.get_constant_val())]
        row += [scaled(aff.get_coefficient_val(kinds.in_, j)) for j in range(2)]
        row += [scaled(aff.get_coefficient_val(kinds.div, j)) for j in range(i)]
        divisions.append(Floor(tuple(row), denominator))
    opposite = tuple(tuple(-v for v in row) for row in equalities)
    return Piece(tuple(divisions), (*inequalities, *equalities, *opposite))
