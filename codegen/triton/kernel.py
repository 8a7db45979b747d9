"""One pass as a Triton kernel: which tile a program has, which tiles it visits, and the text around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnspec.codegen.plan.plan import Pass, Sweep
from attnspec.codegen.plan.spans import ALWAYS
from attnspec.codegen.triton import decide
from attnspec.codegen.triton.context import FORWARD, KEYS, QUERIES, Context, Kind
from attnspec.codegen.triton.functions import Function
from attnspec.codegen.triton.loops import Run, renamed, runs, statements, walk
from attnspec.codegen.triton.parameters import CONSTANTS, NUMBERS, SCALARS, TENSORS, Parameter, gradient, sums
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
    return (*TENSORS, *reads, *gradients, *map(sums, context.sums), *NUMBERS)


def _decode(body: Body) -> Iterator[str]:
    """Which tile, residue, head and batch entry a program has. The heaviest query tiles come first."""
    context, residues = body.context, body.pass_.layout.residues
    for name in SCALARS:
        yield f"{name} = {name}.to(tl.int64)"
    yield "program = tl.program_id(0).to(tl.int64)"
    yield "number, program = program % tiles, program // tiles"
    if residues > 1:
        yield f"c, program = program % {residues}, program // {residues}"
    if body.kind is FORWARD and context.shares:
        yield "share, program = program % shares, program // shares"
    count = "own_heads" if body.heads is not None else "heads"
    if body.kind is KEYS:
        if body.heads is None and not body.repeats:
            count = "kv_heads"
        yield f"x, b = program % {count}, program // {count}"
        # The first of the heads that share these keys.
        yield "h = tl.load(HEADS + x * GROUP).to(tl.int64)" if body.heads is not None else "h = x * GROUP"
    elif body.heads is not None:
        yield f"h, b = tl.load(HEADS + program % {count}).to(tl.int64), program // {count}"
    else:
        yield "h, b = program % heads, program // heads"
    yield "kv = h // (heads // kv_heads)"
    if context.align == "end":
        yield "offset = n - n_q  # the position of query row 0"
    yield from body.side("q").begin()
    yield from body.side("k").begin()
    if body.kind.outer == "q":
        yield f"o = {body.outer.last_tile()} - number"
        yield f"if o < {body.outer.first_tile()}:"
    else:
        yield "o = number"
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
    yield from decide.extent(pass_, body.outer)
    if sweep.full is None or sweep.maybe is None or sweep.partial is None:
        yield from _table(body, tile)
        return
    yield f"{'i' if body.kind.outer == 'q' else 'j'} = o"
    for name, function in context.scalars.items():
        yield f"{name} = {context.call(function)}.to(tl.int64)"
    if body.kind is FORWARD and context.shares:
        yield "lo = share * share_tiles"
        yield "hi = lo + share_tiles - 1"
    else:
        yield "lo, hi = as_index(-(1 << 40)), as_index(1 << 40)"
    yield from decide.window(context, pass_, body.outer, body.inner)
    full, maybe, partial = (runs(loops.body) for loops in (sweep.full, sweep.maybe, sweep.partial))
    if full is None or maybe is None or partial is None:
        yield from _nests(body, tile, sweep.full, sweep.maybe, sweep.partial)
    elif pass_.tests.spans(body.outer.name):
        full, maybe, partial = (
            (*renamed(found, {"hi": "near_hi"}), *renamed(found, {"lo": "far_lo"})) for found in (full, maybe, partial)
        )
        yield from _walk(body, tile, full, False, False)
        if decide.runs_decide(pass_):
            yield from decide.whole(pass_, body.outer, body.inner)
            yield from _walk(body, tile, maybe, False, True, every=True)
            yield from _walk(body, tile, maybe, True, True, every=False)
            yield from _walk(body, tile, partial, True, True)
        else:
            yield from _walk(body, tile, (*maybe, *partial), True, True)
    elif maybe and decide.splits(pass_):
        # Tiles that inputs may make full are full in a run of tiles, and partial before and after it.
        yield from decide.whole(pass_, body.outer, body.inner)
        yield "hi_before, lo_after = tl.minimum(hi, whole_lo - 1), tl.maximum(lo, whole_hi + 1)"
        within = renamed(maybe, {"lo": "whole_lo", "hi": "whole_hi"})
        before, after = renamed(maybe, {"hi": "hi_before"}), renamed(maybe, {"lo": "lo_after"})
        yield from _walk(body, tile, (*full, *within), False, False)
        yield from _walk(body, tile, (*before, *after, *partial), True, False)
    elif maybe and decide.blocks_decide(pass_):
        yield from _walk(body, tile, full, False, False)
        yield from _walk(body, tile, maybe, False, True, every=True)
        if pass_.tests.every != ALWAYS:
            yield from _walk(body, tile, maybe, True, True, every=False)
        yield from _walk(body, tile, partial, True, True)
    else:
        yield from _walk(body, tile, full, False, False)
        yield from _walk(body, tile, (*maybe, *partial), True, True)


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
    for loops, masks in ((full, False), (maybe, True), (partial, True)):
        if loops.body:

            def write(at: str, pad: str, masks: bool = masks) -> list[str]:
                return _visit(body, tile, at, pad, masks, masks)

            yield f"# {'Partial' if masks else 'Full'} tiles."
            yield from statements(loops, write, 0).splitlines()


def _table(body: Body, tile: Function) -> Iterator[str]:
    """Tiles from a list: full ones, then partial ones."""
    yield "row = tl.load(TABLE + b * heads + h) + o - first_outer"
    for begin, end, partial in (("START", "MIDDLE", False), ("MIDDLE", "END", True)):
        yield f"# {'Partial' if partial else 'Full'} tiles."
        yield f"for place in range(tl.load({begin} + row), tl.load({end} + row)):"
        yield f"    {body.kind.tile} = tl.load(TILES + place)"
        yield from _visit(body, tile, body.kind.tile, "    ", partial, partial)


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
        *("c", "offset", "h", "b", *SCALARS),
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
