"""``attnspec emit``."""

from __future__ import annotations

from typing import Any

import click

from attnspec.cli.common import call_sizes, checked, plan_options, size_options, spec_argument, tile_of

STAGES = ("source", "spec", "relation", "plan", "cpp")


@click.command()
@spec_argument
@click.option("--stage", type=click.Choice(STAGES), default="plan", show_default=True, help="Which stage.")
@click.option("--backward", is_flag=True, help="The backward pass's kernel, for the stage cpp.")
@plan_options
@size_options(length=16384)
def command(spec: str, params: tuple[str, ...], stage: str, backward: bool, **options: Any) -> None:
    """Print a stage of the compiler: source, spec, relation, plan, or the kernel's C++.

    Of the sizes only --heads, --dim and --dtype matter: a kernel serves every length.
    """
    if stage == "source":
        from attnspec.format import format_source
        from attnspec.load import load

        click.echo(format_source(load(spec)[0]), nl=False)
        return
    pattern = checked(spec, params)
    if stage == "spec":
        click.echo(str(pattern))
        return
    from attnspec.lower import lower

    sizes = call_sizes(pattern, options)
    relation = lower(pattern, sizes.heads, sizes.kv_heads, sizes.batch)
    if stage == "relation":
        click.echo(str(relation))
        return
    from attnspec.codegen.choose import plan
    from attnspec.codegen.kernel import kernel
    from attnspec.codegen.key import KernelKey

    dtype, dim = options["dtype"], options["dim"]
    made = plan(relation, tile_of(options), options["layout"])
    if stage == "plan":
        click.echo(str(made))
        return
    click.echo(kernel(made, KernelKey("backward" if backward else "forward", dtype, dim, dim)), nl=False)
