"""``attnspec emit``."""

from __future__ import annotations

from typing import Any

import click

from attnspec.cli.options import (
    call_sizes,
    checked,
    plan_options,
    program_of,
    size_options,
    spec_argument,
    text_of,
    tile_of,
)

STAGES = ("source", "spec", "relation", "plan", "cpp", "triton")
EXAMPLE = 200
"""Keys of the example in a Triton file."""


@click.command()
@spec_argument
@click.option("--stage", type=click.Choice(STAGES), default="plan", show_default=True, help="Which stage.")
@click.option("--backward", is_flag=True, help="The backward pass's kernel, for the stage cpp.")
@plan_options
@size_options(length=16384)
def command(spec: str, params: tuple[str, ...], stage: str, backward: bool, **options: Any) -> None:
    """Print a stage of the compiler: source, spec, relation, plan, or the kernels as C++ or Triton.

    Of the sizes only --heads, --dim and --dtype matter: a kernel serves every length. Triton's is a Python file that
    runs by itself, with an example.
    """
    if backward and stage != "cpp":
        raise click.UsageError(
            f"--backward chooses between the kernels of --stage cpp; the stage {stage} is one for both passes"
        )
    if stage == "source":
        from attnspec.language.format import format_source
        from attnspec.language.load import load

        click.echo(format_source(load(text_of(spec))[0]), nl=False)
        return
    if stage == "triton":
        click.echo(_triton(spec, params, options), nl=False)
        return
    pattern = checked(spec, params)
    if stage == "spec":
        click.echo(str(pattern))
        return
    from attnspec.relation.lower import lower

    sizes = call_sizes(pattern, options)
    relation = lower(pattern, sizes.heads, sizes.kv_heads, sizes.batch)
    if stage == "relation":
        click.echo(str(relation))
        return
    from attnspec.codegen.cpp.kernel import kernel
    from attnspec.codegen.cpp.unit import KernelKey
    from attnspec.codegen.plan.choose import plan

    dtype, dim = options["dtype"], options["dim"]
    made = plan(relation, tile_of(options), options["layout"])
    if stage == "plan":
        click.echo(str(made))
        return
    click.echo(kernel(made, KernelKey("backward" if backward else "forward", dtype, dim, dim)), nl=False)


def _triton(spec: str, params: tuple[str, ...], options: dict[str, Any]) -> str:
    from attnspec.runtime.core.program import spec as spec_of
    from attnspec.runtime.standalone import standalone

    program = program_of(spec, params, options)
    sizes = call_sizes(spec_of(program), {**options, "length": EXAMPLE, "queries": None})
    return standalone(program, sizes, options["dim"], options["dtype"])
