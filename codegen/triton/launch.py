"""The host side of a Triton module: how each kernel is launched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnspec.codegen.plan.plan import Pass
from attnspec.codegen.triton.context import FORWARD, KEYS, QUERIES, SCALARS, Context, Kind
from attnspec.codegen.triton.names import given, is_data, sized
from attnspec.codegen.triton.schedule import Schedule
from attnspec.codegen.triton.softmax import sums as triton_sums

_SIGNATURES = {
    "forward": "q, k, v, out, lse, scale, given, precision, shares",
    "queries": "q, k, v, dout, bound, delta, dq, scale, given, gradients, precision",
    "keys": "q, k, v, dout, bound, delta, dk, dv, scale, given, precision",
}
_TENSORS = {"Q": "q", "K": "k", "V": "v", "OUT": "own", "LSE": "line", "DO": "dout", "BOUND": "bound", "DELTA": "delta",
            "DQ": "dq", "DK": "dk", "DV": "dv"}  # fmt: skip
_STRIDED = {"q": "q", "k": "k", "v": "v", "o": "own", "g": "dout", "dq": "dq", "dk": "dk", "dv": "dv"}


@dataclass(frozen=True)
class Launch:
    """A kernel with what decides how it is launched."""

    kind: Kind
    item: Pass
    number: int
    heads: tuple[int, ...] | None
    parameters: tuple[str, ...]


def launches(found: Sequence[Launch], schedule: Schedule, own: Context) -> str:
    """The functions ``launch_forward``, ``launch_queries`` and ``launch_keys``."""
    return "\n\n\n".join(
        "\n".join(_function(kind, [one for one in found if one.kind is kind], schedule, own))
        for kind in (FORWARD, QUERIES, KEYS)
    )


def given_names(found: Sequence[Launch]) -> list[str]:
    """What ``given`` must hold for these kernels, by name."""
    return list(dict.fromkeys(name for one in found for p in one.parameters if (name := _given(p, one)) is not None))


def _given(parameter: str, one: Launch) -> str | None:
    """The name in ``given`` of what a parameter reads."""
    own = f"{one.kind.name}_{one.number}"
    if is_data(parameter):
        return parameter
    if parameter in ("Q_LIST", "K_LIST", "TABLE", "START", "MIDDLE", "END", "TILES"):
        return f"{own}.{parameter.lower()}"
    if parameter in ("q_first_slot", "q_count", "k_first_slot", "k_count", "first_outer"):
        return f"{own}.{parameter}"
    return "order" if parameter == "ORDER" else None


def _function(kind: Kind, found: list[Launch], schedule: Schedule, own: Context) -> Iterator[str]:
    lines = list(_lines(kind, found, schedule, own))
    for line in lines:
        name = line.strip().partition(" = ")[0]
        if name not in ("m", "offset", "group") or sum(len(re.findall(rf"\b{name}\b", x)) for x in lines) > line.count(
            name
        ):
            yield line


def _lines(kind: Kind, found: list[Launch], schedule: Schedule, own: Context) -> Iterator[str]:
    yield f"def launch_{kind.name}({_SIGNATURES[kind.name]}):"
    yield f'    """Launch the {kind.name} kernels, pass after pass."""'
    yield "    batch, heads, n_q = q.shape[:3]"
    yield "    kv_heads, n = k.shape[1:3]"
    yield "    m = given.get('m', n)"
    yield "    if n == 0:" if kind is FORWARD else "    if n == 0 or n_q == 0:"
    if kind is FORWARD:
        yield "        if not CARRY:"
        yield "            out.zero_(), lse.fill_(float('-inf'))"
    yield "        return"
    offset = "n - n_q" if own.align == "end" else "0"
    yield f"    offset = {offset}"
    sums = triton_sums.allocate(own) if kind is QUERIES else ()
    yield from (f"    {line}" for line in sums)
    for one in found:
        yield from _launch(one, schedule, own, bool(sums))
    if sums:
        yield from (f"    {line}" for line in triton_sums.flush(own))


def _tiles(one: Launch) -> str:
    """How many outer tiles a residue has at most."""
    layout, name = one.item.layout, one.kind.outer
    size = one.item.tile.rows if name == "q" else one.item.tile.columns
    if layout.order:
        return f"n // {size} + 2" if name == "q" else f"triton.cdiv({layout.order[1]} * n, {size})"
    if layout.listed[0 if name == "q" else 1]:
        own = f"{one.kind.name}_{one.number}.{name}"
        return f"triton.cdiv(given['{own}_count'], {size}) + 1"
    span = layout.residues * size
    return f"(offset + n_q - 1) // {span} - offset // {span} + 1" if name == "q" else f"triton.cdiv(n, {span})"


def _launch(one: Launch, schedule: Schedule, own: Context, summed: bool) -> Iterator[str]:
    kind, layout = one.kind, one.item.layout
    shape = schedule.of(kind.name)
    yield f"    tiles = {_tiles(one)}"
    if kind is FORWARD:
        branch = one.item.branch if own.separate else 0
        yield f"    own, line = out[{branch}], lse[{branch}]"
        if own.shares:
            yield f"    share_tiles = triton.cdiv(triton.cdiv({_keys(one)}, {one.item.tile.columns}), shares)"
    if summed:
        yield f"    shape = (batch, heads, {layout.residues} * tiles)"
        yield "    sums = {name: q.new_zeros(shape, dtype=torch.float32) for name in totals}"
    if one.heads is not None:
        yield from _by_class(one, one.heads, shape)
    elif kind is KEYS and not layout.order:
        yield "    group = heads // kv_heads"
        yield from _call(one, shape, "kv_heads", "    ")
    else:
        yield "    group = 1"
        yield from _call(one, shape, "heads", "    ")
    if summed:
        yield "    for name, sum_ in sums.items():"
        yield "        totals[name] += sum_.sum(-1)"


def _by_class(one: Launch, heads: tuple[int, ...], shape: object) -> Iterator[str]:
    """Launches for some of the heads. By key tile, heads that share their keys share a program, or take turns."""
    if one.kind is not KEYS:
        yield f"    own_heads, group = head_list({heads!r}, q.device), 1"
        yield from _call(one, shape, "own_heads.numel()", "    ")
        return
    alone = one.item.layout.order is not None
    yield f"    for own_heads, group in head_groups({heads!r}, {'1' if alone else 'heads // kv_heads'}, q.device):"
    yield from _call(one, shape, "own_heads.numel() // group", "        ")


def _keys(one: Launch) -> str:
    """How many slots the keys of a residue have at most."""
    layout = one.item.layout
    if layout.order:
        return f"{layout.order[1]} * n"
    if layout.listed[1]:
        return f"given['{one.kind.name}_{one.number}.k_count']"
    return f"triton.cdiv(n, {layout.residues})"


def _call(one: Launch, shape: object, rows: str, pad: str) -> Iterator[str]:
    residues = one.item.layout.residues
    count = [
        "tiles",
        *([str(residues)] if residues > 1 else []),
        *(["shares"] if one.kind is FORWARD else []),
        rows,
        "batch",
    ]
    arguments = [*(f"{p}={_argument(p, one, rows)}" for p in one.parameters), str(shape)]
    yield f"{pad}{one.kind.name}_{one.number}[({' * '.join(count)},)]({', '.join(arguments)})"


def _argument(parameter: str, one: Launch, rows: str) -> str:
    if (name := _given(parameter, one)) is not None:
        return f"given[{name!r}]"
    if parameter in _TENSORS:
        return _TENSORS[parameter]
    if sized(parameter):
        return given(parameter)
    if parameter.startswith("D_"):
        return f"gradients.get({parameter.removeprefix('D_')!r})"
    if parameter.startswith("SUM"):
        return f"sums.get({parameter!r})"
    if parameter in ("o_s", "delta_s"):
        return f"{'out' if parameter == 'o_s' else 'delta'}.stride(0)"
    fixed = {"GROUP": "group", "PRECISION": "precision", "HEADS": "own_heads", "own_heads": rows}
    if parameter in fixed:
        return fixed[parameter]
    if parameter in (*SCALARS, "tiles", "shares", "share_tiles", "scale"):
        return parameter
    tensor, _, axis = parameter.rpartition("_")
    return f"{_STRIDED[tensor]}.stride({'bhr'.index(axis)})"
