"""``attnspec inspect``'s text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnspec.cli.common import quantity, seconds
from attnspec.cli.insight import Insight

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from attnspec.codegen.cost import Cost
    from attnspec.decode import CacheNeed


def show(found: Insight, console: Console) -> None:
    """Print everything, a section at a time."""
    heading(found, console)
    pictures(found, console)
    if isinstance(found.cost, str):
        console.print(f"cost: {found.cost}\n")
    else:
        figures(found.cost, found, console)
        clauses(found.cost, found, console)
        predictions(found, console)
    growth(found, console)
    rows(found, console)
    decode(found, console)
    reach(found, console)
    decisions(found, console)


def heading(found: Insight, console: Console) -> None:
    """Name, parameters and docstring."""
    spec = found.spec
    bound = " ".join(f"{name}={_value(value)}" for name, value in spec.params)
    console.print(f"{spec.name} {bound}".rstrip(), style="bold", soft_wrap=True)
    if spec.doc:
        console.print(spec.doc.strip(), soft_wrap=True)
    console.print()


def pictures(found: Insight, console: Console) -> None:
    """The mask, one picture for each group of equal heads."""
    if isinstance(found.pictures, str):
        console.print(f"picture: {found.pictures}\n")
        return
    for picture in found.pictures:
        if len(found.pictures) > 1:
            console.print(f"heads {ranges(picture.heads)}", style="bold")
        console.print(picture.text)
        console.print("██ every pair  ▒▒ some  ·· none  (rows: queries, columns: keys)\n", style="dim")


def figures(cost: Cost, found: Insight, console: Console) -> None:
    """Pairs, tiles, operations, bytes."""
    s = cost.sizes
    what = f"n = {s.n:,}" + (f", {s.n_q:,} queries" if s.n_q != s.n else "")
    groups = f" ({s.kv_heads} for keys)" if s.kv_heads != s.heads else ""
    console.print(
        f"cost  {what}, {s.heads} heads{groups}, batch {s.batch}, dim {cost.dim}, {found.dtype}", style="bold"
    )
    grid = _table()
    grid.add_row("live pairs", f"{cost.pairs:,}", f"{cost.density:.3%} of {cost.dense:,}")
    grid.add_row(
        "tiles",
        f"{cost.full + cost.partial:,}",
        f"{cost.full:,} full, {cost.partial:,} partial, {cost.skipped:,} skipped",
    )
    grid.add_row("waste", f"{cost.waste:.3f}", "computed pairs for each live one")
    for name, flops, moved, intensity in (
        ("forward", cost.flops, cost.bytes, cost.intensity),
        ("backward", cost.backward_flops, cost.backward_bytes, cost.backward_intensity),
    ):
        grid.add_row(name, f"{quantity(flops)}FLOP", f"{quantity(moved)}B at least, {intensity:,.0f} FLOP per byte")
    _print(grid, console)
    console.print()


def clauses(cost: Cost, found: Insight, console: Console) -> None:
    """What each attend line contributes by itself."""
    if not found.spec.attend:
        return
    console.print("clauses  each by itself, inside the within lines", style="bold")
    shares = [0] * len(found.spec.attend)
    total = 0
    for group in cost.heads:
        for i, pairs in enumerate(group.clauses):
            shares[i] += pairs * len(group.heads)
        total += group.pairs * len(group.heads)
    grid = _table()
    for clause, pairs in zip(found.spec.attend, shares, strict=True):
        grid.add_row(clause.label, f"{pairs:,}", f"{pairs / total:.1%} of the live pairs" if total else "")
    for clause in found.spec.within:
        grid.add_row(clause.label, "", "restricts")
    _print(grid, console)
    console.print()


def predictions(found: Insight, console: Console) -> None:
    """Floors on named devices, and what was measured here."""
    if not found.predictions and found.measured is None:
        return
    console.print("time  the floor by operations and bytes", style="bold")
    grid = _table()
    for p in found.predictions:
        grid.add_row(p.device, f"forward {seconds(p.forward)}", f"backward {seconds(p.backward)}", f"{p.bound}-bound")
    if found.measured is not None:
        m = found.measured
        forward = "" if m.forward is None else f"forward {seconds(m.forward)}"
        both = "" if m.both is None else f"forward + backward {seconds(m.both)}"
        grid.add_row(f"measured here, {m.date}", forward, both, f"median of {m.runs}")
    _print(grid, console)
    console.print()


def growth(found: Insight, console: Console) -> None:
    """How cost grows with length."""
    if isinstance(found.growth, str):
        console.print(f"growth: {found.growth}\n")
        return
    slope = "" if found.exponent is None else f"  operations grow as n^{found.exponent:.2f}"
    console.print(f"growth{slope}", style="bold")
    grid = _table()
    for n, pairs, flops in found.growth:
        grid.add_row(f"n = {n:,}", f"{pairs:,} pairs", f"{quantity(flops)}FLOP forward")
    _print(grid, console)
    console.print()


def rows(found: Insight, console: Console) -> None:
    """Rows that see nothing."""
    console.print("empty rows", style="bold", end="  ")
    if isinstance(found.empty, str):
        console.print(found.empty)
    elif not found.empty:
        console.print("none: every query sees a key")
    else:
        console.print("these queries see no key: their output is 0")
        for item in found.empty:
            console.print(f"  head {item.h}: {item.rows:,} rows, the first is {item.first:,}")
    console.print()


def decode(found: Insight, console: Console) -> None:
    """The size of a key cache that loses nothing."""
    console.print("decode  keys that must stay in the cache after so many tokens", style="bold")
    if isinstance(found.decode, str):
        console.print(f"  {found.decode}\n")
        return
    grid = _table()
    if len(found.decode) > 1:
        grid.add_row("", *map(_who, found.decode))
    for i, length in enumerate(found.decode[0].lengths if found.decode else ()):
        grid.add_row(f"{length:,} tokens", *(f"{need.keys[i]:,} keys" for need in found.decode))
    _print(grid, console)
    console.print()


def reach(found: Insight, console: Console) -> None:
    """How far influence spreads over layers."""
    console.print("reach", style="bold", end="  ")
    r = found.reach
    if isinstance(r, str):
        console.print(f"{r}\n")
        return
    note = "" if r.exact else f" (at n = {r.n:,}: the sets at full length were too irregular)"
    if r.layers is None:
        console.print(f"no stack of such layers lets every position influence every later one{note}")
    else:
        console.print(f"{r.layers} layers until every position can influence every later one{note}")
    console.print("  share reached  " + ", ".join(f"{layers}: {_share(share)}" for layers, share in r.shares))
    console.print()


def decisions(found: Insight, console: Console) -> None:
    """What the compiler chose, and why."""
    console.print("decisions", style="bold")
    console.print(f"  tile {found.plan.tile}: {found.tile_reason}", soft_wrap=True)
    for line in str(found.plan).splitlines():
        console.print(f"  {line}", soft_wrap=True)


def _print(grid: Table, console: Console) -> None:
    """Print a table; a narrow terminal folds its cells and cuts none."""
    for column in grid.columns:
        column.overflow = "fold"
    console.print(grid)


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 2))


def _who(need: CacheNeed) -> str:
    heads = "all heads" if need.heads is None else f"heads {ranges(need.heads)}"
    return heads if need.b is None else f"{heads}, entry {need.b}"


def _share(value: float) -> str:
    """A share that is 100% only if it is all."""
    return "over 99.9%" if 0.9995 <= value < 1.0 else f"{value:.1%}"


def ranges(numbers: tuple[int, ...]) -> str:
    """0-3, 5."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(list(value)) if isinstance(value, tuple) else str(value)
