"""Integers bit by bit: shifts, and ``& | ^ ~`` of integers, without operations on bits in the language.

What a program does with bits is kept bit by bit, and written as arithmetic when it is used as a number: runs of bits of
one number are ``x // 2 ** a % 2 ** w``, moved by a factor. So a Morton code is a sum of such runs, and what is masked
away was never computed.

>>> x = e.Var("q")
>>> even = combined("&", x, e.Int(0b1010101))
>>> print(plain(combined("&", combined("|", even, shifted(even, -1)), e.Int(0b110011))))
q % 2 + q // 4 % 2 * 2 + q // 16 % 2 * 16 + q // 64 % 2 * 32
>>> print(plain(shifted(x, -3)), plain(combined("&", x, e.Int(-8))), sep=", ")
q // 8, q // 8 * 8
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnspec.spec import expr as e
from attnspec.spec import make

_WIDTH = 64


class Unlike(Exception):
    """What an operation is given has no counterpart in the language."""


@dataclass(frozen=True, slots=True)
class Bit(e.Node):
    """One bit of a number; that of place 63 is its sign. A source that is a constant 0 or 1 is that bit."""

    source: e.IntExpr
    place: int

    def holds(self) -> e.Pred:
        """Whether it is 1."""
        if isinstance(self.source, e.Int):
            return e.Bool(bool(self.source.value))
        if isinstance(self.source, e.If) and _is_truth(self.source):
            return self.source.cond
        if self.place == _WIDTH - 1:
            return make.compare("<", self.source, e.Int(0))
        return make.compare("==", _bits_of(self.source, self.place, 1), e.Int(1))


@dataclass(frozen=True, slots=True)
class Mixed(e.Node):
    """A bit that two others make."""

    op: str
    left: Bit | Mixed
    right: Bit | Mixed

    def holds(self) -> e.Pred:
        """Whether it is 1."""
        a, b = self.left.holds(), self.right.holds()
        if self.op == "^":
            return make.negation(make.equivalence(a, b))
        return make.conjunction([a, b]) if self.op == "&" else make.disjunction([a, b])


@dataclass(frozen=True, slots=True)
class Packed(e.IntExpr):
    """A number by its bits, the lowest first."""

    bits: tuple[Bit | Mixed, ...]


_ZERO, _ONE = Bit(e.Int(0), 0), Bit(e.Int(1), 0)


def _is_truth(x: e.IntExpr) -> bool:
    """Whether a number is a truth value: its other bits are 0."""
    return isinstance(x, e.If) and (x.then, x.other) == (e.Int(1), e.Int(0))


def _spread(x: e.IntExpr) -> tuple[Bit | Mixed, ...]:
    match x:
        case Packed(bits):
            return bits
        case e.Int(value):
            return tuple(_ONE if value >> i & 1 else _ZERO for i in range(_WIDTH))
        case e.If() if _is_truth(x):
            return (Bit(x, 0), *[_ZERO] * (_WIDTH - 1))
    return tuple(Bit(x, i) for i in range(_WIDTH))


def shifted(x: e.IntExpr, by: int) -> e.IntExpr:
    """``x << by``, ``x >> -by``: the sign stays."""
    if not -_WIDTH < by < _WIDTH:
        raise Unlike(f"an integer of 64 bits is shifted by {abs(by)}")
    bits = _spread(x)
    if by >= 0:
        return Packed((*[_ZERO] * by, *bits[: _WIDTH - by]))
    return Packed((*bits[-by:], *[bits[-1]] * -by))


def combined(op: str, x: e.IntExpr, y: e.IntExpr) -> e.IntExpr:
    """``x & y``, ``x | y``, ``x ^ y``."""
    return Packed(tuple(_both(op, a, b) for a, b in zip(_spread(x), _spread(y), strict=True)))


def _both(op: str, a: Bit | Mixed, b: Bit | Mixed) -> Bit | Mixed:
    if a in (_ZERO, _ONE):
        a, b = b, a
    if b == _ZERO:
        return _ZERO if op == "&" else a
    if b == _ONE and op != "^":
        return a if op == "&" else _ONE
    if a == b:
        return _ZERO if op == "^" else a
    return Mixed(op, a, b)


def plain(x: e.IntExpr) -> e.IntExpr:
    """A number by its bits as arithmetic. Raises Unlike where it has no end."""
    if not isinstance(x, Packed):
        return x
    terms: list[e.IntExpr] = []
    for start, run in _runs(x.bits):
        first, ends = run[0], start + len(run) == _WIDTH
        if first == _ONE:
            term: e.IntExpr = e.Int(-(1 << start) if ends else (1 << len(run)) - 1 << start)
        elif isinstance(first, Mixed):
            if ends:
                raise Unlike(
                    "bits of two numbers of any length are combined: take as many bits as matter, as in `& 255`"
                )
            term = make.multiply(make.choose(first.holds(), e.Int(1), e.Int(0)), e.Int(1 << start))
        elif _is_truth(first.source):
            term = make.multiply(first.source, e.Int(1 << start))
        else:
            width = None if ends else len(run)
            term = make.multiply(_bits_of(first.source, first.place, width), e.Int(1 << start))
        terms.append(term)
    return make.add(terms)


def _bits_of(x: e.IntExpr, start: int, width: int | None) -> e.IntExpr:
    """The bits of a number from a place on, as a number; None for all of them."""
    moved = make.divide(x, e.Int(1 << start))
    return moved if width is None else make.modulo(moved, e.Int(1 << width))


def _runs(bits: tuple[Bit | Mixed, ...]) -> Iterator[tuple[int, list[Bit | Mixed]]]:
    """The bits that are not 0, from a place on: those of one number that follow each other together."""
    at = 0
    while at < len(bits):
        run = [bits[at]]
        while at + len(run) < len(bits) and _follows(run[-1], bits[at + len(run)]):
            run.append(bits[at + len(run)])
        if run[0] != _ZERO:
            yield at, run
        at += len(run)


def _follows(a: Bit | Mixed, b: Bit | Mixed) -> bool:
    if not (isinstance(a, Bit) and isinstance(b, Bit) and a.source == b.source):
        return False
    constant = isinstance(a.source, e.Int)
    return constant or b.place == a.place + 1 or a.place == b.place == _WIDTH - 1
