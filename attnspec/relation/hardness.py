"""How hard a set is for the solver: what one of its operations on it may take, in units of work.

isl counts operations (allocations, by and large), and what passes between two of them depends on the set: with large
numbers, with divisions that mix x and y unevenly and with numbers that are only said to exist it is up to a hundred
times as much. A price makes them comparable, and does not depend on the machine.
"""

from __future__ import annotations

from contextlib import suppress
from math import lcm
from typing import Any

import islpy as isl

_PRICES = ((1 << 12, 1), (1 << 16, 8), (1 << 20, 20))
"""Units that an operation may take where numbers are up to so large."""
_MOST = 50
"""Units that an operation takes at most, for all that was seen."""
USUAL = 2
"""Units that an operation takes at most where a question could be answered; those that could not are the dear ones."""
_ENTANGLED = 16
"""So many times as much where a division mixes x and y unevenly, ``(7 * x + y) // 5``, or more than a few numbers
are only said to exist. isl looks for short vectors of a lattice there, or solves for the smallest of many unknowns."""
_FEW_UNKNOWNS = 3
_MANY_UNKNOWNS, _OF_MANY = 8, 400
"""From so many on an operation takes so many units: with ten unknowns it took 260."""
_OF_LENGTHS = 60
"""Units of one that solves for a few unknowns which depend on n and on n_q, for all lengths at once: it took 70."""
_LENGTHS = ("n", "n_q")


def price(numbers: int, entangled: bool = False, unknowns: int = 0) -> int:
    """Units of work that an operation on a set may take, by what the functions below say of it.

    >>> price(100), price(100, entangled=True), price(1 << 40), price(1 << 40, unknowns=10)
    (1, 16, 50, 400)
    """
    if unknowns >= _MANY_UNKNOWNS:
        return _OF_MANY
    each = next((units for largest, units in _PRICES if numbers <= largest), _MOST)
    return min(_MOST, each * _ENTANGLED if entangled or unknowns > _FEW_UNKNOWNS else each)


def solving(pairs: Any) -> int:
    """Units of work that an operation may take where the unknowns of a set are to be worked out, for all lengths."""
    return _OF_LENGTHS if unknowns(pairs, of_lengths=True) >= _FEW_UNKNOWNS else 1


def magnitude(pairs: Any) -> int:
    """How large the numbers are that isl computes with: factors, and the common multiple of all divisors.

    Of all, because the complement of a union joins the divisors of its parts.
    """
    kinds, largest, common = isl.dim_type, 1, 1
    for basic in pairs.get_basic_maps():
        flat = basic.wrap().flatten().drop_unused_params()
        fixed, divisors = flat.dim(kinds.param) + flat.dim(kinds.set), flat.dim(kinds.div)
        order = (kinds.param, kinds.set, kinds.div, kinds.cst)
        for matrix in (flat.inequalities_matrix(*order), flat.equalities_matrix(*order)):
            for row in rows(matrix):
                largest = max(largest, *map(abs, row[:fixed]))
                common = lcm(common, *(abs(v) for v in row[fixed:-1] if v))
        for i in range(divisors):
            with suppress(isl.Error):  # an existential variable without a definition has no denominator
                common = lcm(common, flat.get_div(i).get_denominator_val().to_python())
    return int(max(largest, common))


def is_entangled(pairs: Any) -> bool:
    """Whether a division mixes x and y with unlike factors."""
    kinds = isl.dim_type
    for aff in (aff for basic in pairs.get_basic_maps() for aff in _divisions(basic) if aff is not None):
        x, y = (aff.get_coefficient_val(kinds.in_, j).abs() for j in range(2))
        if not (x.is_zero() or y.is_zero() or x.eq(y)):
            return True
    return False


def unknowns(pairs: Any, of_lengths: bool = False) -> int:
    """How many numbers are only said to exist, at most, in one of the convex parts (or of those with both lengths)."""
    parts = [basic for basic in pairs.get_basic_maps() if not of_lengths or _has_lengths(basic)]
    return max((sum(aff is None for aff in divisions) for divisions in map(_divisions, parts)), default=0)


def _has_lengths(basic: Any) -> bool:
    kind = isl.dim_type.param
    places = (basic.find_dim_by_name(kind, name) for name in _LENGTHS)
    return all(at >= 0 and basic.involves_dims(kind, at, 1) for at in places)


def _divisions(basic: Any) -> list[Any]:
    """The divisions of a convex part; None for what is only said to exist."""
    flat, found = basic.wrap().flatten(), []
    for i in range(flat.dim(isl.dim_type.div)):
        try:
            found.append(flat.get_div(i))
        except isl.Error:
            found.append(None)
    return found


def rows(matrix: Any) -> tuple[tuple[int, ...], ...]:
    """The numbers of a matrix of isl."""
    return tuple(
        tuple(matrix.get_element_val(r, c).to_python() for c in range(matrix.cols())) for r in range(matrix.rows())
    )
