"""One pass as a Triton kernel: which tile a program has, which tiles it visits, and the text around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnspec.codegen.plan.plan import Pass, Sweep
from attnspec.codegen.triton import decide, edges
from attnspec.codegen.triton.context import FORWARD, KEYS, QUERIES, Context, Kind
from attnspec.codegen.triton.functions import Function
from attnspec.codegen.triton.loops import Run, runs, statements, walk
from attnspec.codegen.triton.parameters import CONSTANTS, NUMBERS, PLACES, SCALARS, TENSORS, Parameter, gradient, sums
from attnspec.codegen.triton.softmax.backward import Keys, Queries
from attnspec.codegen.triton.softmax.body import Body
from attnspec.codegen.triton.softmax.forward import Forward
from attnspec.codegen.triton.usage import made, mentioned, without_idle
from attnspec.relation.loops import Loops


@dataclass(frozen=True)
class Kernel:
    """The text of a kernel with its tile function, and its parameters."""

    text: str
    parameters: tuple[Parameter, ...]


def kernel(kind: Kind, pass_: Pass, number: int, sweep: Sweep, context: Context, heads: Sequence[int] | None) -> Kernel:
    """The kernel of one pass; ``heads`` are those of its class, None for all."""
    body = {FORWARD: Forward, QUERIES: Queries, KEYS: Keys}[kind](kind, pass_, number, context, heads)
    tile = _tile_function(body)
    lines = without_idle(
        [*_decode(body), *body.outer.place("o"), *body.start(), *_tiles(body, sweep, tile), *body.end()]
    )
    used = mentioned("\n".join(lines))
    taken = [p for p in (*parameters(context, pass_), *CONSTANTS) if p.name in used]
    names = [f"{p.name}: tl.constexpr" if p in CONSTANTS else p.name for p in taken]
    head = [
        f"@triton.jit(do_not_specialize={[p.name for p in taken if p.type == 'count']!r})",
        f"def {kind.name}_{number}({', '.join(names)}):",
        f'    """{kind.title}: {_plain(pass_.title)}."""',
    ]
    whole = "\n".join([*head, *(f"    {line}" for line in lines)])
    return Kernel(f"{tile.text}\n\n\n{whole}", tuple(taken))


def parameters(context: Context, pass_: Pass) -> tuple[Parameter, ...]:
    """All that a kernel may take from its caller, constants apart, in order."""
    entries = context.gradient.entries
    functions = (
        *decide.functions(context, pass_),
        *(context.value, context.gradient.function, *context.scalars.values()),
        *(entry.place for entry in entries),
    )
    reads = dict.fromkeys(p for function in functions for p in function.inputs)
    gradients = dict.fromkeys(gradient(entry.argument) for entry in entries)
    own = () if context.held.part else ("n", *PLACES) if context.held.paged else PLACES  # what kernels find themselves
    numbers = (p for p in NUMBERS if p.name not in own)
    return (*TENSORS, *reads, *gradients, *map(sums, context.sums), *numbers)


def _decode(body: Body) -> Iterator[str]:
    """Which tile, residue, head and batch entry a program has. The heaviest query tiles come first."""
    context, residues = body.context, body.pass_.layout.residues
    held = context.held
    known = SCALARS[1:] if held.paged else SCALARS
    for name in (*known, *(PLACES if held.part else ())):
        yield f"{name} = {name}.to(tl.int64)"
    yield "program = tl.program_id(0).to(tl.int64)"
    yield "number, program = program % tiles, program // tiles"
    if residues > 1:
        yield f"c, program = program % {residues}, program // {residues}"
    if body.kind is FORWARD and context.shares:
        yield "share, program = program % shares, program // shares"
    count = held.heads if body.heads is None else "own_heads"
    if body.kind is KEYS or body.packed:
        if body.heads is None and not body.repeats:
            count = held.kv_heads
        yield f"x = program % {count}"
        yield from body.head("x * GROUP")  # the first of the heads that share these keys
    else:
        yield from body.head(f"program % {count}")
    yield f"{held.b} = program // {count}"
    if held.part:
        yield f"b = {held.b} + b_start"
    if held.paged:
        yield "n = tl.load(LENGTHS + b)  # each entry has keys of its own"
        yield "k_pages = PAGES + b * pages_b"
    if held.q_start and not held.part:
        yield f"{held.q_start} = n - n_q  # the position of query row 0"
    yield f"kv = {held.h} // ({held.heads} // {held.kv_heads})"
    yield from body.side("q").begin()
    yield from body.side("k").begin()
    if body.kind.outer == "q":
        yield f"o = {body.outer.last_tile()} - number"
        yield f"if o < {body.outer.first_tile()}:"
    else:
        yield f"o = {body.outer.first_tile()} + number" if held.part else "o = number"
        yield f"if o > {body.outer.last_tile()}:"
    yield "    return"


def _tiles(body: Body, sweep: Sweep, tile: Function) -> Iterator[str]:
    """Visit the tiles; by key tile, those of each head that shares the keys."""
    lines = [*body.heads_of_inner(), *_visits(body, sweep, tile)]
    if body.kind is not KEYS:
        yield from lines
        return
    yield "for one in range(0, GROUP):"
    yield from (f"    {line}" for line in lines)


def _visits(body: Body, sweep: Sweep, tile: Function) -> Iterator[str]:
    pass_, context = body.pass_, body.context
    outer, inner = body.outer, body.inner
    yield from decide.extent(pass_, outer)
    if sweep.full is None or sweep.maybe is None or sweep.partial is None:
        yield from _table(body, tile)
        return
    yield f"{'i' if body.kind.outer == 'q' else 'j'} = o"
    for name, function in context.scalars.items():
        yield f"{name} = {context.call(function)}.to(tl.int64)"
    yield from _ends(body)
    yield from decide.window(context, pass_, outer, inner)
    spans = pass_.tests.spans(outer.name)
    ranges = (("lo", "near_hi"), ("far_lo", "hi")) if spans else (("lo", "hi"),)
    full, maybe, partial = (runs(loops.body) for loops in (sweep.full, sweep.maybe, sweep.partial))
    if full is None or maybe is None or partial is None:
        yield from _nests(body, tile, sweep.full, sweep.maybe, sweep.partial)
        return
    if inner.cut and full:
        yield from edges.find(ranges, inner)
        full, cut = edges.inside(full, ranges, inner), edges.outside(full, ranges, inner)
    else:
        full, cut = edges.within(full, ranges), ()
    if maybe and decide.splits(pass_) and not spans:
        # Tiles that inputs may make full are full in a run of tiles, and partial before and after it.
        yield from decide.whole(pass_, outer, inner)
        yield "hi_before, lo_after = tl.minimum(hi, whole_lo - 1), tl.maximum(lo, whole_hi + 1)"
        within = edges.within(maybe, [("whole_lo", "whole_hi")])
        rest = edges.within(maybe, [("lo", "hi_before"), ("lo_after", "hi")])
        yield from _walk(body, tile, (*full, *within), False, False)
        yield from _walk(body, tile, (*rest, *cut, *partial), True, False)
        return
    maybe, partial = edges.within(maybe, ranges), edges.within(partial, ranges)
    yield from _walk(body, tile, full, False, False)
    if decide.runs_decide(pass_) if spans else maybe and decide.blocks_decide(pass_):
        if pass_.tests.runs or inner.cut:
            yield from decide.whole(pass_, outer, inner)
        yield from _walk(body, tile, maybe, False, True, every=True)
        if decide.asks_twice(pass_, inner):
            yield from _walk(body, tile, maybe, True, True, every=False)
        yield from _walk(body, tile, (*cut, *partial), True, True)
    else:
        yield from _walk(body, tile, (*cut, *maybe, *partial), True, True)


def _ends(body: Body) -> Iterator[str]:
    """The first and last inner tile that the program may visit."""
    first, last = body.inner.first_tile(), body.inner.last_tile()
    if body.kind is FORWARD and body.context.shares:
        if body.context.held.part:
            yield f"lo = {first} + share * share_tiles"
            yield f"hi = tl.minimum(lo + share_tiles - 1, {last})"
        else:
            yield "lo = share * share_tiles"
            yield "hi = lo + share_tiles - 1"
    elif body.context.held.part:
        yield f"lo, hi = {first}, {last}"
    else:
        yield "lo, hi = as_index(-(1 << 40)), as_index(1 << 40)"


def _walk(
    body: Body, tile: Function, found: tuple[Run, ...], partial: bool, asks: bool, every: bool | None = None
) -> Iterator[str]:
    """One loop over runs of tiles; ``asks`` says that tiles are skipped of which inputs leave nothing."""
    if found:
        yield f"# {'Partial' if partial else 'Full'} tiles."
        yield from walk(
            found, body.kind.tile, lambda pad: _visit(body, tile, body.kind.tile, pad, partial, asks, every)
        )


def _nests(body: Body, tile: Function, full: Loops, maybe: Loops, partial: Loops) -> Iterator[str]:
    """Loops inside loops, as they are; what inputs may make full is partial."""

    def nest(loops: Loops, masks: bool, lo: str, hi: str) -> Iterator[str]:
        def write(at: str, pad: str) -> list[str]:
            return _visit(body, tile, at, pad, masks, masks)

        if loops.body:
            if (lo, hi) != ("lo", "hi"):
                yield f"lo, hi = {lo}, {hi}"
            yield f"# {'Partial' if masks else 'Full'} tiles."
            yield from statements(loops, write, 0).splitlines()

    if not body.inner.cut or body.inner.listed:
        yield from nest(full, body.inner.cut, "lo", "hi")
    elif full.body:
        yield from edges.find([("lo", "hi")], body.inner)
        yield "held_lo, held_hi = lo, hi"
        yield from nest(full, False, "in_lo0", "in_hi0")
        yield from nest(full, True, "held_lo", "before0")
        yield from nest(full, True, "after0", "held_hi")
        yield "lo, hi = held_lo, held_hi"
    yield from nest(maybe, True, "lo", "hi")
    yield from nest(partial, True, "lo", "hi")


def _table(body: Body, tile: Function) -> Iterator[str]:
    """Tiles from a list: full ones, then partial ones. A part leaves out those that it does not hold."""
    at, inner = body.kind.tile, body.inner
    parts = [("START", "MIDDLE", False, ""), ("MIDDLE", "END", True, "")]
    if body.context.held.part:
        yield from _ends(body)
        there = f"({at} >= lo) & ({at} <= hi)"
        parts = [(begin, end, partial, there) for begin, end, partial, _ in parts]
        if inner.cut and inner.listed:
            parts = [("START", "END", True, there)]
        elif inner.cut:
            yield from edges.find([("lo", "hi")], inner)
            cut = f"{there} & ((place >= middle) | ({at} < in_lo0) | ({at} > in_hi0))"
            parts = [("START", "MIDDLE", False, f"({at} >= in_lo0) & ({at} <= in_hi0)"), ("START", "END", True, cut)]
    yield "row = tl.load(TABLE + b * heads + h) + o - first_outer"
    yield "middle = tl.load(MIDDLE + row)"
    for begin, end, partial, condition in parts:
        yield f"# {'Partial' if partial else 'Full'} tiles."
        first, last = ("middle" if name == "MIDDLE" else f"tl.load({name} + row)" for name in (begin, end))
        yield f"for place in range({first}, {last}):"
        yield f"    {at} = tl.load(TILES + place)"
        if condition:
            yield f"    if {condition}:"
        yield from _visit(body, tile, at, "        " if condition else "    ", partial, partial)


def _visit(
    body: Body, tile: Function, at: str, pad: str, partial: bool, asks: bool, every: bool | None = None
) -> list[str]:
    """The statements that visit a tile."""
    names = {body.kind.tile: at, "PARTIAL": str(partial)}
    arguments = [names.get(a, a) for a in tile.arguments]
    ask = decide.ask(body.context, body.pass_, body.outer, body.inner, at, every) if asks else None
    inside = pad if ask is None else f"{pad}    "
    call = f"{inside}{', '.join(body.state)} = {tile.name}({', '.join(arguments)})"
    return [*([] if ask is None else [f"{pad}{ask}"]), call]


def _tile_function(body: Body) -> Function:
    """The function that visits one tile: it takes what it needs and returns the state."""
    lines = list(body.tile())
    sides = (f"{s}_{x}" for s in "qk" for x in ("list", "begin", "end", "at", "slot", "live"))
    blocks = (f"{name}{n}" for name in "qkvg" for n in range(2))
    known = (
        *("c", "q_start", *PLACES, "h", "b", *SCALARS, "k_pages"),
        *("q_head", "k_head", "v_head", "g_head", "norm_line", "delta_line", "top", "total", "delta"),
        *sides,
        *blocks,
        *(p.name for p in parameters(body.context, body.pass_)),
    )
    text = "\n".join(lines)
    used, here = mentioned(text), {*made(text), *body.state}
    taken = [name for name in dict.fromkeys(known) if name in used and name not in here]
    arguments = (*body.state, body.kind.tile, *taken)
    name = f"{body.kind.name}_tile_{body.number}"
    constants = ("PARTIAL", "PRECISION")
    signature = ", ".join([*arguments, *(f"{c}: tl.constexpr" for c in constants)])
    side = "keys" if body.kind.outer == "q" else "queries"
    full = [
        "@triton.jit",
        f"def {name}({signature}):",
        f'    """A tile of {side}, number {body.kind.tile}."""',
        *(f"    {line}" for line in lines),
        f"    return {', '.join(body.state)}",
    ]
    return Function(name, (*arguments, *constants), "\n".join(full))


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', "'")
