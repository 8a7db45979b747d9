"""Reals, integers and predicates as C++ statements that compute for W pairs at once.

Their types are left to C++: what does not depend on the positions of the lanes is a single value, and what it is read
from is read once. ``library/input.hpp`` and ``library/real.hpp`` have the functions.

>>> from attnspec.spec.expr import Cmp, Var
>>> mask(Cmp("<=", Var("k"), Var("q")))
['const auto t0 = truth(k <= q);', 'return truth_of(t0);']
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

from attnspec.codegen.cpp.loops import literal
from attnspec.codegen.cpp.scalars import NO_NAMES, Printer
from attnspec.codegen.expressions.arguments import is_argument
from attnspec.codegen.expressions.statements import Place, Statements, Syntax
from attnspec.spec import contents
from attnspec.spec import expr as e


def mask(pred: e.Pred, names: Mapping[str, int] = NO_NAMES) -> list[str]:
    """The statements of a function that returns where a predicate holds, as a vint.

    The positions ``q``, ``k`` (and ``q_slot``, ``k_slot``, if it has them) are of type pos or vpos, the sizes
    are ``s``.
    """
    body = Statements(cxx_syntax(names, "s"))
    result = body.predicate(pred)
    return [*body.lines, f"return truth_of({result});"]


def member(name: str) -> str:
    """The member of what a score reads that holds an argument which is one real."""
    return f"real_{name[1:]}"


def cxx_syntax(names: Mapping[str, int], sizes: str = "z") -> Syntax:
    """C++ on lanes: reals are float or vfloat, integers pos or vpos, truth bool or vint.

    ``names`` gives the place of each input that is read in the inputs of ``sizes``.
    """

    def read(function: str) -> Place:
        return lambda body, name, places: f"{function}({', '.join([f'{sizes}.inputs[{names[name]}]', *places])})"

    def lanewise(body: Statements, pred: e.Any | e.All) -> str:
        variables = sorted(contents.free(pred) & (e.POSITIONS | e.SLOTS))
        arguments = ", ".join(f"pos {name}" for name in variables)
        test = Printer(names, sizes).predicate(pred)
        return body.named(f"lanewise({', '.join([f'[&]({arguments}) {{ return {test}; }}', *variables])})")

    return Syntax(
        true="true",
        false="false",
        zero="0.f",
        assign="const auto {} = {};".format,
        float_literal=_real_literal,
        int_literal=lambda value: literal(value, "pos"),
        operand=lambda text: f"pos({text})" if text.strip("()-").isdigit() else text,
        variable=Printer(names, sizes).variable,
        cast="real({})".format,
        call="{}({})".format,
        guarded="guarded(g, {})".format,
        choose="choose({}, {}, {})".format,
        pick="pick({}, {}, {})".format,
        quotient=lambda a, by: f"quotient<{by}>({a})" if isinstance(by, int) else f"quotient({a}, {by})",
        remainder=lambda a, by: f"remainder<{by}>({a})" if isinstance(by, int) else f"remainder({a}, {by})",
        power="power<pos>({}, {})".format,
        least="lesser",
        most="greater",
        magnitude="magnitude({})".format,
        item=lambda body, entries, inside, at: body.named(f"item({_table(body, entries)}, {inside}, {at})"),
        compare="truth({1} {0} {2})".format,
        both="both({}, {})".format,
        either="either({}, {})".format,
        same="same({}, {})".format,
        negated="negated({})".format,
        in_range="in_range({}, {})".format,
        inside=lambda body, name, places: body.named(read("inside")(body, name, places)),
        read_real=lambda body, name, places: (
            f"{sizes}.{member(name)}" if is_argument(name) and not places else read("read<float>")(body, name, places)
        ),
        read_integer=read("read<pos>"),
        flag=read("flag"),
        among=read("among"),
        loop=lanewise,
    )


def _real_literal(value: float) -> str:
    """A literal of type float."""
    if math.isnan(value):
        return "(INF - INF)"
    if abs(value) > _LARGEST:
        return "INF" if value > 0 else "(-INF)"
    return f"{float(value)!r}f" if math.copysign(1.0, value) > 0 else f"({float(value)!r}f)"


_LARGEST: float = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def _table(body: Statements, entries: Sequence[int]) -> str:
    """The name of a constant array."""
    text = f"[] = {{{', '.join(literal(entry, 'pos') for entry in entries)}}}"
    if text not in body.known:
        name = f"list{sum(other.startswith('list') for other in body.known.values())}"
        body.known[text] = name
        body.lines.append(f"static constexpr pos {name}{text};")
    return body.known[text]
