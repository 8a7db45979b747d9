"""The two functions that FlexAttention calls, each in one that makes it: what they capture are its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attnspec.codegen.flex.printer import POSITIONS, SIZES, Printer, Used, argument, read_as
from attnspec.codegen.flex.text import Text, Value, broken, is_tensor, written
from attnspec.relation.relation import Relation
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.bind import bind
from attnspec.spec.parts import Input
from attnspec.spec.real import Score
from attnspec.spec.spec import Spec

WIDTH = 100
_CALLS = {"first": "_first", "last": "_last", "flags": "_flags"}


@dataclass(frozen=True)
class Captured:
    """What a function captures: inputs, sizes of the call, where row 0 stands; the rest is made of these.

    ``made`` are statements; ``calls`` the functions that they call.
    """

    inputs: tuple[Input, ...]
    sizes: tuple[str, ...]
    offset: bool
    device: bool
    made: tuple[str, ...]
    calls: frozenset[str]

    @property
    def parameters(self) -> str:
        """The parameters of what makes the function."""
        names = [argument(item.name) for item in self.inputs] + list(self.sizes)
        return ", ".join(filter(None, ["*" if names or self.defaults else "", *names, self.defaults]))

    @property
    def defaults(self) -> str:
        """Those that need not be said: of as many queries as keys, on the CPU."""
        return ", ".join(["offset=0"] * self.offset + ['device="cpu"'] * self.device)

    def arguments(self, known: Mapping[str, str]) -> str:
        """The arguments of a call in which each has its own name, unless its size is ``known``."""
        names = [argument(item.name) for item in self.inputs] + list(self.sizes)
        names += [*["offset"] * self.offset, *["device"] * self.device]
        return ", ".join(f"{name}={known.get(name, name)}" for name in names)

    @property
    def needed(self) -> str:
        """The arguments of a call that has to say them."""
        return ", ".join(f"{name}={name}" for name in [*(argument(item.name) for item in self.inputs), *self.sizes])

    @property
    def free(self) -> bool:
        """Whether it can be made of nothing."""
        return not self.inputs and not self.sizes


@dataclass(frozen=True)
class Function:
    """A function: its name, what it returns, and what it captures."""

    name: str
    returned: Value
    captured: Captured

    def lines(self, what: str) -> Iterator[str]:
        """The function that makes it, ``what`` saying of which pattern; and itself, where nothing is needed."""
        captured = self.captured
        if not captured.inputs:
            yield "@functools.cache  # one function for the same arguments: another would be compiled again"
        yield f"def make_{self.name}({captured.parameters}):"
        yield f'    """{what}"""'
        yield from (f"    {line}" for line in captured.made)
        yield ""
        score = "score, " if self.name == "score_mod" else ""
        yield f"    def {self.name}({score}b, h, q, k):"
        if captured.offset:
            yield "        q = q + offset"
        yield f"        return {broken(self.returned, ' ' * 8, WIDTH)}"
        yield ""
        yield f"    return {self.name}"
        yield ""
        yield ""
        if captured.free:
            yield f"{self.name} = make_{self.name}({captured.defaults})"
        else:
            yield f"# There is no `{self.name}` without arguments: make_{self.name}(...) gives one."


def mask(relation: Relation) -> Function:
    """The pattern."""
    spec, used = relation.spec, Used()
    pred = bound(relation)
    found = Printer(variables(spec), spec, used).holds(pred)
    if not is_tensor(found):
        truth = written(found).text if isinstance(found, Text) else ""
        every = Text("q >= 0", tensor=True) if truth or found else Text("q < 0", tensor=True)
        found = Text(f"(q >= 0) & ({truth})", tensor=True) if truth else every
    return Function("mask_mod", found, captured(spec, used, pred))


def score(relation: Relation) -> Function | None:
    """The score lines, if there are any."""
    spec, used = relation.spec, Used()
    if spec.score == Score():
        return None
    real = bind(spec.score, dict(relation.known))
    return Function("score_mod", Printer(variables(spec), spec, used).real(real), captured(spec, used, real))


def bound(relation: Relation) -> e.Pred:
    """The pattern with what is known of sizes put in.

    By classes of heads where they divide by other numbers, or go through others: a divisor is to be a number.
    """
    known = dict(relation.known)
    whole = bind(relation.spec.pred, known)
    constant = [
        node.domain if isinstance(node, (e.Any, e.All, e.Sum)) else node.right
        for node in contents.walk(whole)
        if isinstance(node, (e.Any, e.All, e.Sum, e.FloorDiv, e.Mod))
    ]
    heads = relation.heads
    if heads is None or not any("h" in contents.free(node) for node in constant):
        return whole
    return e.Or(tuple(e.And((_among(item.heads or (), heads), item.parts[0].pred)) for item in relation.classes))


def _among(members: tuple[int, ...], heads: int) -> e.Pred:
    """That a head, one of so many, is a member of a class."""
    found: list[e.Pred] = []
    for first in (h for h in members if h - 1 not in members):
        last = next(h for h in range(first, heads) if h + 1 not in members)
        ends = [e.Cmp(">=", e.Var("h"), e.Int(first))] * (first > 0)
        ends += [e.Cmp("<=", e.Var("h"), e.Int(last))] * (last < heads - 1)
        found.append(e.Cmp("==", e.Var("h"), e.Int(first)) if first == last and len(ends) == 2 else e.And(tuple(ends)))
    return e.Or(tuple(found))


def variables(spec: Spec) -> dict[str, Text]:
    """Positions, and what ``m`` stands for: the number that axes are sized for, or the length."""
    return {**POSITIONS, "m": SIZES["m" if spec.axes else "n"]}


def captured(spec: Spec, used: Used, *nodes: e.Node) -> Captured:
    """What a function captures that computes some nodes, which turned out to read what ``used`` says."""
    names = {name.split(".")[0] for name in used.tables} - {"alibi"}
    inputs = tuple(item for item in spec.inputs if item.name in names)
    free = frozenset().union(*(contents.free(node) for node in nodes))
    offsets = [item for item in inputs if item.form == "offsets"]
    size = "m" if spec.axes else "n"
    sizes = {("n" if name == "m" and not spec.axes else name) for name in free & SIZES.keys()}
    sizes |= {size} if offsets else set()
    sizes |= {"heads"} if "alibi.slope" in used.tables else set()
    made = [f"{read_as(item)} = _documents({argument(item.name)}, {size})" for item in offsets]
    calls = {"_documents"} if offsets else set()
    for name, table in used.tables.items():
        of, _, kind = name.partition(".")
        if name == "alibi.slope":
            made.append(f"{table.name} = _alibi_slopes(heads, device)")
            calls.add("_alibi_slopes")
        elif kind:
            source = next(item for item in inputs if item.name == of)
            made.append(f"{table.name} = {_CALLS[kind]}({read_as(source)})")
            calls.add(_CALLS[kind])
    for items, name in used.lists.items():
        made.append(f"{name} = torch.tensor({_nested(items)}, device=device)")
    device = bool(used.lists) or "alibi.slope" in used.tables
    order = tuple(name for name in SIZES if name in sizes)
    return Captured(inputs, order, spec.align == "end" and "q" in free, device, tuple(made), frozenset(calls))


def _nested(items: object) -> str:
    return f"[{', '.join(map(_nested, items))}]" if isinstance(items, tuple) else repr(items)
