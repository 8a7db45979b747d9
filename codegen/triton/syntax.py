r"""How Triton writes what predicates and scores compute. ``triton/functions.py`` has the functions.

Operands are scalars or blocks that broadcast. Literals take the type of what they meet, so that integers stay int32 or
int64, whichever positions are. Triton has no constant arrays: an entry of a list is chosen by comparisons.

>>> from attnspec.spec.expr import Index, Var
>>> body = Statements(triton_syntax("q"))
>>> body.integer(Index((5, 5, 7), (Var("q"),)))
('t1', 't0')
>>> print(*body.lines, sep="\n")
t0 = in_range(q, 3)
t1 = tl.where(q >= 2, 7, 5).to(q.dtype)
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import replace as with_
from textwrap import indent

from attnspec.codegen.expressions.arguments import is_argument
from attnspec.codegen.expressions.statements import Place, Statements, Syntax
from attnspec.codegen.triton.parameters import argument, size
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.evaluate import domain_values
from attnspec.spec.rewrite import replace

MOST_RUNS = 1024
"""How many runs of equal entries a list may have that is indexed by positions: each costs a comparison."""


class LongList(Exception):
    """A list indexed by positions has more than MOST_RUNS runs of equal entries."""


_FUNCTIONS = {"exp": "tl.exp", "log": "tl.log", "sqrt": "tl.sqrt", "abs": "tl.abs", "tanh": "tanh", "sign": "sign"}
_LARGEST: float = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
_SMALLEST = 2.0**-126


def triton_syntax(like: str | None) -> Syntax:
    """The syntax. ``like`` names an argument of the type of positions, where there is one."""

    def pick(where: str, then: str, other: str) -> str:
        typed = like is not None and _is_literal(then) and _is_literal(other)
        return f"tl.where({where}, {then}, {other})" + (f".to({like}.dtype)" if typed else "")

    def item(body: Statements, entries: Sequence[int], inside: str, at: str) -> str:
        runs = [n for n in range(1, len(entries)) if entries[n] != entries[n - 1]]
        if len(runs) >= MOST_RUNS:
            raise LongList
        value = _int_literal(entries[0])
        for n in runs:
            value = body.named(pick(f"{at} >= {n}", _int_literal(entries[n]), value))
        return value

    return Syntax(
        true="True",
        false="False",
        zero="0.0",
        assign="{} = {}".format,
        float_literal=_float_literal,
        int_literal=_int_literal,
        operand=str,
        variable=lambda name: name.replace(".", ""),
        cast="tl.cast({}, tl.float32)".format,
        call=lambda function, x: f"{_FUNCTIONS[function]}({x})",
        guarded="guarded(g, {})".format,
        choose="tl.where({}, {}, {})".format,
        pick=pick,
        quotient=lambda a, by: f"floor_div({a}, {_positive(by)})",
        remainder=lambda a, by: f"floor_mod({a}, {_positive(by)})",
        power="power({}, {})".format,
        least="tl.minimum",
        most="tl.maximum",
        magnitude="tl.abs({})".format,
        item=item,
        compare="{1} {0} {2}".format,
        both="{} & {}".format,
        either="{} | {}".format,
        same="{} == {}".format,
        negated="{} ^ True".format,
        in_range="in_range({}, {})".format,
        inside=inside,
        read_real=_read("0.0"),
        read_integer=_read("0"),
        flag=lambda body, name, places: f"{_read('0')(body, name, places)} != 0",
        among=_among,
        loop=_loop,
    )


def wide_syntax() -> Syntax:
    """The syntax in which all integers have 64 bits."""
    plain = triton_syntax(None)

    def wide(text: str) -> str:
        return f"tl.cast({text}, tl.int64)"

    return with_(
        plain,
        variable=lambda name: wide(plain.variable(name)),
        read_integer=lambda body, name, places: wide(body.named(plain.read_integer(body, name, places))),
    )


def _is_literal(text: str) -> bool:
    return text.strip("()-").isdigit()


def _int_literal(value: int) -> str:
    return str(value) if value >= 0 else f"({value})"


def _float_literal(value: float) -> str:
    """A literal that Triton takes for float32: it takes those that are too small or too large for float64."""
    if math.isnan(value):
        return 'float("nan")'
    if abs(value) > _LARGEST:
        return 'float("inf")' if value > 0 else '(-float("inf"))'
    small = math.copysign(0.0, value) if abs(value) < _SMALLEST else float(value)
    return repr(small) if math.copysign(1.0, value) > 0 else f"({small!r})"


def _positive(by: int | str) -> str:
    return str(by) if isinstance(by, int) else f"tl.maximum({by}, 1)"


# Inputs: contiguous, so that the sizes give the place of an entry.


def inside(body: Statements, name: str, places: Sequence[str]) -> str:
    """The truth of places being inside the first dimensions of an input."""
    tests = [body.named(body.syntax.in_range(place, size(name, axis))) for axis, place in enumerate(places)]
    return body.fold(body.syntax.both, tests) if tests else body.syntax.true


def offset(body: Statements, name: str, places: Sequence[str]) -> str:
    """The row-major number of an entry of the first dimensions, of type int64."""
    at = body.named(f"tl.cast({places[0] if places else 0}, tl.int64)")
    for axis, place in enumerate(places[1:], 1):
        at = body.named(f"{at} * {size(name, axis)} + {place}")
    return at


def _read(other: str) -> Place:
    def read(body: Statements, name: str, places: Sequence[str]) -> str:
        if is_argument(name) and not places:
            return argument(name)  # a number, not a pointer
        if not places:
            return f"tl.load({argument(name)})"
        where = inside(body, name, places)
        return f"tl.load({argument(name)} + {offset(body, name, places)}, mask={where}, other={other})"

    return read


def row(body: Statements, name: str, places: Sequence[str]) -> str:
    """A pointer to the first entry of the last dimension, at indices of those before."""
    if not places:
        return argument(name)
    return body.named(f"{argument(name)} + {offset(body, name, places)} * {size(name, len(places))}")


def _among(body: Statements, name: str, operands: Sequence[str]) -> str:
    item, *places = operands
    where = inside(body, name, places)
    return f"among({row(body, name, places)}, {size(name, len(places))}, {where}, {item})"


# Loops


def _loop(body: Statements, pred: e.Any | e.All) -> str:
    """A loop over an arithmetic progression; other values are written out."""
    values = sorted(set(domain_values(pred.domain, {})))
    step = values[1] - values[0]
    joined = e.Or if isinstance(pred, e.Any) else e.And
    if values != list(range(values[0], values[-1] + 1, step)):
        parts = tuple(replace(pred.body, {e.Var(pred.var): e.Int(v)}) for v in values)
        return body.predicate(joined(parts))
    key = repr(pred)
    if key in body.known:
        return body.known[key]
    found = body.known[key] = f"t{len(body.known)}"
    each = e.Var(f"each.{found}")
    inner = with_(body, lines=[], known=dict(body.known))
    test = inner.predicate(replace(pred.body, {e.Var(pred.var): each}))
    join = body.syntax.either if joined is e.Or else body.syntax.both
    steps = "\n".join([*inner.lines, f"{found} = {join(found, test)}"])
    head = f"for {body.syntax.variable(each.name)} in range({values[0]}, {values[-1] + 1}, {step}):"
    body.lines.append(f"{found} = {_start(pred, joined)}\n{head}\n{indent(steps, '    ')}")
    body.known |= {f"{found}: {text}": name for text, name in inner.known.items() if text not in body.known}
    return found


def _start(pred: e.Any | e.All, joined: type[e.Or] | type[e.And]) -> str:
    """What a loop begins with: false (or true) in the shape of what it finds."""
    positions = sorted(contents.free(pred) & (e.POSITIONS | e.SLOTS))
    if not positions:
        return f"tl.full((), {joined is e.And}, tl.int1)"
    op, join = ("!=", " | ") if joined is e.Or else ("==", " & ")
    return join.join(f"({name} {op} {name})" for name in positions)
