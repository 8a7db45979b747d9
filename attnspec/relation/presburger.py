"""Exact sets of integer pairs, on isl.

A ``Pairs`` is a set of pairs ``(x, y)`` cut out by affine inequalities, floor divisions and remainders, with integer
parameters. All operations are exact, for every value of the parameters at once.

>>> near = Pairs.read("0 <= x - y < 3 and y >= 0")
>>> print(near.tiles(2, 2))
{ [x, y] : y >= -1 + x and 0 <= y <= x }
>>> near.difference(Pairs.read("y <= x")).is_empty()
True
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import islpy as isl

from attnspec.errors.diagnostic import AttnspecError
from attnspec.relation import effort, hardness
from attnspec.relation.count import Piece
from attnspec.relation.loops import Loops
from attnspec.relation.pieces import piece
from attnspec.relation.syntax_tree import statements

SCALARS = tuple(f"i{number}" for number in range(12))
"""Integer inputs with one value for each head and batch entry, in the order in which a pattern declares them."""

PARAMETERS = ("n", "n_q", "h", "b", "heads", "kv_heads", "batch", "m", "c", "lo", "hi", *SCALARS)
"""The parameters of every set, in this order.

``m`` is the number that axis lengths are solved for, ``c`` the residue that a layout has taken out, ``lo`` and ``hi``
the first and last tile that an input leaves possible.
"""

BUDGET = 1_000_000
"""Units of work that one question may take (one to two seconds): operations of isl by their price."""


class TooHard(AttnspecError):
    """isl reached its operation limit: the pattern is too irregular for this question."""


@functools.cache
def _context() -> Any:
    return isl.Context()


class _Question:
    """What a block that is bounded may still take. isl counts operations; how dear they are changes on the way."""

    def __init__(self, units: int, price: int) -> None:
        self.most, self.left, self.price = units, units, price
        self._allow()

    @property
    def operations(self) -> int:
        """How many operations are left, one at least (isl takes none to mean no limit)."""
        return max(1, self.left // self.price)

    def _allow(self) -> None:
        context = _context()
        context.reset_operations()
        context.set_max_operations(self.operations)

    def settle(self) -> bool:
        """Take what was used off what is left; whether that was all."""
        operations = self.operations
        used = _used(operations)
        self.left = 0 if used == operations else self.left - used * min(self.price, hardness.USUAL)
        _context().set_max_operations(0)
        return used == operations

    def reprice(self, pairs: Pairs) -> None:
        """From here on operations have the price of a set, if it is a higher one: sets grow on the way.

        To look at the set is no part of the question: whether its price is known already must not matter.
        """
        self.settle()
        self.price = max(self.price, pairs.price)
        self._allow()


_asked: ContextVar[_Question | None] = ContextVar("question", default=None)


@contextmanager
def budget(*sets: Pairs, numbers: int = 0, less: Pairs | None = None, patient: bool = False) -> Iterator[None]:
    """Bound the isl operations of a block; past the limit it raises TooHard. Blocks do not nest.

    ``sets`` are those that the block works on; ``numbers`` is how large the numbers are that it will meet in any case;
    ``less`` is a set from which it will take others, so that isl works out its unknowns.
    A ``patient`` caller, who has nothing else to go by, may wait longer for sets that are slow to work with.
    """
    if effort.exhausted():
        raise TooHard("the integer set solver reached the operation limit of this stage")
    solving = 1 if less is None else hardness.solving(less._map)
    price = max(
        [solving, hardness.price(numbers), *(hardness.price(s.magnitude) if patient else s.price for s in sets)]
    )
    with effort.ALONE:
        question = _Question(min(BUDGET, effort.left()), price)
        token = _asked.set(None if patient else question)
        over = False
        try:
            yield
        except (isl.Error, TypeError):
            # A limit that is reached while isl reads a condition is told as a syntax error, one that is reached while
            # it writes a number as None instead of the number.
            over = question.settle()
            if over:
                raise TooHard("the integer set solver reached its operation limit") from None
            raise
        finally:
            _asked.reset(token)
            if not over:
                question.settle()
            effort.charge(question.most - question.left)
            _context().reset_operations()


def _used(operations: int) -> int:
    """How many operations a block took, to a sixteenth. isl does not tell: ask for one more, under other limits."""
    context = _context()

    def enough(limit: int) -> bool:
        context.set_max_operations(limit)
        with suppress(isl.Error):
            isl.Val.int_from_si(context, 1)
            return True
        return False

    low, high = 0, 64
    while high < operations and not enough(high):
        low, high = high, 2 * high
    high = min(high, operations)
    if high == operations and not enough(operations):
        return operations
    while high - low > 1 + high // 16:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return min(high, operations - 1)


@dataclass(frozen=True, eq=False)
class Pairs:
    """A set of integer pairs with parameters PARAMETERS; compare with :meth:`equals`."""

    _map: Any

    @classmethod
    def read(cls, condition: str) -> Pairs:
        """The pairs ``x, y`` for which a condition in isl's syntax holds."""
        text = f"[{', '.join(PARAMETERS)}] -> {{ [x] -> [y] : {condition} }}"
        return cls(isl.Map.read_from_str(_context(), text).coalesce())

    def union(self, other: Pairs) -> Pairs:
        """Pairs in either."""
        return Pairs(self._map.union(other._map).coalesce())

    def intersection(self, other: Pairs) -> Pairs:
        """Pairs in both."""
        return Pairs(self._map.intersect(other._map).coalesce())

    def difference(self, other: Pairs) -> Pairs:
        """Pairs of this one that are not in the other."""
        return Pairs(self._map.subtract(other._map).coalesce())

    def transpose(self) -> Pairs:
        """The pairs the other way round."""
        return Pairs(self._map.reverse())

    def then(self, other: Pairs) -> Pairs:
        """The pairs ``(x, z)`` with ``(x, y)`` here and ``(y, z)`` in the other, for some y."""
        return Pairs(self._map.apply_range(other._map).coalesce())

    def image(self, left: str, right: str) -> Pairs:
        """The pairs ``(left(x), right(y))``; both texts are affine expressions with floors in ``x``, in ``y``."""
        to_left = isl.Map.read_from_str(_context(), f"{{ [x] -> [{left}] }}")
        to_right = isl.Map.read_from_str(_context(), f"{{ [y] -> [{right}] }}")
        return Pairs(self._map.apply_domain(to_left).apply_range(to_right).coalesce())

    def tiles(self, rows: int, columns: int) -> Pairs:
        """The tiles ``(x // rows, y // columns)`` that hold at least one pair."""
        return self.image(f"floor(x / {rows})", f"floor(y / {columns})")

    def view(self, condition: str) -> Pairs:
        """The pairs ``(u, v)`` for pairs here that ``condition`` takes to them, each side for itself.

        The condition relates ``x`` to ``u``, and may read the parameter ``c``.
        """
        to = isl.Map.read_from_str(_context(), f"[c] -> {{ [x] -> [u] : {condition} }}")
        return Pairs(self._map.apply_domain(to).apply_range(to).align_params(_space()).coalesce())

    def residue(self, modulus: int) -> Pairs:
        """The pairs ``(u, v)`` with ``(modulus * u + c, modulus * v + c)`` here, for the residue ``c``, a parameter."""
        return self.view(f"x = {modulus} * u + c and 0 <= c < {modulus}")

    def stride(self) -> int:
        """A modulus by which x and y agree in all pairs: the largest that isl sees; 1 if there is none."""
        found = int(self._map.deltas().get_stride(0).to_python())
        return found if found > 1 and self.within(Pairs.read(f"(x - y) mod {found} = 0")) else 1

    def trails(self) -> list[tuple[int | None, int, int]]:
        """Of each disjunct of a set with y >= 0: the largest x - y (None if there is none), a step and a residue.

        All y of the disjunct leave this residue when divided by the step: the largest that isl sees.
        """
        found: list[tuple[int | None, int, int]] = []
        for basic in self._map.get_basic_maps():
            one = Pairs(isl.Map.from_basic_map(basic))
            if one.is_empty():
                continue
            span = one._map.deltas().dim_min_val(0)
            columns = one._map.range()
            step = max(1, int(columns.get_stride(0).to_python()))
            residue = int(columns.dim_min_val(0).to_python()) % step
            if not one.within(Pairs.read(f"(y - {residue}) mod {step} = 0")):
                step, residue = 1, 0
            found.append((-int(span.to_python()) if span.is_int() else None, step, residue))
        return found

    def with_parameter(self, name: str, value: str) -> Pairs:
        """Replace a parameter by an affine expression in ``x`` (for instance ``n`` by ``x + 1``)."""
        equal = Pairs.read(f"{name} = {value}")._map
        fixed = self._map.intersect(equal)
        index = fixed.find_dim_by_name(isl.dim_type.param, name)
        free = fixed.project_out(isl.dim_type.param, index, 1)
        return Pairs(free.align_params(_space()).coalesce())

    def fix(self, **values: int) -> Pairs:
        """The pairs for given values of parameters, which do not matter any more then."""
        result, kind = self._map, isl.dim_type.param
        for name, value in values.items():
            if self.depends_on(name):
                index = result.find_dim_by_name(kind, name)
                result = result.fix_val(kind, index, isl.Val.int_from_si(_context(), value))
                result = result.project_out(kind, index, 1)
        return Pairs(result.align_params(_space()).coalesce())

    def shift_rows(self, by: str) -> Pairs:
        """The pairs ``(x - by, y)``, ``by`` being affine in the parameters."""
        text = f"[{', '.join(PARAMETERS)}] -> {{ [x] -> [x - ({by})] }}"
        return Pairs(self._map.apply_domain(isl.Map.read_from_str(_context(), text)).coalesce())

    def without(self, name: str) -> Pairs:
        """The pairs that are there for some value of a parameter."""
        index = self._map.find_dim_by_name(isl.dim_type.param, name)
        return Pairs(self._map.project_out(isl.dim_type.param, index, 1).align_params(_space()).coalesce())

    def rename(self, names: Mapping[str, str]) -> Pairs:
        """The same pairs with parameters under other names; none of the new ones may matter yet, unless renamed too."""
        result, kind = self._map, isl.dim_type.param
        moved = [old for old, new in names.items() if old != new and self.depends_on(old)]
        for old in moved:
            result = result.set_dim_name(kind, result.find_dim_by_name(kind, old), f"{old}_")
        for old in moved:
            index = result.find_dim_by_name(kind, names[old])
            if index >= 0:
                result = result.project_out(kind, index, 1)
            result = result.set_dim_name(kind, result.find_dim_by_name(kind, f"{old}_"), names[old])
        return Pairs(result.align_params(_space()))

    def anonymous(self) -> Pairs:
        """The pairs that are there for some values of the parameters, as a set without any."""
        return Pairs(self._map.project_out(isl.dim_type.param, 0, self._map.dim(isl.dim_type.param)).coalesce())

    def is_empty(self) -> bool:
        """Whether there is no pair, whatever the parameters."""
        return bool(self._map.is_empty())

    def equals(self, other: Pairs) -> bool:
        """Whether both hold the same pairs, for all parameters."""
        return bool(self._map.is_equal(other._map))

    def within(self, other: Pairs) -> bool:
        """Whether every pair is in the other as well."""
        return bool(self._map.is_subset(other._map))

    def depends_on(self, name: str) -> bool:
        """Whether a parameter matters."""
        index = self._map.find_dim_by_name(isl.dim_type.param, name)
        return index >= 0 and bool(self._map.involves_dims(isl.dim_type.param, index, 1))

    @functools.cached_property
    def magnitude(self) -> int:
        """How large the numbers are that isl computes with."""
        return hardness.magnitude(self._map)

    @functools.cached_property
    def price(self) -> int:
        """Units of work that an operation of isl on this set may take."""
        return hardness.price(self.magnitude, hardness.is_entangled(self._map), hardness.unknowns(self._map))

    def _dear(self) -> None:
        """Before a step that solves for unknowns: in a bounded block it has the price of this set, not of the first."""
        if question := _asked.get():
            question.reprice(self)

    def sample(self) -> dict[str, int] | None:
        """The first pair with the parameters that matter: smallest n, then n_q, ...; None if there is none.

        Parameters and pairs must be bounded from below, apart from scalar inputs: of those, any values that fit.
        """
        if self.is_empty():
            return None
        kinds = isl.dim_type
        names = [*(name for name in PARAMETERS if self.depends_on(name)), "x", "y"]
        free = sum(name in SCALARS for name in names)
        whole = self._map.wrap().flatten().drop_unused_params()
        whole = whole.move_dims(kinds.set, 0, kinds.param, 0, whole.dim(kinds.param))
        if free:  # they come right before x and y: the first of all else, then some values of theirs
            whole = whole.move_dims(kinds.param, 0, kinds.set, len(names) - 2 - free, free)
            least = whole.project_out(kinds.param, 0, free).lexmin()
            whole = whole.intersect(least.align_params(whole.get_space()))
            whole = whole.move_dims(kinds.set, len(names) - 2 - free, kinds.param, 0, free)
        else:
            whole = whole.lexmin()
        point = whole.sample_point()
        return {name: point.get_coordinate_val(isl.dim_type.set, i).to_python() for i, name in enumerate(names)}

    def first(self) -> tuple[int, int] | None:
        """The first pair in row order (smallest x, then smallest y) of a set without parameters."""
        if self.is_empty():
            return None
        point = self._map.wrap().flatten().lexmin().sample_point()
        x, y = (point.get_coordinate_val(isl.dim_type.set, i).to_python() for i in range(2))
        return x, y

    def left(self) -> Pairs:
        """The pairs ``(x, 0)`` for every x that has a pair."""
        return self.image("x", "0")

    def loops(self, left: str, right: str, context: str) -> Loops:
        """Loops that visit the y (named ``right``) of one x, which becomes the parameter ``left``.

        ``context`` is a condition that is known to hold for the parameters: the loops need not test it. Raises TooHard
        where isl finds no loops.
        """
        self._dear()
        params = self._map.dim(isl.dim_type.param)
        points = self._map.move_dims(isl.dim_type.param, params, isl.dim_type.in_, 0, 1).range().compute_divs()
        points = points.set_dim_name(isl.dim_type.param, params, left)
        schedule = isl.Map.identity(points.get_space().map_from_set()).intersect_domain(points)
        known = isl.Set.read_from_str(_context(), f"[{', '.join((*PARAMETERS, left))}] -> {{ : {context} }}")
        build = isl.AstBuild.from_context(known)
        try:
            node = build.node_from_schedule_map(isl.UnionMap.from_map(schedule))
        except isl.Error as error:
            if "operations" in str(error):
                raise
            # isl's code generator gives up on some sets with many divisions; a table of tiles serves as well.
            raise TooHard("isl wrote no loops for this set") from None
        return Loops(statements(node, right))

    def pieces(self) -> tuple[Piece, ...]:
        """The set as disjoint pieces of plain integer constraints; every parameter must have been fixed."""
        if open_ := [name for name in PARAMETERS if self.depends_on(name)]:
            raise ValueError(f"parameters without a value: {', '.join(open_)}")
        plain = self.anonymous()
        plain._dear()
        disjoint = plain._map.compute_divs().make_disjoint().compute_divs()
        return tuple(piece(basic.wrap().flatten()) for basic in disjoint.get_basic_maps())

    def show(self, x: str, y: str) -> str:
        """The set in isl's notation, with names for the two coordinates."""
        flat = self._map.wrap().flatten().set_dim_name(isl.dim_type.set, 0, x).set_dim_name(isl.dim_type.set, 1, y)
        return str(flat.drop_unused_params())

    def __str__(self) -> str:
        return self.show("x", "y")


@functools.cache
def _space() -> Any:
    return isl.Map.read_from_str(_context(), f"[{', '.join(PARAMETERS)}] -> {{ [x] -> [y] }}").get_space()
