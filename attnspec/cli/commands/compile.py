"""``attnspec compile``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.console import console
from attnspec.cli.options import branch_option, call_sizes, json_option, plan_options, program_of, spec_argument
from attnspec.codegen.cost.gpus import GPUS

if TYPE_CHECKING:
    from attnspec.codegen.cost.gpus import Gpu
    from attnspec.runtime.triton.ahead import Built


@click.command()
@spec_argument
@click.option(
    "--arch",
    "arches",
    type=click.Choice(tuple(GPUS)),
    multiple=True,
    default=("sm_90",),
    show_default=True,
    help="GPU to compile for; may be given several times.",
)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@plan_options
@click.option(
    "--heads", type=click.IntRange(1, 1 << 14), help="Query heads.  [default: 8, or what the spec's lists cover]"
)
@click.option("--kv-heads", type=click.IntRange(1, 1 << 14), help="Key heads, if fewer than query heads.")
@click.option("--queries", type=click.IntRange(1), help="Queries of a call, where they are few.  [default: many]")
@click.option("--part", is_flag=True, help="Kernels for parts of a call, which add to given results.")
@click.option("--dim", type=click.IntRange(1, 256), default=64, show_default=True, help="Head size.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="bfloat16",
    show_default=True,
    help="Element type.",
)
@branch_option
@json_option
def command(
    spec: str, params: tuple[str, ...], arches: tuple[str, ...], branch: int | None, as_json: bool, **options: Any
) -> None:
    """Compile a pattern's Triton kernels for GPUs that need not be there.

    Writes the source, PTX and cubin (for AMD: assembly and code object) of each kernel with a table of registers,
    spills, shared memory and occupancy. Exit status 1: a kernel spills, or needs more shared memory than the GPU has.
    """
    os.environ.pop("TRITON_INTERPRET", None)  # an interpreter compiles nothing
    from attnspec.cli.console import progress
    from attnspec.runtime.core.program import needed
    from attnspec.runtime.core.program import spec as spec_of
    from attnspec.runtime.triton.ahead import build

    program = program_of(spec, params, options, branch)
    sizes = call_sizes(spec_of(program), {**options, "length": 1024, "queries": None, "batch": 1})
    which = needed(program, sizes.heads, sizes.kv_heads, 1)
    group = sizes.heads // sizes.kv_heads
    found: list[tuple[Gpu, Built]] = []
    with progress(spec) as tick:
        for arch in arches:
            tick(arch)
            given = (options["dim"], options["dtype"], GPUS[arch], group, options["queries"], options["part"])
            found.append((GPUS[arch], build(program, which, *given)))
    rows = [row for gpu, built in found for row in _rows(gpu, built)]
    if options["output"]:
        for gpu, built in found:
            _write(options["output"] / gpu.name, built, [row for row in rows if row["arch"] == gpu.name])
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        console().print(_table(rows))
    bad = [row for row in rows if not row["fits"]]
    for row in bad:
        why = f"spills {row['spilled']} bytes a thread" if row["spilled"] else "needs more shared memory than there is"
        click.echo(f"{row['kernel']} on {row['arch']} {why}", err=True)
    if bad:
        tiles = "a smaller one" if options["tile"] else "one such as --tile 32x32"
        wide = ", and bfloat16 fewer than float32" if options["dtype"] == "float32" else ""
        click.echo(f"smaller tiles take fewer registers and less memory: try {tiles}{wide}", err=True)
        sys.exit(1)


def _rows(gpu: Gpu, built: Built) -> list[dict[str, Any]]:
    return [
        {
            "arch": gpu.name,
            "kernel": kernel.name,
            "tile": str(kernel.shape.tile),
            "warps": kernel.shape.warps,
            "stages": kernel.shape.stages,
            "registers": kernel.usage.registers,
            "spilled": kernel.usage.spilled,
            "shared": kernel.usage.shared,
            "blocks": kernel.usage.blocks(gpu),
            "occupancy": kernel.usage.occupancy(gpu),
            "fits": kernel.usage.fits(gpu),
        }
        for kernel in built.kernels
    ]


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("GPU", "kernel", "tile"):
        table.add_column(column, no_wrap=True)
    for column in ("warps", "stages", "regs", "spilled", "shared", "blocks", "occupancy"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        numbers = [str(row[name]) for name in ("warps", "stages", "registers", "spilled", "shared", "blocks")]
        table.add_row(row["arch"], row["kernel"], row["tile"], *numbers, f"{row['occupancy']:.0%}")
    return table


def _write(folder: Path, built: Built, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.py").write_text(built.text, encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    for kernel in built.kernels:
        for suffix, code in kernel.code.items():
            path = folder / f"{kernel.name}.{suffix}"
            if isinstance(code, bytes):
                path.write_bytes(code)
            else:
                path.write_text(code, encoding="utf-8")
