"""The host side of a Triton module: how each kernel is launched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnspec.codegen.plan.plan import Pass
from attnspec.codegen.triton.context import FORWARD, KEYS, QUERIES, Context, Kind
from attnspec.codegen.triton.held import HeldNames
from attnspec.codegen.triton.parameters import Parameter
from attnspec.codegen.triton.schedule import Schedule
from attnspec.codegen.triton.softmax import sums as triton_sums
from attnspec.codegen.triton.usage import without_idle

_SIGNATURES = {
    "forward": "q, k, v, out, lse, norms, scale, given, precision, shares",
    "queries": "q, k, v, dout, norm, delta, dq, scale, given, gradients, precision",
    "keys": "q, k, v, dout, norm, delta, dk, dv, scale, given, precision",
}


@dataclass(frozen=True)
class Launch:
    """A kernel with what decides how it is launched."""

    kind: Kind
    pass_: Pass
    number: int
    heads: tuple[int, ...] | None
    parameters: tuple[Parameter, ...]

    @property
    def name(self) -> str:
        """The kernel's name."""
        return f"{self.kind.name}_{self.number}"


def launches(found: Sequence[Launch], schedule: Schedule, context: Context) -> str:
    """The functions ``launch_forward``, ``launch_queries`` and ``launch_keys``."""
    return "\n\n\n".join(
        "\n".join(_function(kind, [one for one in found if one.kind is kind], schedule, context))
        for kind in ((FORWARD,) if context.held.paged else (FORWARD, QUERIES, KEYS))
    )


def given_names(found: Sequence[Launch]) -> list[str]:
    """What ``given`` must hold for these kernels, by name."""
    return list(dict.fromkeys(p.given.format(kernel=one.name) for one in found for p in one.parameters if p.given))


def _function(kind: Kind, found: list[Launch], schedule: Schedule, context: Context) -> Iterator[str]:
    yield f"def launch_{kind.name}({_SIGNATURES[kind.name]}):"
    yield from (f"    {line}" for line in without_idle(list(_lines(kind, found, schedule, context))))


def _lines(kind: Kind, found: list[Launch], schedule: Schedule, context: Context) -> Iterator[str]:
    yield f'"""Launch the {kind.name} kernels, pass after pass."""'
    held = context.held
    yield f"{held.batch}, {held.heads}, {held.rows} = q.shape[:3]"
    if held.paged:
        yield "kv_heads, n = k.shape[1], given['pages'][2]  # the longest entry"
    else:
        yield f"{held.kv_heads}, {held.keys} = k.shape[1:3]"
    if held.part:
        yield "q_start, k_start, h_start, b_start, n, n_q, heads, kv_heads, batch = given['part']"
    yield "m = given.get('m', n)"
    if kind is FORWARD:
        yield f"if {held.keys} == 0:"
        if not context.carry:
            yield "    out.zero_(), lse.fill_(float('-inf')), begin(norms, None)"
    else:
        yield f"if {held.keys} == 0 or {held.rows} == 0:"
    yield "    return"
    if not held.part:
        yield f"q_start = {'n - n_q' if held.q_start else '0'}"
    sums = triton_sums.allocate(context) if kind is QUERIES else ()
    yield from sums
    for one in found:
        yield from _launch(one, schedule, context, bool(sums))
    if sums:
        yield from triton_sums.flush(context)


def _tiles(one: Launch, name: str, held: HeldNames) -> str:
    """How many tiles of queries or keys a residue has at most."""
    layout = one.pass_.layout
    size = one.pass_.tile.rows if name == "q" else one.pass_.tile.columns
    if layout.order:
        return f"n // {size} + 2" if name == "q" else f"triton.cdiv({layout.order[1]} * n, {size})"
    if layout.listed[0 if name == "q" else 1]:
        return f"triton.cdiv(given['{one.name}.{name}_count'], {size}) + 1"
    span = layout.residues * size
    if name == "k" and not held.part:
        return f"triton.cdiv(n, {span})"
    if held.paged:
        return f"(n_q + {span - 2}) // {span} + 1"  # wherever an entry's queries stand
    start, count = ("q_start", held.rows) if name == "q" else (held.k_start, held.keys)
    return f"({start} + {count} - 1) // {span} - {start} // {span} + 1"


def _launch(one: Launch, schedule: Schedule, context: Context, summed: bool) -> Iterator[str]:
    kind, layout, held = one.kind, one.pass_.layout, context.held
    shape = schedule.of(kind.name)
    yield f"tiles = {_tiles(one, kind.outer, held)}"
    if kind is FORWARD:
        branch = one.pass_.branch if context.separate else 0
        yield f"own, line, norm = out[{branch}], lse[{branch}], norms[{branch}]"
        if context.shares:
            yield f"share_tiles = triton.cdiv({_tiles(one, 'k', held)}, shares)"
    if summed:
        yield f"shape = ({held.batch}, {held.heads}, {layout.residues} * tiles)"
        yield "sums = {name: q.new_zeros(shape, dtype=torch.float32) for name in totals}"
    if one.heads is not None:
        yield from _by_class(one, one.heads, shape, held)
    elif (kind is KEYS and not layout.order) or (kind is FORWARD and context.heads > 1):
        yield f"group = {held.heads} // {held.kv_heads}"
        yield from _call(one, shape, held.kv_heads, held, "")
    else:
        yield "group = 1"
        yield from _call(one, shape, held.heads, held, "")
    if summed:
        yield "for name, sum_ in sums.items():"
        yield "    totals[name] += sum_.sum(-1)"


def _by_class(one: Launch, heads: tuple[int, ...], shape: object, held: HeldNames) -> Iterator[str]:
    """Launches for some of the heads. By key tile, heads that share their keys share a program, or take turns."""
    first = "h_start" if held.part else "0"
    which = f"held_of({heads!r}, h_start, held_heads)" if held.part else repr(heads)
    pad = ""
    if one.kind is not KEYS:
        yield f"own_heads, group = head_list({which}, q.device), 1"
        if held.part:
            yield "if own_heads.numel():"
            pad = "    "
        yield from _call(one, shape, "own_heads.numel()", held, pad)
        return
    group = "1" if one.pass_.layout.order is not None else f"{held.heads} // {held.kv_heads}"
    yield f"for own_heads, group in head_groups({which}, {group}, q.device, {first}):"
    yield from _call(one, shape, "own_heads.numel() // group", held, "    ")


def _call(one: Launch, shape: object, rows: str, held: HeldNames, pad: str) -> Iterator[str]:
    residues = one.pass_.layout.residues
    count = [
        "tiles",
        *([str(residues)] if residues > 1 else []),
        *(["shares"] if one.kind is FORWARD else []),
        rows,
        held.batch,
    ]
    arguments = [*(f"{p.name}={p.host.format(kernel=one.name, rows=rows)}" for p in one.parameters), str(shape)]
    yield f"{pad}{one.name}[({' * '.join(count)},)]({', '.join(arguments)})"
