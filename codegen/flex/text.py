"""Expressions of Python that are written as they are computed with: integers and truths, or tensors of them.

>>> i, n = Text("i", tensor=True), Text("n")
>>> print((i + (n - 127) // 128 - 1 <= 4) & ~(n == 3))
(i + (n - 127) // 128 - 1 <= 4) & (n != 3)
>>> print(least(2 * i, n), "|", least(n, 5), "|", where(i > 0, 3, 4))
torch.clamp(2 * i, max=n) | min(n, 5) | torch.where(i > 0, 3, 4)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

COMPARE, OR, XOR, AND, SUM, PRODUCT, SIGN, POWER, ATOM = range(9)
"""How strongly what an expression consists of holds together, as Python has it; the weakest first."""

_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


class Text:
    """An expression. ``tensor``: its value is one; otherwise it is a number or truth of Python.

    ``opposite`` is the same with the other sign, or the other truth, where that is shorter than what is made of it;
    ``terms`` are the parts of a conjunction or union, for whoever breaks lines.
    """

    __array_ufunc__ = None  # numpy's booleans leave their operators to this
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        text: str,
        strength: int = ATOM,
        *,
        tensor: bool = False,
        opposite: Any = None,
        terms: tuple[str, ...] = (),
    ) -> None:
        self.text, self.strength, self.tensor, self.opposite, self.terms = text, strength, tensor, opposite, terms

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: Any) -> Value:
        return _sum(self, other)

    def __radd__(self, other: Any) -> Value:
        return _sum(other, self)

    def __sub__(self, other: Any) -> Value:
        return _sum(self, -other)

    def __rsub__(self, other: Any) -> Value:
        return _sum(other, -self)

    def __neg__(self) -> Value:
        if self.opposite is not None and self.strength != COMPARE:
            return self.opposite
        return Text(f"-{_at(self, SIGN)}", SIGN, tensor=self.tensor, opposite=self)

    def __mul__(self, other: Any) -> Value:
        return _product(self, other)

    def __rmul__(self, other: Any) -> Value:
        return _product(other, self)

    def __truediv__(self, other: Any) -> Value:
        return _binary("/", self, other, PRODUCT)

    def __rtruediv__(self, other: Any) -> Value:
        return _binary("/", other, self, PRODUCT)

    def __floordiv__(self, other: Any) -> Value:
        return self if _is(other, 1) else _binary("//", self, other, PRODUCT)

    def __rfloordiv__(self, other: Any) -> Value:
        return _binary("//", other, self, PRODUCT)

    def __mod__(self, other: Any) -> Value:
        return 0 if _is(other, 1) else _binary("%", self, other, PRODUCT)

    def __rmod__(self, other: Any) -> Value:
        return _binary("%", other, self, PRODUCT)

    def __pow__(self, other: Any) -> Value:
        return _power(self, other)

    def __rpow__(self, other: Any) -> Value:
        return _power(other, self)

    def __abs__(self) -> Value:
        return call("torch.abs" if self.tensor else "abs", self)

    def __eq__(self, other: object) -> Any:
        return compare("==", self, other)

    def __ne__(self, other: object) -> Any:
        return compare("!=", self, other)

    def __lt__(self, other: Any) -> Value:
        return compare("<", self, other)

    def __le__(self, other: Any) -> Value:
        return compare("<=", self, other)

    def __gt__(self, other: Any) -> Value:
        return compare(">", self, other)

    def __ge__(self, other: Any) -> Value:
        return compare(">=", self, other)

    def __invert__(self) -> Value:
        if self.opposite is not None:
            return self.opposite
        if self.tensor:
            return Text(f"~{_at(self, SIGN)}", SIGN, tensor=True, opposite=self)
        return Text(f"(not {_at(self, SIGN)})", opposite=self)

    def __and__(self, other: Any) -> Value:
        return _joined("&", self, other, AND) if isinstance(other, Text) else self if other else np.False_

    def __or__(self, other: Any) -> Value:
        return _joined("|", self, other, OR) if isinstance(other, Text) else np.True_ if other else self

    def __xor__(self, other: Any) -> Value:
        return _binary("^", self, other, XOR) if isinstance(other, Text) else ~self if other else self

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__


Value = Any  # a Text, or what is known beforehand: a number, a truth of numpy's


def written(value: Any) -> Text:
    """A value as text."""
    if isinstance(value, Text):
        return value
    if isinstance(value, (bool, np.bool_)):
        return Text(str(bool(value)))
    if isinstance(value, float) and not np.isfinite(value):
        return Text(f'float("{value}")')
    return Text(repr(value), ATOM if value >= 0 else SIGN)


def is_tensor(*values: Any) -> bool:
    """Whether some value is a tensor."""
    return any(isinstance(value, Text) and value.tensor for value in values)


def call(function: str, *args: Any, tensor: bool | None = None, **named: Any) -> Text:
    """A call of a function."""
    texts = [written(arg).text for arg in args] + [f"{name}={written(arg).text}" for name, arg in named.items()]
    made = is_tensor(*args, *named.values()) if tensor is None else tensor
    return Text(f"{function}({', '.join(texts)})", tensor=made)


def where(cond: Any, then: Any, other: Any) -> Any:
    """One of two values."""
    if not isinstance(cond, Text):
        return then if cond else other
    if not cond.tensor:
        return Text(f"({written(then)} if {cond} else {written(other)})", tensor=is_tensor(then, other))
    return call("torch.where", cond, then, other)


def least(a: Any, b: Any) -> Any:
    """The smaller of two values."""
    return _extreme("min", a, b)


def most(a: Any, b: Any) -> Any:
    """The larger of two values."""
    return _extreme("max", a, b)


def compare(op: str, left: Any, right: Any) -> Value:
    """A comparison, which knows its opposite."""

    def side(symbol: str, opposite: Any) -> Text:
        text = f"{_at(left, OR)} {symbol} {_at(right, OR)}"
        return Text(text, COMPARE, tensor=is_tensor(left, right), opposite=opposite)

    found = side(op, None)
    found.opposite = side(_OPPOSITE[op], found)
    return found


def broken(value: Any, pad: str, width: int) -> str:
    """A value as what follows ``return`` or ``=``, over several lines where it is too long for one."""
    text = written(value)
    if len(text.text) <= width or len(text.terms) < 2:
        return text.text
    symbol = "&" if text.strength == AND else "|"
    lines = [f"{pad}    {symbol + ' ' if n else ''}{term}" for n, term in enumerate(text.terms)]
    return "\n".join(["(", *lines, f"{pad})"])


_EXTREME: Mapping[str, Callable[..., Any]] = {"min": min, "max": max}


def _extreme(name: str, a: Any, b: Any) -> Any:
    if not isinstance(a, Text) and not isinstance(b, Text):
        return _EXTREME[name](a, b)
    if not is_tensor(a, b):
        return call(name, a, b)
    if is_tensor(a) and is_tensor(b):
        return call(f"torch.{name}imum", a, b)
    tensor, bound = (a, b) if is_tensor(a) else (b, a)
    return call("torch.clamp", tensor, **{"max" if name == "min" else "min": bound})


def _is(value: Any, number: int) -> bool:
    return isinstance(value, int) and value == number


def _at(value: Any, strength: int) -> str:
    text = written(value)
    return f"({text.text})" if text.strength < strength else text.text


def _binary(symbol: str, left: Any, right: Any, strength: int) -> Text:
    return Text(f"{_at(left, strength)} {symbol} {_at(right, strength + 1)}", strength, tensor=is_tensor(left, right))


def _power(left: Any, right: Any) -> Text:
    return Text(f"{_at(left, ATOM)} ** {_at(right, ATOM)}", POWER, tensor=is_tensor(left, right))


def _sum(left: Any, right: Any) -> Value:
    if _is(right, 0):
        return left
    if _is(left, 0):
        return right
    if isinstance(left, Text) and left.strength == SIGN and not (isinstance(right, Text) and right.strength == SIGN):
        left, right = right, left
    if isinstance(right, Text):
        negative = right.opposite if right.strength == SIGN else None
    else:
        negative = -right if right < 0 else None
    if negative is not None:
        return Text(f"{_at(left, SUM)} - {_at(negative, PRODUCT)}", SUM, tensor=is_tensor(left, right))
    return Text(f"{_at(left, SUM)} + {_at(right, SUM)}", SUM, tensor=is_tensor(left, right))


def _product(left: Any, right: Any) -> Value:
    for one, other in ((left, right), (right, left)):
        if _is(one, 1):
            return other
        if one == -1 and not isinstance(one, Text):
            return -other
        if _is(one, 0):
            return 0
    return _binary("*", left, right, PRODUCT)


def _joined(symbol: str, left: Text, right: Text, strength: int) -> Text:
    terms = [
        term
        for side in (left, right)
        for term in (side.terms if side.strength == strength else (_at(side, strength + 1),))
    ]
    terms = list(dict.fromkeys(terms))
    if len(terms) == 1:
        return left
    return Text(f" {symbol} ".join(terms), strength, tensor=is_tensor(left, right), terms=tuple(terms))
