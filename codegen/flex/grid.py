"""The function that makes a block mask: conditions on the grid of blocks, of 1 / 128 x 1 / 128 of the pairs."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from attnspec.codegen.flex.blocks import Blocks, Told, last
from attnspec.codegen.flex.conditions import condition
from attnspec.codegen.flex.functions import WIDTH, Captured, bound, captured, variables
from attnspec.codegen.flex.library import FUNCTIONS
from attnspec.codegen.flex.printer import Printer, Used, argument
from attnspec.codegen.flex.text import Text, Value, broken, written
from attnspec.codegen.tiles import Tile
from attnspec.relation.loops import Loops
from attnspec.relation.relation import Relation, scalar_reads
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.parts import ANY_SIZE, Input
from attnspec.spec.rewrite import replace

_CORNERS = {name: Text(name, tensor=True) for name in ("q_first", "q_last", "k_first", "k_last")}


@dataclass(frozen=True)
class Written:
    """The function: its parameters, its lines, and which others it calls."""

    parameters: str
    lines: tuple[str, ...]
    calls: frozenset[str]


def block_mask(relation: Relation, found: tuple[Blocks, ...], mask: Captured, tile: Tile) -> Written:
    """The function, for blocks of each class of heads."""
    return _Function(relation, found, mask, tile).written()


class _Function:
    def __init__(self, relation: Relation, found: tuple[Blocks, ...], mask: Captured, tile: Tile) -> None:
        self.relation, self.spec, self.found, self.mask, self.tile = relation, relation.spec, found, mask, tile
        self.used, self.end = Used(), relation.spec.align == "end"
        self.printer = Printer({**variables(self.spec), **_CORNERS}, self.spec, self.used)
        self.first = Printer(
            {**variables(self.spec), "q": _CORNERS["q_first"], "k": _CORNERS["k_first"]}, self.spec, self.used
        )
        self.scalars = {name: self.printer.integer(read)[0] for read, name in scalar_reads(self.spec).items()}
        self.used.tables.clear()  # only what is printed counts

    def written(self) -> Written:
        body = list(self._conditions())
        nodes = [bound(self.relation), *(told for one in self.found for told in (t.could for t in one.told))]
        need = captured(self.spec, self.used, *nodes)
        code = "\n".join(line for line in body if not line.lstrip().startswith("#"))
        read = _names(code)  # which may be what the mask, in short, does not read
        held = {*self.mask.inputs, *need.inputs}
        inputs = [item for item in self.spec.inputs if item in held or argument(item.name) in read]
        counts = _counts(self.relation, inputs, {*contents.free(nodes[0]), *self.mask.sizes, *read})
        batch, heads = counts["batch"], counts["heads"]
        names = [argument(item.name) for item in inputs]
        names += [name for name, how in counts.items() if how == name]
        names += ['device="cpu"'] * (not inputs)
        first = ["m"] if self.spec.axes else ["n", "n_q=None"]
        parameters = ", ".join([*first, *(["*"] if names else []), *names])
        lines = [f"def block_mask({parameters}):", *(f"    {line}" for line in self._start())]
        lines += [f"    {line}" for line in self._sizes(code, inputs, counts)]
        lines += [f"    {name} = {count}" for name, count in counts.items() if name in read and count != name]
        lines += [f"    {statement}" for statement in need.made]
        lines += [f"    {line}" for line in self._places(read, batch, heads)]
        lines += [f"    {line}" for line in body]
        lines.append(f"    mask = make_mask_mod({self.mask.arguments(counts)})")
        lines.append(f"    return _block_mask(touched, full, {batch}, {heads}, n_q, n, mask, device)")
        calls = need.calls | {f for f in FUNCTIONS if f"{f}(" in "\n".join(lines)}
        return Written(parameters, tuple(lines), calls)

    def _start(self) -> Iterator[str]:
        spec = self.spec
        if spec.axes:
            yield '"""The block mask of axes that are sized for m."""'
            for name, side in (("n", "keys"), ("n_q", "queries")):
                parts = [self.printer.integer(axis.size)[0] for axis in spec.axes if getattr(axis, side)]
                yield f"{name} = {reduce(operator.add, parts, 0)}"
            return
        where = "the last n_q" if self.end else "rows 0 to n_q - 1"
        yield f'"""The block mask of n keys, and of as many queries if n_q does not say otherwise: {where}."""'
        yield "n_q = n if n_q is None else n_q"
        if self.end:
            yield "if not 0 < n_q <= n:"
            yield '    raise ValueError(f"there must be 1 to n = {n} queries, not {n_q}")'
        else:
            yield "if n < 1 or n_q < 1:"
            yield '    raise ValueError(f"there must be keys and queries, not {n} and {n_q}")'

    def _sizes(self, text: str, inputs: Sequence[Input], counts: Mapping[str, str]) -> Iterator[str]:
        for item in inputs[:1]:
            yield f"device = {argument(item.name)}.device"
        for item in inputs:
            yield from self._checks(item, counts)
        if self.end and ("offset" in self.mask.parameters or "offset" in text or "q_first" in text):
            yield "offset = n - n_q"

    def _checks(self, item: Input, counts: Mapping[str, str]) -> Iterator[str]:
        name = argument(item.name)
        if item.form == "offsets":
            yield f'_check_offsets("{item.name}", {name}, {"m" if self.spec.axes else "n"})'
            return
        sizes = [None if size == ANY_SIZE else self.printer.integer(size)[0] for size in item.sizes]
        texts = ["None" if size is None else counts.get(text := written(size).text, text) for size in sizes]
        if texts:
            yield f'_check("{item.name}", {name}, ({", ".join(texts)}{"," if len(texts) == 1 else ""}))'
        if item.form == "sorted":
            yield f'_check_sorted("{item.name}", {name})'

    def _places(self, names: set[str], batch: str, heads: str) -> Iterator[str]:
        rows, columns = self.tile.rows, self.tile.columns
        names = names | ({"i", "j"} if len(self.found) > 1 else set())
        if names & {"i", "q_first", "q_last"}:
            yield f"i = torch.arange(-(-n_q // {rows}), device=device).view(1, 1, -1, 1)"
        if names & {"j", "k_first", "k_last"}:
            yield f"j = torch.arange(-(-n // {columns}), device=device).view(1, 1, 1, -1)"
        for side, first, size, end in (
            ("q", f"{'offset + ' if self.end else ''}i * {rows}", rows, "n" if self.end else "n_q"),
            ("k", f"j * {columns}", columns, "n"),
        ):
            if names & {f"{side}_first", f"{side}_last"}:
                yield f"{side}_first = {first}"
            if f"{side}_last" in names:
                yield f"{side}_last = torch.clamp({side}_first + {size - 1}, max={end} - 1)"
        if "b" in names:
            yield f"b = torch.arange({batch}, device=device).view(-1, 1, 1, 1)"
        if len(self.found) > 1:
            yield f"touched = torch.zeros({batch}, {heads}, i.numel(), j.numel(), dtype=torch.bool, device=device)"
            yield "full = torch.zeros_like(touched)"
        elif "h" in names:
            yield f"h = torch.arange({heads}, device=device).view(1, -1, 1, 1)"

    def _conditions(self) -> Iterator[str]:
        for item in self.found:
            several = len(self.found) > 1
            if several:
                yield f"h = torch.tensor({list(item.heads or ())}, device=device).view(1, -1, 1, 1)"
            at = "[:, h.flatten()]" if several else ""
            yield from (f'_check_positive("{by}", {self.printer.integer(by)[0]})' for by in self._divisors())
            for atom in item.open:
                yield f"# Not known of whole blocks, and asked of every pair of a partial one: {atom}"
            sides = []
            for n, told in enumerate(item.told):
                could, must = self._told(told)
                yield f"# {told.atom}: of some pair of a block, and of every pair"
                yield f"could_{n} = {broken(could, '    ', WIDTH)}"
                yield f"must_{n} = {broken(must, '    ', WIDTH)}"
                sides.append((Text(f"could_{n}", tensor=True), Text(f"must_{n}", tensor=True)))
            touched: Any = np.False_
            full: Any = np.True_
            for case in item.cases:
                where = [could if truth else ~must for truth, (could, must) in zip(case.truths, sides, strict=True)]
                never = [~could if truth else must for truth, (could, must) in zip(case.truths, sides, strict=True)]
                touched = touched | reduce(operator.and_, where, self._tiles(case.touched))
                full = full & reduce(operator.or_, never, self._tiles(case.full))
            if any(case.touched is None for case in item.cases):
                yield "# Which blocks hold a pair has no short form: blocks that hold none are masked as partial ones."
            yield f"touched{at} = {broken(touched, '    ', WIDTH)}"
            yield f"full{at} = {broken(full, '    ', WIDTH)}"

    def _divisors(self) -> list[e.IntExpr]:
        """What the pattern divides by that comes with the call."""
        nodes = contents.walk(bound(self.relation))
        found = (node.right for node in nodes if isinstance(node, (e.FloorDiv, e.Mod)))
        return [by for by in dict.fromkeys(found) if contents.reads(by)]

    def _tiles(self, loops: Loops | None) -> Value:
        if loops is None:
            return np.True_
        names = {**self.scalars, **{name: Text(name, tensor=True) for name in ("b", "h")}}
        if not self.spec.axes:
            names["m"] = Text("n")
        return condition(loops, names, last(self.tile))

    def _told(self, told: Told) -> tuple[Value, Value]:
        """Whether an atom could hold of some pair of a block, and whether it must of every pair."""
        if not told.everywhere:
            could, must = (replace(pred, self._inside()) for pred in (told.could, told.must))
            return self.printer.holds(could), self.printer.holds(must)
        found = self.first.holds(told.atom)
        if not self.end or "q" not in contents.free(told.atom):
            return found, found
        aligned = Text(f"offset % {self.tile.rows}") == 0
        return found | ~aligned, found & aligned

    def _inside(self) -> dict[e.Node, e.Node]:
        """Corners that are positions of the call, in place of the nearest such."""
        names = [name for name in _CORNERS if self.end or name.startswith("k")]
        most = e.Add((e.Var("n"), e.Int(-1)))
        return {e.Max((e.Min((e.Var(name), most)), e.Int(0))): e.Var(name) for name in names}


def _counts(relation: Relation, inputs: Sequence[Input], names: Collection[str]) -> dict[str, str]:
    """Where the numbers of batch entries and heads come from: an input, or an argument; 1 where nothing tells apart."""

    def count(name: str) -> str:
        for item in inputs:
            if e.Var(name) in item.sizes:
                return f"{argument(item.name)}.shape[{item.sizes.index(e.Var(name))}]"
        return str(relation.heads) if name == "heads" and relation.heads is not None else name

    counts = {name: count(name) if {name, var} & {*names} else "1" for name, var in (("batch", "b"), ("heads", "h"))}
    return counts | {"kv_heads": "kv_heads"} if "kv_heads" in names else counts


def _names(text: str) -> set[str]:
    """The names in some lines."""
    return set(re.findall(r"\w+", text))
