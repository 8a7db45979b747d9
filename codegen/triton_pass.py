"""One pass as Triton kernels: forward, backward by query tile (dQ), backward by key tile (dK, dV).

Each kernel has a function that visits a tile, of which there are two versions: of full tiles, without any mask, and of
partial ones (``PARTIAL``). Forward keeps a running softmax over the keys of a query tile. Backward computes the weights
again from the log-sum-exp: ``P = exp(S - lse)``, ``dS = P * (dO V^T - delta)``; by key tile it works on the transposed
scores directly, so that nothing is transposed after it was computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2

from attnspec import expr as e
from attnspec.codegen import triton_decide as decide
from attnspec.codegen.layout import Slots
from attnspec.codegen.plan import Pass, Sweep
from attnspec.codegen.triton_loops import statements
from attnspec.codegen.triton_runs import Run, renamed, runs, walk
from attnspec.codegen.triton_side import Side, parts
from attnspec.codegen.triton_values import Function, Gradient
from attnspec.loops import Loops
from attnspec.real import RealExpr, Score

NEVER_SPECIALISED = ("n", "n_q", "heads", "kv_heads", "batch", "m", "tiles", "share_tiles", "q_first_slot", "q_count",
                     "k_first_slot", "k_count", "own_heads", "first_outer")  # fmt: skip
SCALARS = ("n", "n_q", "heads", "kv_heads", "batch", "m")


@dataclass(frozen=True)
class Kind:
    """The kernels of a pass share their text but for what they load, keep and store."""

    name: str  # "forward", "queries" or "keys"
    outer: str
    """The side whose tiles are outer: one for each program."""

    @property
    def inner(self) -> str:
        """The side whose tiles move past."""
        return "k" if self.outer == "q" else "q"


FORWARD, QUERIES, KEYS = Kind("forward", "q"), Kind("queries", "q"), Kind("keys", "k")


@dataclass(frozen=True)
class Context:
    """What all passes of a module share: head sizes, the position type, score lines, and the places of scalar inputs.

    ``scalars`` are the reads that loops know by name, as functions of a head and batch entry.
    """

    dim: int
    dim_v: int
    pos: str
    align: str
    score: RealExpr
    value: Function
    gradient: Gradient
    scalars: Mapping[str, Function]
    carry: bool
    adds: bool
    """Whether gradients of keys are summed up by several passes, or written only where a pass has keys."""
    separate: bool
    """Whether branches are kept apart: each has an output, and a delta, of its own."""

    @property
    def scored(self) -> bool:
        """Whether there are score lines."""
        return self.score != Score()


@dataclass(frozen=True)
class Kernel:
    """The text of a kernel with its helpers, and the names of its parameters."""

    text: str
    parameters: tuple[str, ...]


def kernel(kind: Kind, item: Pass, number: int, sweep: Sweep, own: Context, heads: Sequence[int] | None) -> Kernel:
    """The kernel of one pass; ``heads`` are those of its class, None for all."""
    return _Text(kind, item, number, sweep, own, heads).kernel()


@dataclass(frozen=True)
class _Text:
    kind: Kind
    item: Pass
    number: int
    sweep: Sweep
    own: Context
    heads: Sequence[int] | None

    # The two sides

    def side(self, name: str) -> Side:
        size = self.item.tile.rows if name == "q" else self.item.tile.columns
        return Side(name, self.item.layout, size, self.own.pos)

    @property
    def outer(self) -> Side:
        return self.side(self.kind.outer)

    @property
    def inner(self) -> Side:
        return self.side(self.kind.inner)

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(range(len(parts(self.own.dim))))

    @property
    def dims_v(self) -> tuple[int, ...]:
        return tuple(range(len(parts(self.own.dim_v))))

    @property
    def repeats(self) -> bool:
        """Whether a key may stand in several slots: then gradients of keys lie by slot, not by position."""
        return isinstance(self.item.layout, Slots)

    def named(self, prefix: str, which: tuple[int, ...]) -> list[str]:
        return [f"{prefix}{n}" for n in which]

    # Calls of generated functions

    def call(self, function: Function, q: str, k: str, **given: str) -> str:
        """A call at the pairs of queries and keys written ``q`` and ``k``, e.g. ``q_at[:, None]``."""
        pos = self.own.pos
        names = {
            "q": q,
            "k": k,
            "q_slot": q.replace("_at", "_slot"),
            "k_slot": k.replace("_at", "_slot"),
            **{name: f"{name}.to({pos})" for name in (*SCALARS, "h", "b")},
            **given,
        }
        return f"{function.name}({', '.join(names.get(a, a) for a in function.arguments)})"

    @property
    def at(self) -> tuple[str, str]:
        """Positions of queries and keys as they lie in a tile of this kernel."""
        return ("q_at[:, None]", "k_at[None, :]") if self.kind.outer == "q" else ("q_at[None, :]", "k_at[:, None]")

    # The text

    def kernel(self) -> Kernel:
        tile = self.tile_function()
        body = list(self.body(tile))
        text = "\n".join(_used(body))
        parameters = _names_in(text, _parameters(self.own, self.item))
        constexpr = [p for p in ("GROUP", "PRECISION") if re.search(rf"\b{p}\b", text)]
        fixed = [p for p in NEVER_SPECIALISED if p in parameters]
        listed = ", ".join([*parameters, *(f"{p}: tl.constexpr" for p in constexpr)])
        title = {"forward": "Forward", "queries": "Backward by query tile", "keys": "Backward by key tile"}[
            self.kind.name
        ]
        head = [
            f"@triton.jit(do_not_specialize={list(fixed)!r})",
            f"def {self.kind.name}_{self.number}({listed}):",
            f'    """{title}: {_plain(self.item.title)}."""',
        ]
        lines = "\n".join([*head, *(f"    {line}" for line in _used(body))])
        return Kernel("\n\n".join([tile.text, lines]), (*parameters, *constexpr))

    def body(self, tile: Function) -> Iterator[str]:
        yield from self.decode()
        yield from self.outer.place("o")
        yield from {"forward": self.start_forward, "queries": self.start_queries, "keys": self.start_keys}[
            self.kind.name
        ]()
        if self.kind is KEYS:
            yield "for group_head in range(0, GROUP):"
            yield from (f"    {line}" for line in self.one_head(tile))
        else:
            yield from self.one_head(tile)
        yield from {"forward": self.end_forward, "queries": self.end_queries, "keys": self.end_keys}[self.kind.name]()

    def decode(self) -> Iterator[str]:
        """Which tile, residue, head and batch entry a program has. The heaviest query tiles come first."""
        for name in SCALARS:
            yield f"{name} = {name}.to(tl.int64)"
        yield "program = tl.program_id(0).to(tl.int64)"
        yield "number = program % tiles"
        yield "program = program // tiles"
        if self.item.layout.residues > 1:
            yield f"c = program % {self.item.layout.residues}"
            yield f"program = program // {self.item.layout.residues}"
        else:
            yield "c = as_index(0)"
        if self.kind is FORWARD:
            yield "share = program % shares"
            yield "program = program // shares"
        count = (
            "own_heads" if self.heads is not None else "kv_heads" if self.kind is KEYS and not self.repeats else "heads"
        )
        yield f"x = program % {count}"
        yield f"b = program // {count}"
        if self.kind is KEYS:
            # The first of the heads that share these keys.
            yield "h = tl.load(HEADS + x * GROUP).to(tl.int64)" if self.heads is not None else "h = x * GROUP"
        else:
            yield "h = tl.load(HEADS + x).to(tl.int64)" if self.heads is not None else "h = x"
        yield "kv = h // (heads // kv_heads)"
        yield "offset = n - n_q" if self.own.align == "end" else "offset = as_index(0)"
        yield from self.side("q").begin()
        yield from self.side("k").begin()
        if self.kind.outer == "q":
            yield f"o = {self.outer.last_tile()} - number"
            yield f"if o < {self.outer.first_tile()}:"
        else:
            yield "o = number"
            yield f"if o > {self.outer.last_tile()}:"
        yield "    return"

    # Start and end

    def start_forward(self) -> Iterator[str]:
        yield "q_head = Q + b * q_b + h * q_h"
        yield from self.outer.read("q", "q_head", "q_r", parts(self.own.dim), "True")
        size = self.outer.size
        out = "out_head = OUT + b * o_b + h * o_h"
        yield out if self.own.carry else f"{out} + share * o_s"
        line = "(b * heads + h) * n_q + q_first + q_rel"
        yield f"line = LSE + {line}" if self.own.carry else f"line = LSE + share * batch * heads * n_q + {line}"
        if self.own.carry:
            # An output and its log-sum-exp are a sum with one term: go on from what earlier passes have summed up.
            yield "top = tl.load(line, mask=q_live, other=-INF) * LOG2E"
            yield "total = tl.where(top == -INF, 0.0, 1.0)"
            yield from self.outer.read("acc", "out_head", "o_r", parts(self.own.dim_v), "True")
            return
        yield f"top = tl.full(({size},), -INF, tl.float32)"
        yield f"total = tl.zeros(({size},), tl.float32)"
        for number, part in enumerate(parts(self.own.dim_v)):
            yield f"acc{number} = tl.zeros(({size}, {part.width}), tl.float32)"

    def end_forward(self) -> Iterator[str]:
        yield "divisor = tl.where(total == 0.0, 1.0, total)"
        for name in self.named("acc", self.dims_v):
            yield f"{name} = {name} / divisor[:, None]"
        yield from self.outer.write("out_head", "o_r", "acc", parts(self.own.dim_v), False)
        yield "tl.store(line, tl.where(total == 0.0, -INF, (top + tl.log2(divisor)) * LN2), mask=q_live)"

    def start_queries(self) -> Iterator[str]:
        yield "q_head = Q + b * q_b + h * q_h"
        yield "g_head = DO + b * g_b + h * g_h"
        yield from self.outer.read("q", "q_head", "q_r", parts(self.own.dim), "True")
        yield from self.outer.read("g", "g_head", "g_r", parts(self.own.dim_v), "True")
        yield "line = (b * heads + h) * n_q + q_first + q_rel"
        yield "bound = tl.load(BOUND + line, mask=q_live, other=INF)"
        yield f"delta = tl.load(DELTA + {self.branch}line, mask=q_live, other=0.0)"
        for number, part in enumerate(parts(self.own.dim)):
            yield f"dq{number} = tl.zeros(({self.outer.size}, {part.width}), tl.float32)"
        for entry in self.sums():
            yield f"sum{entry} = 0.0"

    @property
    def branch(self) -> str:
        return f"{self.item.branch} * delta_s + " if self.own.separate else ""

    def end_queries(self) -> Iterator[str]:
        for name in self.named("dq", self.dims):
            yield f"{name} = {name} * scale"
        yield "dq_head = DQ + b * dq_b + h * dq_h"
        yield from self.outer.write("dq_head", "dq_r", "dq", parts(self.own.dim), self.own.carry)
        for entry in self.sums():
            yield f"if SUM{entry} is not None:"
            yield f"    tl.store(SUM{entry} + ((b * heads + h) * {self.item.layout.residues} + c) * tiles + number, sum{entry})"

    def start_keys(self) -> Iterator[str]:
        yield "k_head = K + b * k_b + kv * k_h"
        yield "v_head = V + b * v_b + kv * v_h"
        yield from self.outer.read("k", "k_head", "k_r", parts(self.own.dim), "True")
        yield from self.outer.read("v", "v_head", "v_r", parts(self.own.dim_v), "True")
        for name, dim in (("dk", self.own.dim), ("dv", self.own.dim_v)):
            for number, part in enumerate(parts(dim)):
                yield f"{name}{number} = tl.zeros(({self.outer.size}, {part.width}), tl.float32)"

    def end_keys(self) -> Iterator[str]:
        for name in self.named("dk", self.dims):
            yield f"{name} = {name} * scale"
        if self.repeats:
            yield "k_rel = k_slot"  # a key may have several slots: each has its own row
            yield "k_live = (k_slot >= k_begin) & (k_slot < k_end)"
        where = "h" if self.repeats else "kv"
        for name, dim in (("dk", self.own.dim), ("dv", self.own.dim_v)):
            yield f"{name}_head = {name.upper()} + b * {name}_b + {where} * {name}_h"
            yield from self.outer.write(f"{name}_head", f"{name}_r", name, parts(dim), self.own.adds)

    # Tiles

    def one_head(self, tile: Function) -> Iterator[str]:
        """The tiles that one head visits."""
        if self.kind is KEYS:
            if self.heads is not None:
                yield "h = tl.load(HEADS + x * GROUP + group_head).to(tl.int64)"
            else:
                yield "h = x * GROUP + group_head"
            yield "q_head = Q + b * q_b + h * q_h"
            yield "g_head = DO + b * g_b + h * g_h"
            yield "bound_line = BOUND + (b * heads + h) * n_q"
            yield f"delta_line = DELTA + {self.branch}(b * heads + h) * n_q"
        else:
            yield "k_head = K + b * k_b + kv * k_h"
            yield "v_head = V + b * v_b + kv * v_h"
        if self.sweep.full is None or self.sweep.maybe is None or self.sweep.partial is None:
            yield from self.table(tile)
            return
        outer = "i" if self.kind.outer == "q" else "j"
        yield f"{outer} = o"
        for name, function in self.own.scalars.items():
            yield f"{name} = {self.call(function, '', '')}.to(tl.int64)"
        if self.kind is FORWARD:
            yield "lo = share * share_tiles"
            yield "hi = lo + share_tiles - 1"
        else:
            yield "lo = as_index(-(1 << 40))"
            yield "hi = as_index(1 << 40)"
        yield from decide.window(self.item, self.outer, self.inner)
        found = [runs(loops.body) for loops in (self.sweep.full, self.sweep.maybe, self.sweep.partial)]
        full, maybe, partial = found
        if full is None or maybe is None or partial is None:
            yield from self.nests(tile, self.sweep.full, self.sweep.maybe, self.sweep.partial)
        elif maybe and decide.splits(self.item):
            # Tiles that inputs may make full are full in a run of tiles, and partial before and after it.
            yield from decide.whole(self.item, self.outer, self.inner)
            within = renamed(maybe, {"lo": "whole_lo", "hi": "whole_hi"})
            before, after = renamed(maybe, {"hi": "hi_before"}), renamed(maybe, {"lo": "lo_after"})
            yield from self.walk(tile, (*full, *within), False, False)
            yield from self.walk(tile, (*before, *after, *partial), True, False)
        elif maybe and decide.blocks_decide(self.item):
            yield from self.walk(tile, full, False, False)
            yield from self.walk(tile, maybe, False, True)
            yield from self.walk(tile, partial, True, True)
        else:
            yield from self.walk(tile, full, False, False)
            yield from self.walk(tile, (*maybe, *partial), True, True)

    def walk(self, tile: Function, found: tuple[Run, ...], partial: bool, asks: bool) -> Iterator[str]:
        """One loop over runs of tiles; ``asks`` says that tiles are skipped where blocks of inputs are false."""
        if not found:
            return
        inner = "j" if self.kind.outer == "q" else "i"
        yield f"# {'partial' if partial else 'full'} tiles"
        yield from walk(found, inner, lambda pad: self.visits(tile, inner, pad, partial, asks))

    def nests(self, tile: Function, full: Loops, maybe: Loops, partial: Loops) -> Iterator[str]:
        """Loops inside loops, as they are; what inputs may make full is partial."""
        for loops, masks in ((full, False), (maybe, True), (partial, True)):
            if loops.body:
                yield f"# {'partial' if masks else 'full'} tiles"

                def visit(at: str, pad: str, masks: bool = masks) -> list[str]:
                    return self.visits(tile, at, pad, masks, masks)

                yield from statements(loops, visit, 0).splitlines()

    def visits(self, tile: Function, at: str, pad: str, partial: bool, asks: bool) -> list[str]:
        """The statements that visit a tile."""
        ask = decide.block(self.item, self.outer, self.inner, at) if asks else None
        if ask is None:
            return [f"{pad}{self.visit(tile, at, partial)}"]
        return [f"{pad}{ask}", f"{pad}    {self.visit(tile, at, partial)}"]

    def table(self, tile: Function) -> Iterator[str]:
        """Tiles from a list: full ones, then partial ones."""
        inner = "j" if self.kind.outer == "q" else "i"
        yield "row = tl.load(TABLE + b * heads + h) + o - first_outer"
        for kind, partial in (("full", False), ("partial", True)):
            begin, end = ("START", "MIDDLE") if kind == "full" else ("MIDDLE", "END")
            yield f"for place in range(tl.load({begin} + row), tl.load({end} + row)):"
            yield f"    {inner} = tl.load(TILES + place)"
            yield f"    {self.visit(tile, inner, partial)}"

    def visit(self, tile: Function, at: str, partial: bool) -> str:
        state = ", ".join(self.state())
        inner = "j" if self.kind.outer == "q" else "i"
        arguments = [at if a == inner else str(partial) if a == "PARTIAL" else a for a in tile.arguments]
        return f"{state} = {tile.name}({', '.join(arguments)})"

    def state(self) -> list[str]:
        if self.kind is FORWARD:
            return ["top", "total", *self.named("acc", self.dims_v)]
        if self.kind is QUERIES:
            return [*self.named("dq", self.dims), *(f"sum{entry}" for entry in self.sums())]
        return [*self.named("dk", self.dims), *self.named("dv", self.dims_v)]

    def tile_function(self) -> Function:
        """The function that visits one tile: it takes what it needs and returns the state."""
        body = list(
            {"forward": self.forward_tile, "queries": self.queries_tile, "keys": self.keys_tile}[self.kind.name]()
        )
        text = "\n".join(body)
        state, tile = self.state(), "j" if self.kind.outer == "q" else "i"
        known = [*_parameters(self.own, self.item), *SCALARS, "h", "b", "c", "offset", "q_head", "k_head", "v_head",
                 "g_head", "bound_line", "delta_line", "bound", "delta", *(f"{s}_{x}" for s in "qk" for x in
                 ("list", "begin", "end", "at", "slot", "live")), *self.named("q", self.dims), *self.named("k", self.dims),
                 *self.named("v", self.dims_v), *self.named("g", self.dims_v)]  # fmt: skip
        made = set(re.findall(r"^\s*([\w, ]+?) [-+]?= ", text, re.MULTILINE))
        made = {name.strip() for group in made for name in group.split(",")}
        used = [name for name in dict.fromkeys(known) if name not in made and re.search(rf"\b{name}\b", text)]
        arguments = (*state, tile, *(n for n in used if n not in state), "PARTIAL", "PRECISION")
        listed = ", ".join(
            f"{a}: tl.constexpr" if a.isupper() and a in ("PARTIAL", "PRECISION") else a for a in arguments
        )
        name = f"{self.kind.name}_tile_{self.number}"
        lines = [
            "@triton.jit",
            f"def {name}({listed}):",
            *(f"    {line}" for line in body),
            f"    return {', '.join(state)}",
        ]
        return Function(name, arguments, "\n".join(lines))

    def dot(self, to: str, left: str, right: str, which: tuple[int, ...], transposed: bool = True) -> Iterator[str]:
        """``to`` as the sum over the parts of a head of ``left @ right^T``."""
        for n in which:
            more = f", {to}" if n else ""
            yield f"{to} = tl.dot({left}{n}, tl.trans({right}{n}){more}, input_precision=PRECISION)"

    def mask(self) -> Iterator[str]:
        """Which pairs of a partial tile live."""
        live = "k_live[None, :]" if self.kind.outer == "q" else "k_live[:, None]"
        rest = self.item.tests.rest(self.item.pred)
        if rest == e.Bool(True):
            yield f"    allowed = {live}"
        else:
            yield f"    allowed = {self.call(self.allowed, *self.at)} & {live}"

    @property
    def allowed(self) -> Function:
        return allowed(self.item, self.number)

    def scores(self) -> Iterator[str]:
        """From products to scores in units of log2; ``raw`` keeps them before score lines."""
        if self.own.scored:
            yield "raw = s * scale"
            yield f"s = {self.call(self.own.value, *self.at, s='raw')} * LOG2E"
        else:
            yield "s = s * (scale * LOG2E)"
        if self.item.times > 1:
            yield f"s = s + {log2(self.item.times)!r}  # each pair counts {self.item.times} times"

    def forward_tile(self) -> Iterator[str]:
        yield from self.inner.place("j")
        yield from self.inner.read("k", "k_head", "k_r", parts(self.own.dim), "PARTIAL")
        yield from self.inner.read("v", "v_head", "v_r", parts(self.own.dim_v), "PARTIAL")
        yield from self.dot("s", "q", "k", self.dims)
        yield from self.scores()
        yield "if PARTIAL:"
        yield from self.mask()
        yield "    s = tl.where(allowed, s, -INF)"
        yield "p, top, total, factor = softmax_step(s, top, total)"
        for n in self.dims_v:
            yield f"acc{n} = tl.dot(p.to(v{n}.dtype), v{n}, acc{n} * factor[:, None], input_precision=PRECISION)"

    def weights(self, bound: str) -> Iterator[str]:
        """P from scores."""
        yield f"p = tl.exp2(s - {bound})"
        yield "if PARTIAL:"
        yield from self.mask()
        yield "    p = tl.where(allowed, p, 0.0)"

    def changes(self, delta: str) -> Iterator[str]:
        """DS from P and dP; in masked pairs 0, whatever dP is there."""
        yield f"ds = p * (dp - {delta})"
        yield "if PARTIAL:"
        yield "    ds = tl.where(allowed, ds, 0.0)"

    def queries_tile(self) -> Iterator[str]:
        yield from self.inner.place("j")
        yield from self.inner.read("k", "k_head", "k_r", parts(self.own.dim), "PARTIAL")
        yield from self.inner.read("v", "v_head", "v_r", parts(self.own.dim_v), "PARTIAL")
        yield from self.dot("s", "q", "k", self.dims)
        yield from self.scores()
        yield from self.weights("bound[:, None]")
        yield from self.dot("dp", "g", "v", self.dims_v)
        yield from self.changes("delta[:, None]")
        if self.own.scored:
            entries = self.own.gradient.entries
            names = ", ".join(["ds", *(f"e{n}" for n in range(len(entries)))])
            call = self.call(self.own.gradient.function, *self.at, g="ds", s="raw")
            yield f"{names} = {call}" if entries else f"ds = {call}"
            for n, entry in enumerate(entries):
                yield f"if D_{entry.argument} is not None:"
                if not entry.moves:
                    yield f"    sum{n} += tl.sum(tl.sum(e{n}, 1), 0)"
                    continue
                # Summed over what the place does not depend on; pairs that share it take turns (the order is not fixed).
                if entry.moves == {"q"}:
                    yield f"    e{n} = tl.sum(e{n}, 1, keep_dims=True)"
                elif entry.moves == {"k"}:
                    yield f"    e{n} = tl.sum(e{n}, 0, keep_dims=True)"
                yield f"    place, inside = {self.call(entry.place, *self.at)}"
                yield f"    tl.atomic_add(D_{entry.argument} + place, e{n}, mask=inside & (e{n} != 0.0))"
        for n in self.dims:
            yield f"dq{n} = tl.dot(ds.to(k{n}.dtype), k{n}, dq{n}, input_precision=PRECISION)"

    def keys_tile(self) -> Iterator[str]:
        yield from self.inner.place("i")
        yield from self.inner.read("q", "q_head", "q_r", parts(self.own.dim), "True")
        yield from self.inner.read("g", "g_head", "g_r", parts(self.own.dim_v), "True")
        yield "bound = tl.load(bound_line + q_first + q_rel, mask=q_live, other=INF)"
        yield "delta = tl.load(delta_line + q_first + q_rel, mask=q_live, other=0.0)"
        yield from self.dot("s", "k", "q", self.dims)
        yield from self.scores()
        yield from self.weights("bound[None, :]")
        for n in self.dims_v:  # before dP is there: fewer registers are held
            yield f"dv{n} = tl.dot(p.to(g{n}.dtype), g{n}, dv{n}, input_precision=PRECISION)"
        yield from self.dot("dp", "v", "g", self.dims_v)
        yield from self.changes("delta[None, :]")
        if self.own.scored:
            call = self.call(self.own.gradient.function, *self.at, g="ds", s="raw")
            yield f"ds = {call}[0]" if self.own.gradient.entries else f"ds = {call}"
        for n in self.dims:
            yield f"dk{n} = tl.dot(ds.to(q{n}.dtype), q{n}, dk{n}, input_precision=PRECISION)"

    def sums(self) -> list[int]:
        """The entries of inputs whose gradient one program sums up: those that all its pairs share."""
        return [n for n, entry in enumerate(self.own.gradient.entries) if not entry.moves]


def allowed(item: Pass, number: int) -> Function:
    """The predicate of a pass as a function; blocks of inputs that a kernel asks once for a tile are left out."""
    from attnspec.codegen import triton_values

    return triton_values.allowed(item.tests.rest(item.pred), f"allowed_{number}")


def _parameters(own: Context, item: Pass) -> tuple[str, ...]:
    """All names that a kernel may take from its caller, in order."""
    reads = dict.fromkeys(
        a
        for function in (
            allowed(item, 0), own.value, own.gradient.function, *(x.place for x in own.gradient.entries),
            *own.scalars.values(), *decide.functions(item),
        )
        for a in function.arguments
        if a.startswith("in_")
    )  # fmt: skip
    wanted = dict.fromkeys(f"D_{entry.argument}" for entry in own.gradient.entries)
    sums = [f"SUM{n}" for n, entry in enumerate(own.gradient.entries) if not entry.moves]
    strides = [f"{t}_{d}" for t in ("q", "k", "v", "o", "g", "dq", "dk", "dv") for d in "bhr"]
    return (
        "Q", "K", "V", "OUT", "LSE", "DO", "BOUND", "DELTA", "DQ", "DK", "DV", "ORDER", "HEADS", "Q_LIST", "K_LIST", "TABLE",
        "START", "MIDDLE", "END", "TILES", *reads, *wanted, *sums, *strides, "o_s", "delta_s", *SCALARS, "tiles", "shares",
        "share_tiles", "own_heads", "first_outer", "q_first_slot", "q_count", "k_first_slot", "k_count", "scale",
    )  # fmt: skip


def _names_in(text: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if re.search(rf"\b{name}\b", text))


def _used(body: Sequence[str]) -> list[str]:
    """Lines without the conversions of scalars that no other line reads."""
    text = "\n".join(body)
    idle = {f"{name} = {name}.to(tl.int64)" for name in SCALARS if len(re.findall(rf"\b{name}\b", text)) == 2}
    return [line for line in body if line not in idle]


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', "'")
