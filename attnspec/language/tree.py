"""The tree of a source file as it was written: brackets, strings and places are kept; nothing is resolved."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.errors.source import Source, Span
from attnspec.language.expressions import *  # noqa: F403  # a tree has both: `t.Name`, `t.Attend`
from attnspec.language.expressions import Argument, Call, Domain, Expr, Name, Node, Range


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """A parameter of a pattern, an attention or a ``let`` function."""

    name: Name
    default: Expr | None


@dataclass(frozen=True, slots=True)
class Attend(Node):
    """``attend pred``."""

    pred: Expr


@dataclass(frozen=True, slots=True)
class Within(Node):
    """``within pred``."""

    pred: Expr


@dataclass(frozen=True, slots=True)
class Let(Node):
    """``let name = value``, or ``let name(parameters) = value``; ``parameters`` is None without brackets."""

    name: Name
    parameters: tuple[Parameter, ...] | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Align(Node):
    """``align start`` or ``align end``."""

    where: Name


@dataclass(frozen=True, slots=True)
class Heads(Node):
    """``for var in domain { clauses }``; ``heading`` is the part before the brace."""

    var: Name
    domain: Domain
    doc: Doc | None
    clauses: tuple[Clause, ...]
    heading: Span


@dataclass(frozen=True, slots=True)
class Branch(Node):
    """``branch [for names in domain] [times count] [share value] { clauses }`` inside a mixture.

    Without a domain ``names`` are empty; ``heading`` is the part before the brace.
    """

    names: tuple[Name, ...]
    domain: Domain | None
    times: Expr | None
    share: Expr | None
    doc: Doc | None
    clauses: tuple[Clause, ...]
    heading: Span


@dataclass(frozen=True, slots=True)
class Mix(Node):
    """``mix names in domain [weights detached] { clauses }``, or ``mix [weights detached] { branch ... }``.

    The first form has ``names`` (one, or several in brackets), a ``domain`` and ``clauses``; the second has ``names``
    empty, ``domain`` None, and ``clauses`` that are Branch, Let or Within.
    """

    names: tuple[Name, ...]
    domain: Domain | None
    detached: bool
    doc: Doc | None
    clauses: tuple[Clause, ...]
    heading: Span


@dataclass(frozen=True, slots=True)
class Axis(Node):
    """``axis name[size]``, with ``keys`` or ``queries`` (``only``) where it is not both."""

    name: Name
    size: Expr
    only: Name | None


@dataclass(frozen=True, slots=True)
class Arrow(Node):
    """``source -> target: pred``: what queries of one axis may see of the keys of another."""

    source: Name
    target: Name
    pred: Expr


@dataclass(frozen=True, slots=True)
class Input(Node):
    """``input name: kind[sizes] form``.

    ``kind`` is the name int, bool or float; ``sizes`` are empty for a scalar; ``form`` is None or an expression: the
    name ``sorted`` or ``offsets``, or the call ``random(low..high, seed)`` (its first argument's value is a Range).
    """

    name: Name
    kind: Name
    sizes: tuple[Expr, ...]
    form: Name | Random | None


@dataclass(frozen=True, slots=True)
class Random(Node):
    """``random(low..high, seed)``: what an input holds where the call does not give it."""

    domain: Range
    seed: Expr


@dataclass(frozen=True, slots=True)
class Order(Node):
    """``order by lsh(buckets = 64, rounds = 4)``: a computed order of the positions."""

    by: Call


@dataclass(frozen=True, slots=True)
class Score(Node):
    """``score value``: the score's new value, ``s`` being its value so far."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Rotate(Node):
    """``rotate rope(theta = 10000)``, or ``rotate rope(...) at (q', k')``; ``value`` is a Call or an At over one."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Sink(Node):
    """``sink value``: a logit that takes its share of the softmax and has no value vector."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Scale(Node):
    """``scale value``: the factor of the dot product where the call gives none."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Normalize(Node):
    """``normalize k`` (or ``q``): its vectors are scaled to unit length before the dot product."""

    what: Name


@dataclass(frozen=True, slots=True)
class Include(Node):
    """``include name``, or ``include name(arguments)``: the clauses of another attention."""

    attention: Name
    args: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Linear(Node):
    """``linear value``: what a vector ``x`` is mapped to; ``linear q: value`` for one side only."""

    side: Name | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Divide(Node):
    """``divide value``, or ``divide each value``: what the sum of weighted values is divided by."""

    each: bool
    value: Expr


@dataclass(frozen=True, slots=True)
class Decay(Node):
    """``decay value``: the logarithm of what a weight loses at each step between key and query."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Delta(Node):
    """``delta value``: how much of what its key recalls each value loses first."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Recur(Node):
    """``recur axis by size [ragged first|last]``: the sequence on an axis comes in segments."""

    axis: Name
    size: Expr
    ragged: Name | None


@dataclass(frozen=True, slots=True)
class Carry(Node):
    """``carry source -> targets [last count] [by layer] [detached]``: what stands there in the next segment."""

    source: Name
    targets: tuple[Name, ...]
    last: Expr | None
    by_layer: bool
    detached: bool


@dataclass(frozen=True, slots=True)
class Recall(Node):
    """``recall targets from store by summary(...)``: what a segment asks of what is stored."""

    targets: tuple[Name, ...]
    store: Name
    by: Call


@dataclass(frozen=True, slots=True)
class Horizon(Node):
    """``horizon count``: after so many segments no gradient flows back."""

    count: Expr


Group = Heads | Mix | Branch
"""Clauses that have clauses inside."""

Weighing = Score | Rotate | Sink | Scale | Normalize | Linear | Divide | Decay | Delta
"""Clauses that say how much a pair weighs."""

Following = Recur | Carry | Recall | Horizon
"""Clauses that say how segments follow one another."""

Line = Attend | Within | Let | Align | Axis | Arrow | Input | Order | Include | Weighing | Following
Clause = Line | Group


def heading(clause: Clause) -> Span:
    """What stands for a clause in a message: not its whole body."""
    return clause.heading if isinstance(clause, Group) else clause.span


@dataclass(frozen=True, slots=True)
class Doc(Node):
    """A string that documents what it stands at."""

    @property
    def text(self) -> str:
        """What it says, without quotes and common indentation."""
        from inspect import cleandoc

        quotes = 3 if self.span.text.startswith('"""') else 1
        return cleandoc(self.span.text[quotes:-quotes])


@dataclass(frozen=True, slots=True)
class Pattern(Node):
    """``pattern name(parameters) = body``."""

    name: Name
    parameters: tuple[Parameter, ...]
    body: Expr
    docs: tuple[Doc, ...]


@dataclass(frozen=True, slots=True)
class Attention(Node):
    """``attention name(parameters) { clauses }``."""

    name: Name
    parameters: tuple[Parameter, ...]
    clauses: tuple[Clause, ...]
    docs: tuple[Doc, ...]


@dataclass(frozen=True, slots=True)
class File:
    """A whole source file, its items in the order written."""

    source: Source
    doc: Doc | None
    items: tuple[Pattern | Attention, ...]

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns that the file defines."""
        return tuple(i for i in self.items if isinstance(i, Pattern))

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attentions that the file defines."""
        return tuple(i for i in self.items if isinstance(i, Attention))
