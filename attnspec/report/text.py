"""``attnspec inspect``'s text."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from attnspec.report.decode_text import show as show_decode
from attnspec.report.figures import clauses, figures, said_inputs, show_table, table
from attnspec.report.insight import Insight
from attnspec.report.segments import Following
from attnspec.report.segments_text import in_all
from attnspec.report.segments_text import show as show_segments
from attnspec.report.suggest import reason
from attnspec.spec.units import BEATEN, beats, count, plural, quantity, ranges, seconds, share

if TYPE_CHECKING:
    from rich.console import Console

    from attnspec.codegen.plan.plan import Choice


def show(found: Insight, console: Console, plan: bool = False) -> None:
    """Print everything, a section at a time; the loops of the plan only with ``plan``."""
    summary(found, console)
    if not isinstance(found.cost, str):
        predictions(found, console)
    if found.segments is None:
        growth(found, console)
        rows(found, console)
        decode(found, console)
        reach(found, console)
    else:
        segments(found.segments, console)
        growth(found, console)
        rows(found, console)
    decisions(found, console)
    if plan:
        loops(found, console)
    console.print(f"\n{verdict(found)}", style="bold", soft_wrap=True)


def summary(found: Insight, console: Console) -> None:
    """What it is, how it looks and what it costs."""
    heading(found, console)
    pictures(found, console)
    weights(found, console)
    if isinstance(found.cost, str):
        console.print(f"cost: {found.cost}\n")
    else:
        figures(found.cost, found, console)
        clauses(found.cost, found, console)
    branches(found, console)


def verdict(found: Insight) -> str:
    """What it comes to, in one line: operations beside those of all pairs, and the time here where it is known."""
    if isinstance(found.cost, str):
        return f"{found.spec.name}: {found.cost}"
    cost = found.cost
    if not cost.pairs and found.exact:
        return f"{found.spec.name} allows no pair in such a call: the output is zero"
    if isinstance(found.segments, Following):
        return in_all(found.segments)
    fewer = 4 * cost.dim * cost.dense / cost.flops if cost.flops else math.inf
    least, most = ("", "") if found.exact else ("at least ", "at most ")
    said = [f"{least}{_ratio(fewer)} fewer operations than all pairs take", f"{most}{cost.density:.1%} of pairs"]
    if fewer < 1.05:
        said = ["as many operations as all pairs take"] if found.exact else ["how many pairs there are, inputs decide"]
    if found.measured is not None and found.measured.forward is not None:
        said.append(f"forward {seconds(found.measured.forward)} measured here")
    elif found.predictions and found.predictions[0].device.startswith("this machine"):
        said.append(f"forward {seconds(found.predictions[0].forward)} here at the least")
    return "; ".join(said)


def _ratio(value: float) -> str:
    return f"{value:,.0f}x" if value >= 10 else f"{value:.1f}x"


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
    if isinstance(found.looked, str):
        console.print(f"picture: what the inputs decide is left open, as {found.looked}", soft_wrap=True)
    elif found.examples:
        n = found.sizes.n if found.looked is None else found.looked.sizes.n
        console.print(f"picture at n = {n:,}, {said_inputs(found)}", soft_wrap=True)
    for picture in found.pictures:
        if len(found.pictures) > 1 or len(picture.heads) < found.sizes.heads:
            console.print(f"heads {ranges(picture.heads)}", style="bold")
        console.print(picture.text)
        left_open = "  ?? the inputs decide" if "?" in picture.text else ""
        console.print(f"██ every pair  ▒▒ some  ·· none{left_open}  (rows: queries, columns: keys)\n", style="dim")


def weights(found: Insight, console: Console) -> None:
    """What pairs weigh, where that is not softmax alone and not said branch by branch."""
    if found.weights:
        console.print(f"weights  {found.weights}\n", soft_wrap=True)


def branches(found: Insight, console: Console) -> None:
    """What the branches of a mixture have of their own."""
    if not found.spec.composed:
        return
    how = "added up by their shares" if found.spec.shared else "mixed by their denominators"
    console.print(f"branches  each is a call of its own; {how}", style="bold")
    grid = table()
    for number, own in enumerate(found.spec.own_lines):
        grid.add_row(f"branch {number}", own or "no lines of its own")
    show_table(grid, console)
    for number, said in enumerate(found.branch_weights):
        console.print(f"weights, branch {number}  {said}", soft_wrap=True)
    console.print()


def predictions(found: Insight, console: Console) -> None:
    """Floors on named devices (on GPUs by whole tiles and programs too), and what was measured here."""
    if not found.predictions and found.measured is None and not found.measured_on:
        return
    console.print("time  the floor by operations and bytes", style="bold")
    grid = table(gap=2)
    for p in found.predictions:
        grid.add_row(p.device, f"forward {seconds(p.forward)}", f"backward {seconds(p.backward)}", f"{p.bound}-bound")
    here = (("measured here", found.measured), *((f"measured on {name}", m) for name, m in found.measured_on))
    for title, m in here:
        if m is not None:
            forward = "" if m.forward is None else f"forward {seconds(m.forward)}"
            both = "" if m.both is None else f"forward + backward {seconds(m.both)}"
            grid.add_row(f"{title}, {m.date}", forward, both, f"median of {m.runs}")
    show_table(grid, console)
    least = next((p.forward for p in found.predictions if p.device.startswith("this machine")), 0.0)
    if found.measured is not None and found.measured.forward is not None and beats(found.measured.forward, least):
        console.print(f"  measured {BEATEN}", soft_wrap=True)
    console.print()


def growth(found: Insight, console: Console) -> None:
    """How cost grows with length."""
    if isinstance(found.growth, str):
        console.print(f"growth: {found.growth}\n")
        return
    slope = "" if found.exponent is None else f"  operations grow as n^{found.exponent:.2f}"
    most = "" if found.exact else "  at most"
    console.print(f"growth{slope}{most}", style="bold")
    grid = table()
    for n, pairs, flops in found.growth:
        grid.add_row(f"n = {n:,}", f"{count(pairs)} pairs", f"{quantity(flops, 'FLOP')} forward")
    show_table(grid, console)
    console.print()


def segments(found: Following | str, console: Console) -> None:
    """How segments follow one another."""
    if isinstance(found, str):
        console.print(f"segments: {found}\n")
    else:
        show_segments(found, console)


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
            console.print(f"  head {item.h}: {plural(item.rows, 'row')}, the first is {item.first:,}")
    console.print()


def decode(found: Insight, console: Console) -> None:
    """What must stay of keys, branch by branch where each is a call of its own."""
    s = found.sizes
    layer = f"{plural(s.kv_heads, 'key head')}, batch {s.batch}, {found.dtype}"
    for number, one in enumerate(found.branch_decode):
        show_decode(one, layer, console, f", branch {number}")
    if found.branch_decode:
        said = "" if any(one.weights.linear for one in found.spec.alone) else "."
        if not said and isinstance(found.calls, str):
            said = f"; calls hand on no states: {found.calls}"
        elif not said:
            where = "anywhere" if found.calls == 1 else f"after multiples of {found.calls:,} tokens"
            said = f"; calls hand on the states of branches {where}"
        console.print(f"  attnspec.Cache holds a cache of each branch{said}\n", soft_wrap=True)
    else:
        show_decode(found.decode, layer, console)


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
        console.print(f"{plural(r.layers, 'layer')} until every position can influence every later one{note}")
    console.print("  share reached  " + ", ".join(f"{layers}: {share(reached)}" for layers, reached in r.shares))
    console.print()


def decisions(found: Insight, console: Console) -> None:
    """What the compiler chose, and why."""
    console.print("decisions", style="bold")
    tiles = ", ".join(dict.fromkeys(str(one.tile) for one in found.plan.passes))
    console.print(f"  tiles of {tiles}: {found.tile_reason}", soft_wrap=True)
    reasons = iter(list(reason(found.plan)))
    for item in found.plan.classes:
        for choice in item.choices:
            console.print(f"  {next(reasons)}", soft_wrap=True)
            if choice is not None:
                _candidates(choice, console)
    for suggestion in found.suggestions:
        console.print(f"  {suggestion}", style="bold")
    for atom in dict.fromkeys(atom for one in found.plan.passes for atom in one.tests.loose):
        said = f"{atom} bounds no tiles, as other attend lines see pairs without it: two calls would, that line alone"
        said += f" and the others within not ({atom}), joined by attnspec.merge"
        console.print(f"  suggest {said}", style="bold", soft_wrap=True)


def loops(found: Insight, console: Console) -> None:
    """The plan: the tiles of each pass as loops."""
    console.print("\nplan", style="bold")
    bare = tuple(replace(item, choices=()) for item in found.plan.classes)  # they are told above
    for line in str(replace(found.plan, classes=bare)).splitlines():
        console.print(f"  {line}", soft_wrap=True)


def _candidates(choice: Choice, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(f"candidates at {choice.where}")
    for title in ("live pairs", "computed", "waste", "tiles", "cost"):
        table.add_column(title, justify="right")
    for number, item in enumerate(choice.candidates):
        mark = "-> " if number == choice.chosen else "   "
        table.add_row(
            f"{mark}{item.text}",
            f"{item.pairs:,}",
            f"{item.computed:,}",
            f"{item.waste:.2f}",
            f"{item.tiles:,}",
            f"{item.cost:.3g}",
        )
    show_table(table, console)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(list(value)) if isinstance(value, tuple) else str(value)
