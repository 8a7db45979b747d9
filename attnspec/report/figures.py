"""What a pattern costs, as ``attnspec inspect`` prints it: pairs, tiles, operations, bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnspec.report.insight import Insight
from attnspec.spec.units import count, quantity, ranges, share

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from attnspec.codegen.cost.cost import Cost


def figures(cost: Cost, found: Insight, console: Console) -> None:
    """Pairs, tiles, operations, bytes."""
    s = cost.sizes
    what = "one segment, " if found.spec.recurrence is not None else ""
    what += f"n = {s.n:,}" + (f", {s.n_q:,} queries" if s.n_q != s.n else "")
    groups = f" ({s.kv_heads} for keys)" if s.kv_heads != s.heads else ""
    most = "" if found.exact else "at most "
    inputs = f", {said_inputs(found, cost.inputs)}" if found.exact and (cost.inputs or found.examples) else ""
    console.print(
        f"cost  {what}, {s.heads} heads{groups}, batch {s.batch}, dim {cost.dim}, {found.dtype}{inputs}",
        style="bold",
        soft_wrap=True,
    )
    for name, (rows, columns) in found.axes.items():
        places = (f"{kind} {at[0]:,} to {at[1]:,}" for kind, at in (("queries", rows), ("keys", columns)) if at)
        console.print(f"  axis {name}: {', '.join(places)}")
    grid = table()
    if found.spec.order is None:
        grid.add_row("live pairs", f"{most}{count(cost.pairs)}", f"{cost.density:.3%} of {count(cost.dense)}")
    if not cost.kernel:
        grid.add_row("no kernel", "dense, n^2", "the formula over all pairs; what follows is the least it takes")
        _operations(cost, found, grid, "")
        show_table(grid, console)
        console.print()
        return
    grid.add_row(
        "tiles",
        f"{most}{count(cost.full + cost.partial)}",
        f"{count(cost.full)} full, {count(cost.partial)} partial, {count(cost.skipped)} skipped",
    )
    if cost.linear is not None:
        moves = cost.linear.tiles / max(1, s.heads * s.batch)
        softmax = found.spec.composed and not all(one.weights.linear for one in found.spec.alone)
        apart = "softmax and partial tiles" if softmax else "partial tiles"
        rest = "states do not pay here" if found.exact else "which tiles go through states, inputs decide"
        if cost.linear.tiles:
            rest = f"the rest through {moves:,.0f} states moves a head"
        grid.add_row("pairs", f"{most}{share(cost.apart)}", f"of the live pairs one by one ({apart}), {rest}")
    elif found.exact and cost.pairs:
        grid.add_row("waste", f"{cost.waste:.3f}", "computed pairs for each live one")
    _operations(cost, found, grid, most)
    show_table(grid, console)
    looked(found, console)
    console.print()


def _operations(cost: Cost, found: Insight, grid: Table, most: str) -> None:
    """Operations and bytes of both passes."""
    for name, flops, moved, intensity in (
        ("forward", cost.flops, cost.bytes, cost.intensity),
        ("backward", cost.backward_flops, cost.backward_bytes, cost.backward_intensity),
    ):
        said = f"{quantity(moved, 'B')} at least, {intensity:,.0f} FLOP per byte"
        if name == "forward" and cost.linear is not None:
            said += f" (pair by pair: {quantity(cost.linear.pairwise, 'FLOP')})"
        grid.add_row(name, f"{most}{quantity(flops, 'FLOP')}", said)


def looked(found: Insight, console: Console) -> None:
    """What was counted pair by pair with example inputs."""
    if found.looked is None or found.exact:
        return
    if isinstance(found.looked, str):
        console.print(f"  what the inputs leave of this is not counted: {found.looked}", soft_wrap=True)
        return
    s, heads = found.looked.sizes, found.looked.seen
    who = "each head" if found.looked.same else f"heads {ranges(tuple(one.h for one in heads))} of {s.heads}"
    pairs, tiles = sum(one.pairs for one in heads), sum(one.tiles for one in heads)
    console.print(f"  with example inputs at n = {s.n:,}, {who}: {found.looked.example.text}", soft_wrap=True)
    grid = table()
    grid.add_row("  live pairs", f"{pairs:,}", f"{pairs / max(1, len(heads) * s.n * s.n_q):.3%} of all")
    full = sum(one.full for one in heads)
    grid.add_row("  tiles with live pairs", f"{tiles:,}", f"{full:,} full, {tiles - full:,} partial")
    show_table(grid, console)


def clauses(cost: Cost, found: Insight, console: Console) -> None:
    """What each attend line contributes by itself."""
    branches = found.spec.branches
    attend = [clause for branch in branches for clause in branch.attend]
    if len(attend) < 2 or found.spec.order is not None:
        return  # one line is the whole pattern
    most = "" if found.exact else ", at most"
    console.print(f"clauses  each by itself, inside the within lines{most}", style="bold")
    shares = [0] * len(attend)
    total = 0
    for group in cost.heads:
        for i, pairs in enumerate(group.clauses):
            shares[i] += pairs * len(group.heads)
        total += group.pairs * len(group.heads)
    grid = table()
    for clause, pairs in zip(attend, shares, strict=True):
        grid.add_row(clause.label, count(pairs), f"{pairs / total:.1%} of the live pairs" if total else "")
    for clause in dict.fromkeys(clause for branch in branches for clause in branch.within):
        grid.add_row(clause.label, "", "restricts")
    show_table(grid, console)
    console.print()


def said_inputs(found: Insight, examples: str = "") -> str:
    """With which inputs something was found."""
    return f"with {'' if found.given else 'example '}inputs: {examples or found.examples}"


def table(gap: int = 5) -> Table:
    """Columns without lines or titles."""
    from rich.table import Table

    return Table(box=None, show_header=False, pad_edge=False, padding=(0, gap, 0, 0))


def show_table(grid: Table, console: Console) -> None:
    """Print a table; a narrow terminal folds its cells and cuts none."""
    if console.width < 60:
        grid.padding = (0, 2, 0, 0)
    for column in grid.columns:
        column.overflow = "fold"
        numbers = [word for cell in column.cells for word in str(cell).split() if word[0].isdigit()]
        if column is not grid.columns[-1]:  # they stay whole where sentences are folded
            column.min_width = min(12, max(map(len, numbers), default=0))
    console.print(grid)
