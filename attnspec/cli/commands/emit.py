"""``attnspec emit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from attnspec.codegen.cpp.unit import KernelKey, LinearKey
    from attnspec.spec.spec import Spec

STAGES = ("source", "spec", "relation", "plan", "cpp", "triton", "flex")
EXAMPLE = 200
"""Keys of the example in a Triton file."""


@click.command()
@spec_argument
@click.option("--stage", type=click.Choice(STAGES), default="plan", show_default=True, help="Which stage.")
@click.option(
    "--backward", is_flag=True, help="The backward pass's kernel, for the stage cpp; of features, that of the keys."
)
@branch_option
@plan_options
@size_options(length=16384)
def command(spec: str, params: tuple[str, ...], stage: str, backward: bool, branch: int | None, **options: Any) -> None:
    """Print a stage of the compiler: source, spec, relation, plan, or kernels as C++, Triton or a FlexAttention mask.

    Of the sizes only --heads, --dim and --dtype matter: a kernel serves every length. Triton's is a Python file that
    runs by itself, with an example. Where branches of a mixture have lines of their own, or shares, each has kernels of
    its own: --branch says which. The stage flex is a Python file that imports torch alone: mask_mod, score_mod, and a
    block_mask(n) from tiles in closed form, of 128 x 128 pairs or --tile.
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

    if stage == "cpp":
        from attnspec.codegen.expressions.reads import scores_decay
        from attnspec.spec.decayed import scored

        pattern = scored(pattern) if scores_decay(pattern) else pattern
    sizes = call_sizes(pattern, options)
    relation = lower(pattern, sizes.heads, sizes.kv_heads, sizes.batch)
    if stage == "relation":
        click.echo(str(relation))
        return
    if stage == "flex":
        from attnspec.codegen.flex.module import module

        click.echo(module(relation, tile_of(options)), nl=False)
        return
    from attnspec.codegen.cpp.kernel import kernel
    from attnspec.codegen.plan.choose import plan

    made = plan(relation, tile_of(options), options["layout"])
    if stage == "plan":
        click.echo(str(made))
        return
    click.echo(kernel(made, _key(pattern, backward, options["dtype"], options["dim"])), nl=False)


def _key(spec: Spec, backward: bool, dtype: str, dim: int) -> KernelKey | LinearKey:
    """Of a kernel for tensors of one type and head size; backward of features that which sums by keys."""
    from attnspec.codegen.cpp.unit import KernelKey, LinearKey
    from attnspec.codegen.expressions.entrywise import in_kernels
    from attnspec.codegen.expressions.reads import has_linear_kernels

    q, k, decay = spec.weights.q, spec.weights.k, spec.weights.decay is not None
    if q is None or k is None or not has_linear_kernels(spec):
        return KernelKey("backward" if backward else "forward", dtype, dim, dim)
    from attnspec.spec.feature import Vector, is_exponential, parts, size

    if spec.weights.each:  # of the first features of keys
        first, plain = parts(k)[0], "float32"
        features = size(first, dim) if len(parts(k)) > 1 else spec.weights.features(dim)
        logs = ("z" if backward else "xy") if is_exponential(first) else ""
        if backward:
            return LinearKey(True, (dtype, dtype, *[plain] * 4), dim, features, decay=decay, crossing=decay, logs=logs)
        return LinearKey(False, (plain, plain, dtype, dtype, plain, plain), features, dim, decay=decay, logs=logs)
    maps, divided, by_channel = in_kernels(spec.weights), spec.weights.divide is not None, spec.weights.by_channel
    features, types = spec.weights.features(dim), (*[dtype] * 4, "float32", "float32")
    if backward:
        one, up = ("x", "y") if divided else ("", "")
        fades = decay, "z" * by_channel, decay
        return LinearKey(True, types, dim + divided, features, one, up, ("", "", *maps), *fades)
    as_is = all(made or side == Vector() for made, side in zip(maps, (q, k), strict=True))
    own = as_is and not spec.rotations and not spec.weights.reads_mass  # kernels make vectors of length one themselves
    units = (own and "q" in spec.normalized, own and "k" in spec.normalized)
    types = types if spec.weights.delta is None else (*types[:2], "float32", *types[3:])
    one, fades = "z" if divided else "", (decay, "y" * by_channel, False)
    return LinearKey(False, types, features, dim + divided, one, "", (*maps, "", ""), *fades, units=units)


def _triton(spec: str, params: tuple[str, ...], branch: int | None, options: dict[str, Any]) -> str:
    from attnspec.codegen.expressions.reads import scores_decay
    from attnspec.runtime.core.program import spec as spec_of
    from attnspec.runtime.decayed import program_of_scores
    from attnspec.runtime.standalone import standalone

    program = program_of(spec, params, options, branch)
    program = program_of_scores(program) if scores_decay(spec_of(program)) else program
    sizes = call_sizes(spec_of(program), {**options, "length": EXAMPLE, "queries": None})
    return standalone(program, sizes, options["dim"], options["dtype"])
