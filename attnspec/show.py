"""Print core expressions as text in the language, with the fewest brackets."""

from __future__ import annotations

from attnspec.spec import expr as e
from attnspec.spec import real as r

_VARIABLES = {"m": "n", "q_slot": "q.slot", "k_slot": "k.slot"}
"""Variables that the language writes otherwise."""

# Binding strengths, loosest first (Python's order; `if` binds loosest of all).
_IF, _OR, _AND, _NOT, _CMP, _SUM, _PROD, _NEG, _POW, _ATOM = range(10)


def show(node: e.Node) -> str:
    """The text of a core expression; reading it back gives an expression with the same meaning."""
    return _show(node)[0]


def _at(node: e.Node, strength: int) -> str:
    """The text of a node, in brackets if it binds less tightly than the place it stands in."""
    text, own = _show(node)
    return text if own >= strength else f"({text})"


def _show(node: e.Node) -> tuple[str, int]:
    match node:
        case e.Int(value):
            return (str(value), _ATOM) if value >= 0 else (str(value), _NEG)
        case r.RealExpr():
            return _real(node)
        case e.Var(name):
            return _VARIABLES.get(name, name), _ATOM
        case e.Add(terms):
            return _sum(terms), _SUM
        case e.Mul(e.Int(-1), right):
            return f"-{_at(right, _POW)}", _NEG
        case e.Mul(left, right):
            return f"{_at(left, _PROD)} * {_at(right, _NEG)}", _PROD
        case e.FloorDiv(left, right):
            return f"{_at(left, _PROD)} // {_at(right, _NEG)}", _PROD
        case e.Mod(left, right):
            return f"{_at(left, _PROD)} % {_at(right, _NEG)}", _PROD
        case e.Pow(base, exponent):
            return f"{_at(base, _ATOM)} ** {_at(exponent, _NEG)}", _POW
        case e.Min(args):
            return f"min({', '.join(map(show, args))})", _ATOM
        case e.Max(args):
            return f"max({', '.join(map(show, args))})", _ATOM
        case e.Abs(arg):
            inner = show(arg)
            return (f"|({inner})|" if "|" in inner else f"|{inner}|"), _ATOM
        case e.If(cond, then, other):
            return f"if {_at(cond, _OR)} then {_at(then, _OR)} else {show(other)}", _IF
        case e.Index(items, indices) | e.Values(items, indices):
            return _items(items) + "".join(f"[{show(i)}]" for i in indices), _ATOM
        case e.Read(name, indices) | e.Flag(name, indices):
            return _read(name, indices), _ATOM
        case e.Among(item, name, indices):
            return f"{_at(item, _SUM)} in {_read(name, indices)}", _CMP
        case e.Range(low, high):
            return f"{_at(low, _SUM)}..{_at(high, _SUM)}", _ATOM
        case e.Sum(var, domain, body):
            return f"sum {var} in {show(domain)}: {show(body)}", _IF
        case e.Bool(value):
            return ("true" if value else "false"), _ATOM
        case e.Cmp(op, left, right):
            return f"{_at(left, _SUM)} {op} {_at(right, _SUM)}", _CMP
        case e.And(args):
            return (" and ".join(_at(a, _NOT) for a in args), _AND) if args else ("true", _ATOM)
        case e.Or(args):
            return (" or ".join(_at(a, _AND) for a in args), _OR) if args else ("false", _ATOM)
        case e.Not(arg):
            return f"not {_at(arg, _NOT)}", _NOT
        case e.Iff(left, right):
            return f"({show(left)}) == ({show(right)})", _CMP
        case e.Any(var, domain, body):
            return f"any {var} in {show(domain)}: {show(body)}", _IF
        case e.All(var, domain, body):
            return f"all {var} in {show(domain)}: {show(body)}", _IF
    raise TypeError(f"not a core expression: {type(node).__name__}")


def _sum(terms: tuple[e.IntExpr, ...]) -> str:
    text = ""
    for term in terms:
        match term:
            case e.Mul(e.Int(-1), right):
                sign, body = "-", _at(right, _PROD)
            case e.Int(value) if value < 0:
                sign, body = "-", str(-value)
            case _:
                sign, body = "+", _at(term, _PROD)
        if text:
            text += f" {sign} {body}"
        else:
            text = body if sign == "+" else f"-{_at(term.right, _POW) if isinstance(term, e.Mul) else body}"
    return text or "0"


def _read(name: str, indices: tuple[e.IntExpr, ...]) -> str:
    base, _, part = name.partition(".")
    if part in ("first", "last"):
        return f"{part}({base}, {show(indices[-1])})"
    if part == "bucket":
        return f"{'q' if indices[-1] == e.Var('q_slot') else 'k'}.bucket"
    if name == "alibi.slope":
        return f"alibi_slope({show(indices[0])}, heads)"
    return f"{name}[{', '.join(map(show, indices))}]" if indices else name


def _real(node: r.RealExpr) -> tuple[str, int]:
    match node:
        case r.Real(value):
            return repr(value), _ATOM if value >= 0 else _NEG
        case r.Score():
            return "s", _ATOM
        case r.Cast(arg):
            return _show(arg)
        case r.RealRead(name, indices):
            return _read(name, indices), _ATOM
        case r.Total(terms):
            return _total(terms), _SUM
        case r.Product(r.Real(-1.0), right):
            return f"-{_at(right, _POW)}", _NEG
        case r.Product(left, right):
            return f"{_at(left, _PROD)} * {_at(right, _NEG)}", _PROD
        case r.Quotient(left, right):
            return f"{_at(left, _PROD)} / {_at(right, _NEG)}", _PROD
        case r.Apply("abs", arg):
            inner = show(arg)
            return (f"|({inner})|" if "|" in inner else f"|{inner}|"), _ATOM
        case r.Apply(function, arg):
            return f"{function}({show(arg)})", _ATOM
        case r.Choose(cond, then, other):
            return f"if {_at(cond, _OR)} then {_at(then, _OR)} else {show(other)}", _IF
    raise TypeError(f"not a real expression: {type(node).__name__}")


def _total(terms: tuple[r.RealExpr, ...]) -> str:
    text = ""
    for term in terms:
        match term:
            case r.Product(r.Real(-1.0), right):
                sign, body = "-", _at(right, _PROD)
            case r.Real(value) if value < 0:
                sign, body = "-", repr(-value)
            case r.Cast(e.Mul(e.Int(-1), inner)):
                sign, body = "-", _at(inner, _PROD)
            case r.Cast(e.Int(number)) if number < 0:
                sign, body = "-", str(-number)
            case _:
                sign, body = "+", _at(term, _PROD)
        if text:
            text += f" {sign} {body}"
        else:
            text = body if sign == "+" else _at(term, _PROD)
    return text or "0"


def _items(items: e.Nested) -> str:
    return str(items) if isinstance(items, int) else f"[{', '.join(map(_items, items))}]"
