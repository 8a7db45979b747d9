"""``attnspec emit``."""

from __future__ import annotations

from typing import Any

import click

from attnspec.cli.options import (
    branch_option,
    call_sizes,
    check_branch,
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
@branch_option
@plan_options
@size_options(length=16384)
def command(spec: str, params: tuple[str, ...], stage: str, backward: bool, branch: int | None, **options: Any) -> None:
    """Print a stage of the compiler: source, spec, relation, plan, or the kernels as C++ or Triton.

    Of the sizes only --heads, --dim and --dtype matter: a kernel serves every length. Triton's is a Python file that
    runs by itself, with an example. Where branches of a mixture have lines of their own, or shares, each has kernels of
    its own: --branch says which.
    """
    if backward and stage != "cpp":
        raise click.UsageError(
            f"--backward chooses between the kernels of --stage cpp; the stage {stage} is one for both passes"
        )
    if stage == "triton":
        click.echo(_triton(spec, params, branch, options), nl=False)
        return
    if stage == "source":
        if branch is not None:
            raise click.UsageError("--branch has no meaning for the source: it is the whole text")
        from attnspec.language.format import format_source
        from attnspec.language.load import load

        click.echo(format_source(load(text_of(spec))[0]), nl=False)
        return
    pattern = checked(spec, params)
    check_branch(pattern, branch, stage == "cpp")
    pattern = pattern if branch is None else pattern.parts[branch]
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


def _triton(spec: str, params: tuple[str, ...], branch: int | None, options: dict[str, Any]) -> str:
    from attnspec.runtime.core.program import spec as spec_of
    from attnspec.runtime.standalone import standalone

    program = program_of(spec, params, options, branch)
    sizes = call_sizes(spec_of(program), {**options, "length": EXAMPLE, "queries": None})
    return standalone(program, sizes, options["dim"], options["dtype"])
