"""What ``attnspec bench`` prints of its rows, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnspec.cli.console import console
from attnspec.runtime.bench.peers import OWN, peers
from attnspec.spec.units import BEATEN, beats, plural, quantity, seconds

if TYPE_CHECKING:
    from rich.table import Table

    from attnspec.runtime.bench.race import Outcome
    from attnspec.runtime.bench.setup import Setup

    Row = tuple[str, Setup | None, Outcome | str]


def plain(name: str, setup: Setup | None, found: Outcome | str) -> dict[str, Any]:
    """A row as plain data."""
    if setup is None or isinstance(found, str):
        return {"spec": name, "error": found}
    s = setup.sizes
    prepared, expected = found.preparation, found.predicted
    return {
        "spec": name,
        "n": s.n,
        "n_q": s.n_q,
        "heads": s.heads,
        "kv_heads": s.kv_heads,
        "batch": s.batch,
        "dim": setup.dim,
        "dtype": setup.dtype_name,
        "device": setup.device.type,
        "backward": setup.backward,
        "runs": setup.runs,
        "seconds": {peer: {"median": t.median, "all": list(t.seconds)} for peer, t in found.timings.items()},
        "times_faster": {peer: found.ratio(peer) for peer in peers(setup.device)},
        "missing": found.missing,
        "notes": dict(found.notes),
        "predicted_seconds": expected and expected.seconds(setup.backward),
        "pairs": expected and expected.pairs,
        "useful_flops": useful(setup, found),
        "useful_share": useful_share(setup, found),
        "preparation": prepared and {"median": prepared.median, "all": list(prepared.seconds), "share": found.share},
    }


def useful(setup: Setup, found: Outcome) -> float | None:
    """Operations on live pairs in a second: two products forward, five backward (the scores are recomputed).

    None where pairs are not counted, or go through states.
    """
    pairs = None if found.predicted is None or found.predicted.states else found.predicted.pairs
    if pairs is None:
        return None
    return (14 if setup.backward else 4) * setup.dim * pairs / found.timings["attnspec"].median


def useful_share(setup: Setup, found: Outcome) -> float | None:
    """Live pairs in a second, by those of our own causal kernel: 1 where what is left out costs nothing."""
    s, pairs = setup.sizes, None if found.predicted is None else found.predicted.pairs
    if pairs is None or OWN not in found.timings:
        return None
    rows = min(s.n, s.n_q)  # those at the end of the keys: there is none before the first key
    dense = found.notes.get(OWN) == "dense"
    causal = s.heads * s.batch * (s.n * s.n_q if dense else s.n * rows - rows * (rows - 1) // 2)
    mine, theirs = found.timings["attnspec"].median, found.timings[OWN].median
    return pairs / mine / (causal / theirs) if causal else None


def show(rows: list[Row], threads: int) -> None:
    """Print a line about what was run, and a table."""
    from rich.table import Table

    out = console()
    setup = next((setup for _, setup, _ in rows if setup is not None), None)
    if setup is not None:
        s = setup.sizes
        what = "forward + backward" if setup.backward else "forward"
        where = plural(threads, "thread") if setup.device.type == "cpu" else _gpu(setup)
        out.print(
            f"{what}, {setup.dtype_name}, n = {s.n:,}, {s.heads} heads, batch {s.batch}, dim {setup.dim}, {where}; "
            f"medians of {setup.runs} interleaved runs"
            + ("; x: how many times as fast attnspec is" if len(rows) > 1 else ""),
            soft_wrap=True,
        )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    if len(rows) > 1:
        _suite(table, rows)
    else:
        _single(table, *rows[0])
    out.print(table)
    for name, setup, found in rows:
        if setup is not None and not isinstance(found, str):
            for said in filter(None, (prepared(setup, found), *(remarks(setup, found) if len(rows) == 1 else ()))):
                out.print(f"{name}: {said}" if len(rows) > 1 else said)


def _gpu(setup: Setup) -> str:
    from attnspec.runtime.bench.versions import versions

    known = versions(setup.device)
    return f"{known['device']} (driver {known['driver']}, CUDA {known['cuda']}, torch {known['torch']})"


def prepared(setup: Setup, found: Outcome) -> str:
    """What the inputs take of each call; nothing where there are none."""
    if found.preparation is None or found.share is None:
        return ""
    what = "forward + backward" if setup.backward else "forward"
    return f"preparation {seconds(found.preparation.median)} ({found.share:.2%} of the {what} time)"


def remarks(setup: Setup, found: Outcome) -> list[str]:
    """What was predicted and what is useful of what was measured; what is known of the peers."""
    said, mine = [], found.timings["attnspec"].median
    expected = None if found.predicted is None else found.predicted.seconds(setup.backward)
    if expected and found.predicted is not None:
        most = ", with tiles that the inputs may rule out" if found.predicted.bounded else ""
        said.append(
            f"predicted {seconds(expected)} from tiles and measured ceilings{most}: measured is {mine / expected:.2f}x"
        )
        if beats(mine, expected):
            said.append(BEATEN)
    if (rate := useful(setup, found)) is not None:
        share = useful_share(setup, found)
        beside = "" if share is None else f", {share:.0%} of the pairs per second of plain causal attention"
        said.append(f"useful {quantity(rate, 'FLOP/s')} on live pairs{beside}")
    for name, note in found.notes.items():
        mask = name == "FlexAttention mask"
        said.append(
            f"FlexAttention's block mask is built in {seconds(float(note))}, not counted" if mask else f"{name}: {note}"
        )
    return said


def _single(table: Table, name: str, setup: Setup | None, found: Outcome | str) -> None:
    """One spec: a line for each contender."""
    assert setup is not None
    assert not isinstance(found, str)
    for title in (name, "median", "fastest", "slowest", "attnspec is"):
        table.add_column(title, justify="left" if title == name else "right")
    for contender in ("attnspec", *peers(setup.device)):
        timing, ratio = found.timings.get(contender), found.ratio(contender)
        if timing is None:
            table.add_row(contender, "-", "", "", found.missing.get(contender, ""))
        else:
            faster = "" if contender == "attnspec" else f"{ratio:.2f}x as fast"
            table.add_row(contender, seconds(timing.median), *map(seconds, timing.spread), faster)


def _suite(table: Table, rows: list[Row]) -> None:
    """Many specs: a line for each, with medians and how many times faster than each peer."""
    setup = next((setup for _, setup, _ in rows if setup is not None), None)
    names = () if setup is None else peers(setup.device)
    table.add_column("spec", no_wrap=True)
    table.add_column("attnspec", justify="right")
    for peer in names:
        table.add_column(peer, justify="right")
        table.add_column("", justify="right")
    for name, _, found in rows:
        if isinstance(found, str):
            table.add_row(name, "-", found)
            continue
        cells = [name, seconds(found.timings["attnspec"].median)]
        for peer in names:
            ratio = found.ratio(peer)
            known = (
                [seconds(found.timings[peer].median), f"{ratio:.2f}x"]
                if ratio is not None
                else ["-", found.missing[peer]]
            )
            cells += known
        table.add_row(*cells)
