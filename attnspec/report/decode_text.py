"""``attnspec inspect``'s text about decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnspec.analysis.cache_size import CacheSize
from attnspec.analysis.state_size import StateNeed, StateSize
from attnspec.report.decode import Decode
from attnspec.report.figures import show_table, table
from attnspec.spec.units import plural, quantity, ranges

if TYPE_CHECKING:
    from rich.console import Console

    from attnspec.analysis.cache_need import CacheNeed


def show(found: Decode, layer: str, console: Console, of: str = "") -> None:
    """Print it; ``layer`` says of what layer bytes are, ``of`` of which branch all is."""
    if found.states is not None:
        _show_states(found.states, console, of)
    else:
        _show_keys(found, layer, console, of)


def _show_keys(found: Decode, layer: str, console: Console, of: str) -> None:
    """The size of a key cache that loses nothing, and what it keeps."""
    console.print(f"decode{of}  keys that must stay in the cache after so many tokens", style="bold")
    size = found.cache if isinstance(found.cache, CacheSize) else None
    if isinstance(found.needs, str):
        console.print(f"  {found.needs}")
    else:
        grid = table()
        if len(found.needs) > 1:
            grid.add_row("", *map(_who, found.needs))
        for i, length in enumerate(found.needs[0].lengths if found.needs else ()):
            keys = (f"{'' if need.exact else 'at most '}{plural(need.keys[i], 'key')}" for need in found.needs)
            grid.add_row(plural(length, "token"), *keys, *([f"{quantity(size.bytes[i])}B"] if size else []))
        show_table(grid, console)
    if size is not None:
        kept: dict[str, list[int]] = {}
        for item in size.kept:
            kept.setdefault(str(item.retention), []).extend(item.heads)
        for said, heads in kept.items():
            who = "" if len(kept) == 1 else f"key heads {ranges(tuple(heads))}: "
            console.print(f"  kept by attnspec.Cache: {who}{said}", soft_wrap=True)
        console.print(f"  bytes: keys and values of a layer, {layer}", soft_wrap=True)
    console.print()


def _show_states(size: StateSize | str, console: Console, of: str) -> None:
    """What is left of keys where weights are products of features."""
    console.print(f"decode{of}  states and keys that must stay for a head after so many tokens", style="bold")
    if isinstance(size, StateSize):
        grid = table()
        if len(size.needs) > 1:
            grid.add_row("", *map(_who, size.needs))
        for i, length in enumerate(size.lengths):
            kept = (f"{plural(need.states[i], 'state')}, {plural(need.keys[i], 'key')}" for need in size.needs)
            grid.add_row(plural(length, "token"), *kept, f"{quantity(size.bytes[i])}B")
        show_table(grid, console)
    console.print(f"  {size}\n", soft_wrap=True)


def _who(need: CacheNeed | StateNeed) -> str:
    heads = "all heads" if need.heads is None else f"heads {ranges(need.heads)}"
    return heads if need.b is None else f"{heads}, entry {need.b}"
