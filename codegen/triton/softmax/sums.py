"""Gradients of entries of float inputs that all pairs of a head share (``slope[h]``): summed in a fixed order.

Each program of the kernels by query tile writes the sum of its pairs; the sums of a head are added up by torch, and one
program adds them to the entries, head after head.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.triton.context import Context
from attnspec.codegen.triton.functions import Entry
from attnspec.codegen.triton.parameters import PLACES, SCALARS


def _entries(context: Context) -> list[tuple[int, Entry]]:
    return [(n, entry) for n, entry in enumerate(context.gradient.entries) if not entry.moves]


def kernels(context: Context) -> Iterator[str]:
    """The kernels that add sums to entries."""
    held, sizes = context.held, _sizes(context)
    for n, entry in _entries(context):
        extra = [p.name for p in entry.place.inputs]
        given = {name: f"{name}.to({context.pos})" for name in (*SCALARS, "h", "b")}
        arguments = ", ".join(given.get(a, a) for a in entry.place.arguments)
        start = (" + h_start", " + b_start") if held.part else ("", "")
        yield "\n".join(
            [
                "@triton.jit",
                f"def flush_{n}({', '.join(['TOTAL', 'TO', *extra, *sizes])}):",
                f'    """Add the total of each head of each batch entry to its entry of {entry.argument}."""',
                *(f"    {name} = as_index({name})" for name in sizes),
                f"    for at in range(0, {held.batch} * {held.heads}):",
                f"        h = as_index(at % {held.heads}){start[0]}",
                f"        b = as_index(at // {held.heads}){start[1]}",
                f"        place, inside = {entry.place.name}({arguments})",
                "        old = tl.load(TO + place, mask=inside, other=0.0)",
                "        tl.store(TO + place, old + tl.load(TOTAL + at), mask=inside)",
            ]
        )


def _sizes(context: Context) -> tuple[str, ...]:
    """The integers that the kernels take."""
    return (*SCALARS, *PLACES) if context.held.part else SCALARS


def allocate(context: Context) -> list[str]:
    """Room for the totals of those inputs whose gradient is wanted."""
    entries = _entries(context)
    if not entries:
        return []
    names = ", ".join(f"'SUM{n}': {entry.argument!r}" for n, entry in entries)
    return [
        f"names = {{{names}}}",
        "wanted = [name for name, of in names.items() if of in gradients]",
        f"shape = ({context.held.batch}, {context.held.heads})",
        "totals = {name: q.new_zeros(shape, dtype=torch.float32) for name in wanted}",
    ]


def flush(context: Context) -> Iterator[str]:
    """Add the totals to the gradients."""
    for n, entry in _entries(context):
        extra = [p.host for p in entry.place.inputs]
        yield f"if 'SUM{n}' in totals:"
        arguments = ", ".join([f"totals['SUM{n}']", f"gradients[{entry.argument!r}]", *extra, *_sizes(context)])
        yield f"    flush_{n}[(1,)]({arguments}, enable_fp_fusion=True)"
