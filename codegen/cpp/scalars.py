"""Predicates as C++ text.

Predicates are printed without short circuits (``&`` and ``|``), so that a compiler can evaluate one for many positions
at once. Divisions round downwards, as in the language.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from attnspec.codegen.cpp.loops import SIZES, literal
from attnspec.codegen.expressions.statements import negative, nest_calls, written_out
from attnspec.spec import expr as e
from attnspec.spec.evaluate import domain_values
from attnspec.spec.unroll import cases, with_value

N = TypeVar("N", bound=e.Node)

NO_NAMES: Mapping[str, int] = MappingProxyType({})
HELPERS = """\
// Division and remainder that round downwards; the divisor is positive.
template <class I> static inline I floor_div(I a, I b) { return a / b - (a % b < 0); }
template <class I> static inline I floor_mod(I a, I b) { I r = a % b; return r + (r < 0 ? b : 0); }
template <class I> static inline I least(I a, I b) { return a < b ? a : b; }
template <class I> static inline I most(I a, I b) { return a > b ? a : b; }
template <class I> static inline I power(I a, I b) { I r = 1; while (b-- > 0) r *= a; return r; }
"""


def predicate(pred: e.Pred, names: Mapping[str, int] = NO_NAMES, wide: bool = False) -> str:
    """A C++ expression of type bool over ``q``, ``k``, ``h``, ``b`` (all of type ``pos``) and the sizes ``s``.

    ``names`` gives the place of each input that is read in ``s.inputs``. Integers have 64 bits where it is ``wide``.
    """
    return Printer(names, wide=wide).predicate(pred)


def term(node: e.IntExpr, names: Mapping[str, int] = NO_NAMES, wide: bool = False) -> str:
    """A C++ expression of type pos (int64_t: ``wide``), of an integer without choices. Reads outside give 0."""
    return Printer(names, wide=wide).term(node)


@dataclass(frozen=True)
class Printer:
    """Core expressions as C++, given the places of inputs and the name of the sizes; integers are pos, or 64 bits."""

    names: Mapping[str, int]
    sizes: str = "s"
    wide: bool = False

    @property
    def type(self) -> str:
        """The type of integers."""
        return "int64_t" if self.wide else "pos"

    def predicate(self, pred: e.Pred) -> str:
        """An expression of type bool."""
        match pred:
            case e.Bool(value):
                return "true" if value else "false"
            case e.And(args):
                return " & ".join(f"({self.predicate(a)})" for a in args) or "true"
            case e.Or(args):
                return " | ".join(f"({self.predicate(a)})" for a in args) or "false"
            case e.Not(arg):
                return f"!({self.predicate(arg)})"
            case e.Iff(left, right):
                return f"({self.predicate(left)}) == ({self.predicate(right)})"
            case e.Any(var, domain, body):
                return self._loop(var, domain, body, "|", "false")
            case e.All(var, domain, body):
                return self._loop(var, domain, body, "&", "true")
            case e.Cmp() | e.Flag() | e.Among():
                parts = [self._case(conditions, rest) for conditions, rest in cases(pred)]
                return parts[0] if len(parts) == 1 else " | ".join(f"({p})" for p in parts) or "false"
        raise TypeError(f"not a predicate: {type(pred).__name__}")

    def _case(self, conditions: tuple[e.Pred, ...], pred: e.Pred) -> str:
        """A comparison without choices, where the conditions hold and every read is inside."""
        match pred:
            case e.Cmp(op, left, right):
                test = f"{self.term(left)} {op} {self.term(right)}"
            case e.Flag():
                test = f"{self._call('entry<uint8_t>', pred.name, pred.indices)} != 0"
            case e.Among(item, name, indices):
                test = self._call("among", name, (item, *indices))
        inside = [self._call("inside", read.name, read.indices) for read in dict.fromkeys(reads(pred))]
        parts = [*(f"({self.predicate(c)})" for c in conditions), *inside]
        return " & ".join([*parts, f"({test})"]) if parts else test

    def _call(self, function: str, name: str, args: tuple[e.IntExpr, ...]) -> str:
        return f"{function}({', '.join([self.input(name), *(f'pos({self.term(a)})' for a in args)])})"

    def input(self, name: str) -> str:
        """An input."""
        return f"{self.sizes}.inputs[{self.names[name]}]"

    def _loop(self, var: str, domain: e.Domain, body: e.Pred, join: str, start: str) -> str:
        values = domain_values(domain, {})
        if written_out(var, domain, body):
            return f" {join} ".join(f"({self.predicate(with_value(body, var, v))})" for v in values) or start
        if isinstance(domain, e.Range):
            head = f"for (pos {_local(var)} = {values[0]}; {_local(var)} <= {values[-1]}; ++{_local(var)})"
        else:
            head = f"for (pos {_local(var)} : {{{', '.join(f'(pos){v}' for v in values)}}})"
        return f"[&] {{ bool found = {start}; {head} found {join}= {self.predicate(body)}; return found; }}()"

    def variable(self, name: str) -> str:
        """A variable, of type pos."""
        return f"({self.type}){self.sizes}.{name}" if name in SIZES else _local(name)

    def term(self, node: e.IntExpr) -> str:
        """An expression of type pos."""
        match node:
            case e.Int(value):
                return literal(value, self.type)
            case e.Var(name):
                return self.variable(name)
            case e.Add(terms):
                return f"({self._sum(terms)})"
            case e.Mul(e.Int(-1), right):
                return negative(self.term(right))
            case e.Mul(left, right):
                return f"({self.term(left)} * {self.term(right)})"
            case e.FloorDiv(left, e.Int(value)) if value & (value - 1) == 0:
                return f"({self.term(left)} >> {value.bit_length() - 1})"
            case e.Mod(left, e.Int(value)) if value & (value - 1) == 0:
                return f"({self.term(left)} & {literal(value - 1, self.type)})"
            case e.FloorDiv(left, right):
                return f"floor_div<{self.type}>({self.term(left)}, {self._divisor(right)})"
            case e.Mod(left, right):
                return f"floor_mod<{self.type}>({self.term(left)}, {self._divisor(right)})"
            case e.Pow(base, exponent):
                return f"power<{self.type}>({self.term(base)}, {self.term(exponent)})"
            case e.Min(args):
                return nest_calls(f"least<{self.type}>", [self.term(a) for a in args])
            case e.Max(args):
                return nest_calls(f"most<{self.type}>", [self.term(a) for a in args])
            case e.Abs(arg):
                return f"most<{self.type}>({self.term(arg)}, -{self.term(arg)})"
            case e.Sum(var, domain, body):
                parts = [self.term(with_value(body, var, v)) for v in domain_values(domain, {})]
                return f"({' + '.join(parts)})" if parts else f"({self.type})0"
            case e.Read(name, indices):
                return f"{'(int64_t)' if self.wide else ''}{self._call('entry<pos>', name, indices)}"
        raise TypeError(f"not an integer expression without choices: {type(node).__name__}")

    def _divisor(self, right: e.IntExpr) -> str:
        """A divisor: at least 1."""
        text = self.term(right)
        return text if isinstance(right, e.Int) else f"most<{self.type}>({text}, 1)"

    def _sum(self, terms: tuple[e.IntExpr, ...]) -> str:
        text = self.term(terms[0])
        for part in terms[1:]:
            match part:
                case e.Mul(e.Int(-1), right):
                    text += f" - {self.term(right)}"
                case e.Int(value) if value < 0:
                    text += f" - {literal(-value, self.type)}"
                case _:
                    text += f" + {self.term(part)}"
        return text


def reads(node: e.Node) -> Iterator[e.Read]:
    """The reads of integer inputs in a comparison without choices and sums."""
    if isinstance(node, e.Read):
        yield node
    for child in node.children():
        yield from reads(child)


def _local(name: str) -> str:
    """A name that cannot clash with a C++ keyword or one of ours."""
    return name if name in ("q", "k", "h", "b", *e.SLOTS) else f"{name}_"
