"""Predicates and loops as C++ text.

Predicates are printed without short circuits (``&`` and ``|``), so that a compiler can evaluate one for many positions
at once. Divisions round downwards, as in the language.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec import expr as e
from attnspec import loops as nest
from attnspec.bind import bind
from attnspec.evaluate import domain_values
from attnspec.rewrite import cases

_UNROLL = 64
_SIZES = {"n": "s.n", "n_q": "s.n_q", "heads": "s.heads", "kv_heads": "s.kv_heads", "batch": "s.batch"}
HELPERS = """\
// Division and remainder that round downwards; the divisor is positive.
template <class I> static inline I floor_div(I a, I b) { return a / b - (a % b < 0); }
template <class I> static inline I floor_mod(I a, I b) { I r = a % b; return r + (r < 0 ? b : 0); }
template <class I> static inline I least(I a, I b) { return a < b ? a : b; }
template <class I> static inline I most(I a, I b) { return a > b ? a : b; }
template <class I> static inline I power(I a, I b) { I r = 1; while (b-- > 0) r *= a; return r; }
"""


def predicate(pred: e.Pred) -> str:
    """A C++ expression of type bool over ``q``, ``k``, ``h``, ``b`` (all of type ``pos``) and the sizes ``s``."""
    match pred:
        case e.Bool(value):
            return "true" if value else "false"
        case e.And(args):
            return " & ".join(f"({predicate(a)})" for a in args) or "true"
        case e.Or(args):
            return " | ".join(f"({predicate(a)})" for a in args) or "false"
        case e.Not(arg):
            return f"!({predicate(arg)})"
        case e.Iff(left, right):
            return f"({predicate(left)}) == ({predicate(right)})"
        case e.Any(var, domain, body):
            return _loop(var, domain, body, "|", "false")
        case e.All(var, domain, body):
            return _loop(var, domain, body, "&", "true")
        case e.Cmp():
            parts = [_case(conditions, cmp) for conditions, cmp in cases(pred)]
            return parts[0] if len(parts) == 1 else " | ".join(f"({p})" for p in parts) or "false"
    raise TypeError(f"not a predicate: {type(pred).__name__}")


def _case(conditions: tuple[e.Pred, ...], cmp: e.Cmp) -> str:
    compare = f"{term(cmp.left)} {cmp.op} {term(cmp.right)}"
    return " & ".join([*(f"({predicate(c)})" for c in conditions), f"({compare})"]) if conditions else compare


def _loop(var: str, domain: e.Domain, body: e.Pred, join: str, start: str) -> str:
    values = domain_values(domain, {})
    if len(values) <= _UNROLL:
        return f" {join} ".join(f"({predicate(bind(body, {var: v}))})" for v in values) or start
    if isinstance(domain, e.Range):
        head = f"for (pos {_local(var)} = {values[0]}; {_local(var)} <= {values[-1]}; ++{_local(var)})"
    else:
        head = f"for (pos {_local(var)} : {{{', '.join(f'(pos){v}' for v in values)}}})"
    return f"[&] {{ bool found = {start}; {head} found {join}= {predicate(body)}; return found; }}()"


def term(node: e.IntExpr) -> str:
    """A C++ expression of type pos."""
    match node:
        case e.Int(value):
            return _literal(value, "pos")
        case e.Var(name):
            return f"(pos){_SIZES[name]}" if name in _SIZES else _local(name)
        case e.Add(terms):
            return f"({_sum(terms)})"
        case e.Mul(e.Int(-1), right):
            return f"-{term(right)}"
        case e.Mul(left, right):
            return f"({term(left)} * {term(right)})"
        case e.FloorDiv(left, e.Int(value)) if value & (value - 1) == 0:
            return f"({term(left)} >> {value.bit_length() - 1})"
        case e.Mod(left, e.Int(value)) if value & (value - 1) == 0:
            return f"({term(left)} & {_literal(value - 1, 'pos')})"
        case e.FloorDiv(left, right):
            return f"floor_div<pos>({term(left)}, {term(right)})"
        case e.Mod(left, right):
            return f"floor_mod<pos>({term(left)}, {term(right)})"
        case e.Pow(base, exponent):
            return f"power<pos>({term(base)}, {term(exponent)})"
        case e.Min(args):
            return _nest("least<pos>", [term(a) for a in args])
        case e.Max(args):
            return _nest("most<pos>", [term(a) for a in args])
        case e.Abs(arg):
            return f"most<pos>({term(arg)}, -{term(arg)})"
        case e.Sum(var, domain, body):
            parts = [term(bind(body, {var: v})) for v in domain_values(domain, {})]
            return f"({' + '.join(parts)})" if parts else "(pos)0"
    raise TypeError(f"not an integer expression without choices: {type(node).__name__}")


def _sum(terms: tuple[e.IntExpr, ...]) -> str:
    text = term(terms[0])
    for part in terms[1:]:
        match part:
            case e.Mul(e.Int(-1), right):
                text += f" - {term(right)}"
            case e.Int(value) if value < 0:
                text += f" - {_literal(-value, 'pos')}"
            case _:
                text += f" + {term(part)}"
    return text


def _literal(value: int, kind: str) -> str:
    """A literal; plain where C++ reads it as an int, which every kind of ours can hold."""
    if abs(value) < 1 << 31:
        return str(value) if value >= 0 else f"({value})"
    return f"({kind})({value}LL)"


def _nest(function: str, args: list[str]) -> str:
    return args[0] if len(args) == 1 else f"{function}({args[0]}, {_nest(function, args[1:])})"


def _local(name: str) -> str:
    """A name that cannot clash with a C++ keyword or one of ours."""
    return name if name in ("q", "k", "h", "b") else f"{name}_"


def statements(loops: nest.Loops, visit: str, depth: int) -> str:
    """Statements that call ``visit(tile)`` for each point, computing in int64_t."""
    return "\n".join(_statements(loops.body, visit, depth))


def _statements(body: tuple[nest.Stmt, ...], visit: str, depth: int) -> Iterator[str]:
    pad = "    " * depth
    for stmt in body:
        match stmt:
            case nest.Visit(point):
                yield f"{pad}{visit}({index(point)});"
            case nest.For(var, low, high, step, inner):
                yield (
                    f"{pad}for (int64_t {var} = {index(low)}, {var}_end = {index(high)}; {var} <= {var}_end; "
                    f"{var} += {index(step)}) {{"
                )
                yield from _statements(inner, visit, depth + 1)
                yield f"{pad}}}"
            case nest.When(cond, inner, other):
                yield f"{pad}if ({index(cond)}) {{"
                yield from _statements(inner, visit, depth + 1)
                if other:
                    yield f"{pad}}} else {{"
                    yield from _statements(other, visit, depth + 1)
                yield f"{pad}}}"


def index(node: nest.Expr) -> str:
    """A C++ expression of type int64_t."""
    match node:
        case nest.Lit(value):
            return _literal(value, "int64_t")
        case nest.Name(name):
            return _SIZES.get(name, name)
        case nest.Op("neg", (arg,)):
            return f"(-{index(arg)})"
        case nest.Op("min" | "max" as op, args):
            return _nest("least<int64_t>" if op == "min" else "most<int64_t>", [index(a) for a in args])
        case nest.Op("select", (cond, then, other)):
            return f"({index(cond)} ? {index(then)} : {index(other)})"
        case nest.Op("//" | "%" as op, (left, right)):
            return f"{'floor_div' if op == '//' else 'floor_mod'}<int64_t>({index(left)}, {index(right)})"
        case nest.Op(op, (left, right)):
            return f"({index(left)} {({'and': '&&', 'or': '||'}).get(op, op)} {index(right)})"
    raise TypeError(f"not a loop expression: {node!r}")
