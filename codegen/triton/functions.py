"""Predicates, scores and places of entries as Triton functions of positions.

Positions are scalars or integer blocks that broadcast, ``q`` of shape (BM, 1) and ``k`` of (1, BN), say, all int32 or
all int64; ``s`` and ``g`` are float32 blocks of the broadcast shape. An input is a contiguous tensor: ``in_doc`` its
data and ``size0_in_doc``... its sizes. Nothing is touched outside an input.

>>> from attnspec.check.check import check_text
>>> made = allowed(check_text("attention a { attend causal and q // 8 == k // 8 }").pred, "allowed_0")
>>> made.arguments
('q', 'k')
>>> print(made.text[made.text.index("    t0") :])
    t0 = k <= q
    t1 = q >> 3
    t2 = k >> 3
    t3 = t1 == t2
    t4 = t0 & t3
    return t4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import indent, shorten

from attnspec.codegen.expressions import slopes
from attnspec.codegen.expressions.arguments import arguments
from attnspec.codegen.expressions.reads import reads
from attnspec.codegen.expressions.statements import Statements
from attnspec.codegen.plan.corners import CORNERS
from attnspec.codegen.triton.parameters import SCALARS, Parameter, argument, inputs, size
from attnspec.codegen.triton.syntax import inside, offset, triton_syntax, wide_syntax
from attnspec.codegen.triton.syntax import row as row_of
from attnspec.codegen.triton.usage import mentioned
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.evaluate import value_real

_VARIABLES = ("q", "k", "q_slot", "k_slot", *CORNERS, "h", "b", *SCALARS)


@dataclass(frozen=True)
class Function:
    """A ``@triton.jit`` function, and the names of its parameters: exactly those that its body uses.

    ``inputs`` are those of them that a kernel takes from its caller.
    """

    name: str
    arguments: tuple[str, ...]
    text: str
    inputs: tuple[Parameter, ...] = ()


@dataclass(frozen=True)
class Entry:
    """An entry of a float input whose gradient is wanted.

    ``place`` is a function that returns its row-major number (int64) and whether that is inside. ``moves`` are those of
    ``q`` and ``k`` that the place depends on: the shapes of what it returns follow from them.
    """

    name: str
    moves: frozenset[str]
    place: Function

    @property
    def argument(self) -> str:
        """The parameter with the input's data."""
        return argument(self.name)


@dataclass(frozen=True)
class Gradient:
    """A function from the incoming gradient to those by the score and by each entry, of its shape.

    It returns one block where there are no entries, else a tuple.
    """

    function: Function
    entries: tuple[Entry, ...]


def allowed(pred: e.Pred, name: str) -> Function:
    """Where a predicate holds."""
    body = _body(pred)
    truth = body.predicate(pred)
    varies = contents.free(pred) or reads(pred)
    return _function(name, pred, body, [truth if varies else f"tl.cast({truth}, tl.int1)"])


def integer(node: e.IntExpr, name: str, wide: bool = False) -> Function:
    """The value of an integer, computed in 64 bits where it is ``wide``; 0 where it has none."""
    body = Statements(wide_syntax()) if wide else _body(node)
    value, ok = body.integer(node)
    return _function(name, node, body, [value if ok is None else f"tl.where({ok}, {value}, 0)"])


def row(read: e.Read, name: str) -> Function:
    """A pointer to the entries of the last dimension of an integer input, and their number: 0 where there are none.

    ``read`` is any read there: its last index does not matter.
    """
    body = _body(read)
    places, ok = body.indices(read.indices[:-1])
    start, count = row_of(body, read.name, places), size(read.name, len(places))
    if places:
        where = inside(body, read.name, places)
        count = f"tl.where({where if ok is None else body.named(body.syntax.both(ok, where))}, {count}, 0)"
    return _function(name, read, body, [start, count])


def value(real: r.RealExpr, name: str = "score") -> Function:
    """The score after all score lines, given ``s``."""
    folded = _folded(arguments(real).lifted)
    body = _body(folded)
    result = body.real(folded)
    reads_score = any(isinstance(node, r.Score) for node in contents.walk(folded))
    return _function(name, folded, body, [result if reads_score else f"tl.zeros_like(s) + {result}"])


def gradient(real: r.RealExpr, name: str = "score_gradient") -> Gradient:
    """The gradients by ``s`` and by the entries of float inputs, given the incoming ``g``: 0 where that is 0."""
    if contents.free(real) & e.SLOTS:
        raise ValueError("a score cannot depend on `q.slot` or `k.slot`")
    by = slopes.slopes(real)
    lifted = arguments(real).lifted
    body = _body(lifted)
    results = ["tl.zeros_like(g)" if by.score is None else slopes.scaled(body, _folded(by.score))]
    for entry in by.entries:
        results.append(slopes.contribution(body, slopes.Entry(entry.name, entry.indices, _folded(entry.slope)))[1])
    places = [_place(entry, f"{name}_place_{number}") for number, entry in enumerate(by.entries)]
    entries = tuple(Entry(x.name, x.moves, place) for x, place in zip(by.entries, places, strict=True))
    read = (lifted, *(slope for slope in arguments(real).slopes.values()))
    return Gradient(_function(name, lifted, body, results, *read), entries)


def _place(entry: slopes.Entry, name: str) -> Function:
    read = r.RealRead(entry.name, entry.indices)
    body = _body(read)
    places, ok = body.indices(entry.indices)
    where = inside(body, entry.name, places)
    at = offset(body, entry.name, places)
    where = where if ok is None else body.named(body.syntax.both(ok, where))
    return _function(name, read, body, [at, f"tl.cast({where}, tl.int1)"])


def _body(node: e.Node) -> Statements:
    if contents.free(node) & set(CORNERS):
        return Statements(wide_syntax())  # of tiles, not of pairs: bounds may go beyond all positions
    return Statements(triton_syntax(next((name for name in _VARIABLES if name in contents.free(node)), None)))


def _folded(real: r.RealExpr) -> r.RealExpr:
    """A real with its constant parts computed: Python would do that in its own way."""
    match real:
        case r.Cast(e.Int(whole)):
            return r.Real(float(whole))
        case r.RealRead() | r.Cast():
            return real
    made = real.map(lambda part: _folded(part) if isinstance(part, r.RealExpr) else part)
    parts = list(made.children())
    return r.Real(float(value_real(made, {}))) if parts and all(isinstance(x, r.Real) for x in parts) else made


def _function(name: str, node: e.Node, body: Statements, results: Sequence[str], *read_by: e.Node) -> Function:
    """A function whose docstring is what it computes; statements that no result needs are left out.

    ``read_by`` are the expressions that say what it reads, if not ``node``.
    """
    used = set(mentioned(", ".join(results)))
    lines: list[str] = []
    for line in reversed(body.lines):
        if line.split(" = ")[0] in used:
            used.update(mentioned(line))
            lines.append(line)
    read = tuple(p for p in inputs(reads(*(read_by or (node,)))) if p.name in used)
    arguments = (*(one for one in (*_VARIABLES, "s", "g") if one in used), *(p.name for p in read))
    text = "\n".join([f'"""{shorten(str(node), 400)}"""', *reversed(lines), f"return {', '.join(results)}"])
    return Function(
        name, arguments, f"@triton.jit\ndef {name}({', '.join(arguments)}):\n{indent(text, '    ')}\n", read
    )
