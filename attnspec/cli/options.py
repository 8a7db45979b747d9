"""What several commands share: the spec argument, parameters, and sizes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attnspec.codegen.tiles import LAYOUTS

if TYPE_CHECKING:
    import torch

    from attnspec.check.check import Signature
    from attnspec.codegen.tiles import Tile
    from attnspec.relation.sizes import Sizes
    from attnspec.runtime.attention import Attention
    from attnspec.runtime.core.program import Program
    from attnspec.spec.spec import Spec

F = TypeVar("F", bound=Callable[..., Any])


class _LengthType(click.ParamType):  # type: ignore[type-arg]
    """``65536``, ``64k`` (of 1,024), ``1M`` (of 1,048,576) or ``1e6``."""

    name = "LENGTH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).replace("_", "").replace(",", "")
        unit = {"k": 1 << 10, "m": 1 << 20}.get(text[-1:].lower(), 1)
        try:
            length = float(text[:-1] if unit > 1 else text) * unit
        except ValueError:
            self.fail(f"{value!r} is not a length, as 65536, 64k or 1e6 are", param, ctx)
        if not 1 <= length <= 1 << 33 or length != int(length):
            self.fail(f"{value!r} is not a whole number from 1 to 2**33", param, ctx)
        return int(length)


LENGTH, _HEADS = _LengthType(), click.IntRange(1, 1 << 14)


def complete_spec(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Shipped names, and files."""
    from click.shell_completion import CompletionItem

    from attnspec.language.load import shipped

    names = [CompletionItem(name) for name in shipped() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def complete_params(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """``name=`` for the parameters of the spec named before."""
    from click.shell_completion import CompletionItem

    try:
        found = signature_of(ctx.params["spec"]).parameters
    except Exception:  # completion must never fail loudly
        return []
    return [CompletionItem(f"{p.name}=") for p in found if p.name.startswith(incomplete)]


def spec_argument(function: F, required: bool = True) -> F:
    """The SPEC argument and the parameters after it."""
    params = click.argument("params", nargs=-1, metavar="[NAME=VALUE]...", shell_complete=complete_params)
    return click.argument("spec", required=required, shell_complete=complete_spec)(params(function))


def size_options(length: int | None, device: bool = False) -> Callable[[F], F]:
    """Options for the sizes of a call, with a default length (None: the command chooses one).

    With ``device``, ``--device`` too: the command then calls :func:`device_option_of`, which settles the element type.
    """

    def decorate(function: F) -> F:
        options = [
            click.option(
                "-n",
                "--length",
                type=LENGTH,
                default=length,
                show_default="chosen for the pattern" if length is None else True,
                help="Keys; beside axes, the n of their sizes. 64k is 65,536, 1e6 a million.",
            ),
            click.option("--queries", type=LENGTH, help="Query rows, if not as many as keys."),
            click.option(
                "--heads",
                type=_HEADS,
                help="Query heads.  [default: 8, or what the spec's lists cover]",
            ),
            click.option("--kv-heads", type=_HEADS, help="Key heads, if fewer than query heads."),
            click.option("--batch", type=_HEADS, default=1, show_default=True, help="Batch entries."),
            click.option("--dim", type=click.IntRange(1, 256), default=64, show_default=True, help="Head size."),
            click.option(
                "--dtype",
                type=click.Choice(["float32", "bfloat16", "float16"]),
                default=None if device else "float32",
                show_default=not device,
                help="Element type.  [default: float32; bfloat16 on cuda]" if device else "Element type.",
            ),
        ]
        if device:
            choice = click.Choice(["cpu", "cuda"])
            options.append(
                click.option("--device", type=choice, default="cpu", show_default=True, help="Where the tensors are.")
            )
        return functools.reduce(lambda f, option: option(f), reversed(options), function)

    return decorate


def device_option_of(options: dict[str, Any]) -> torch.device:
    """The device that ``--device`` names; sets the element type that goes with it where none is asked for.

    A usage error where the device is not there.
    """
    from attnspec.runtime.core.device import DeviceError, device_of

    try:
        device = device_of(options["device"])
    except DeviceError as error:
        raise click.UsageError(str(error)) from None
    if options["dtype"] is None:
        options["dtype"] = "float32" if device.type == "cpu" else "bfloat16"
    return device


class _TileType(click.ParamType):  # type: ignore[type-arg]
    """``128x64``: two multiples of 16."""

    name = "ROWSxCOLUMNS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(p.isdecimal() and int(p) % 16 == 0 and 16 <= int(p) <= 512 for p in parts):
            self.fail(f"{value!r} is not two multiples of 16 between 16 and 512, as in 128x64", param, ctx)
        return int(parts[0]), int(parts[1])


def plan_options(function: F) -> F:
    """``--tile`` and ``--layout``, which override what the compiler chooses."""
    tile = click.option("--tile", type=_TileType(), help="Tile size, queries x keys.  [default: chosen]")
    layout = click.option(
        "--layout",
        type=click.Choice(LAYOUTS),
        default="auto",
        show_default=True,
        help="Let the compiler choose layouts and passes, or one pass over positions in their order.",
    )
    return tile(layout(function))


def tile_of(options: dict[str, Any]) -> Tile | None:
    """The tile that ``--tile`` asks for."""
    from attnspec.codegen.tiles import Tile

    return None if options["tile"] is None else Tile(*options["tile"])


def input_option(function: F) -> F:
    """``--input``, with which inputs are given."""
    return click.option(
        "--input",
        "given",
        multiple=True,
        metavar="NAME=VALUE",
        help="An input: a number for all entries, a list, a .npy file, or lengths:512 for documents of that mean "
        "length; several times for several inputs.  "
        "[default: examples]",
    )(function)


def read_inputs(words: tuple[str, ...]) -> dict[str, Any]:
    """The values of ``--input``: integers, booleans and lists of the language, decimal numbers, arrays from files."""
    import numpy as np

    from attnspec.check.parameters import read_value

    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.UsageError(f"inputs are given as name=value, not {word!r}")
        if name in found:
            raise click.UsageError(f"the input {name} is given twice")
        if value.startswith("lengths:"):
            from attnspec.runtime.prepare.given import Lengths

            mean = value.removeprefix("lengths:")
            if not mean.isdecimal() or int(mean) < 1:
                raise click.UsageError(f"{name}: lengths:512 is documents of mean length 512, not {value!r}")
            found[name] = Lengths(int(mean))
            continue
        if value.endswith(".npy"):
            try:
                found[name] = np.load(value, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise click.UsageError(f"{name}: {error}") from None
            continue
        try:
            found[name] = float(value) if "." in value else read_value(value, f"{name}=")
        except ValueError:
            raise click.UsageError(f"{name} is a number, a list or a .npy file, not {value!r}") from None
    return found


def json_option(function: F) -> F:
    """The ``--json`` switch."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


def read_params(params: tuple[str, ...]) -> dict[str, Any]:
    """``name=value`` words as a mapping."""
    from attnspec.check.parameters import read_value

    found: dict[str, Any] = {}
    for word in params:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.UsageError(f"parameters are given as name=value, not {word!r}")
        if name in found:
            raise click.UsageError(f"the parameter {name} is given twice")
        found[name] = read_value(value, f"{name}=")
    return found


def params_of(number: int, params: tuple[str, ...], patterns: int) -> tuple[str, ...]:
    """The parameters of one of several patterns: ``name=value`` is for all of them, ``2:name=value`` for the second."""
    chosen = []
    for word in params:
        which, colon, rest = word.partition(":")
        if not colon or not which.isdecimal():
            chosen.append(word)
        elif not 1 <= int(which) <= patterns:
            raise click.UsageError(f"{word!r} is for pattern {which}, and there are {patterns}")
        elif int(which) == number:
            chosen.append(rest)
    return tuple(chosen)


def signature_of(spec: str) -> Signature:
    """The parameters of a spec."""
    from attnspec.check.check import signature
    from attnspec.errors.source import Source
    from attnspec.language.load import load
    from attnspec.language.parse import parse

    text, filename, name = load(text_of(spec))
    return signature(parse(Source(filename, text)), name)


def text_of(spec: str) -> str:
    """A SPEC as it is, or for ``-`` the text on standard input."""
    if spec != "-":
        return spec
    text = piped()
    if not text.strip():
        raise click.UsageError("`-` reads a spec from standard input, and that is empty")
    return f"{text}\n"


def piped() -> str:
    """What is on standard input: nothing, where that is closed."""
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        click.echo("reading a spec from standard input, up to Ctrl-D", err=True)
    return sys.stdin.read()


def checked(spec: str, params: tuple[str, ...]) -> Spec:
    """The checked pattern of the command line's spec and parameters."""
    from attnspec.check.check import check_text
    from attnspec.language.load import load

    text, filename, name = load(text_of(spec))
    return check_text(text, name, read_params(params), filename)


branch_option = click.option(
    "--branch", type=click.IntRange(0), help="Of a mixture: this one of its branches, from 0, as a pattern of its own."
)


def check_branch(pattern: Spec, branch: int | None, kernels: bool) -> None:
    """Refuse a branch that is not there, and none where ``kernels`` are asked for and each branch has its own."""
    last = len(pattern.mixture) - 1
    if branch is not None and branch > last:
        has = f"branches 0 to {last}" if pattern.mixture else "no branches"
        raise click.UsageError(f"there is no branch {branch}: {pattern.name} has {has}")
    if branch is None and kernels and pattern.composed:
        raise click.UsageError(f"the branches of {pattern.name} have kernels of their own: say --branch 0 to {last}")


def program_of(spec: str, params: tuple[str, ...], options: dict[str, Any], branch: int | None = None) -> Program:
    """A spec, or one of its branches, for Triton, with the tile and layout that are asked for."""
    from attnspec.language.load import load
    from attnspec.runtime.core.program import Program
    from attnspec.runtime.core.program import spec as spec_of
    from attnspec.runtime.weights import program_of_branch

    text, filename, name = load(text_of(spec))
    program = Program.of(text, filename, name, read_params(params), options["tile"], options["layout"], "triton")
    check_branch(spec_of(program), branch, True)
    return program if branch is None else program_of_branch(program, branch)


def call_sizes(pattern: Spec, options: dict[str, Any], whole: bool = False) -> Sizes:
    """The sizes of the call that the options describe. Beside axes the length is the pattern's own ``n``.

    Of a pattern of segments a call is one of them: the length is then at most theirs, and if it was asked for and is
    longer, a usage error, unless it is that of the ``whole`` sequence.
    """
    from attnspec.relation.lower import listed_heads
    from attnspec.relation.sizes import Sizes
    from attnspec.spec.axes import lengths

    heads = options["heads"] or listed_heads(pattern) or 8
    kv_heads = options["kv_heads"] or heads
    if heads % kv_heads:
        raise click.UsageError(f"{heads} query heads cannot be shared among {kv_heads} key heads")
    n, n_q, m = options["length"], options["queries"] or options["length"], None
    if pattern.axes:
        if options["queries"]:
            raise click.UsageError(f"the axes of {pattern.name} say how many queries there are: leave out --queries")
        m = n
        if (recurrence := pattern.recurrence) is not None:
            m = min(n, recurrence.recur.size)
            source = click.get_current_context().get_parameter_source("length")
            if n > m and not whole and source is click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(
                    f"{pattern.name} is the pattern of one segment, of at most {m:,} positions on the axis "
                    f"`{recurrence.recur.axis}`: give a smaller -n; `attnspec inspect` tells of whole sequences"
                )
        n, n_q = lengths(pattern.axes, m)
    elif pattern.order is not None and n_q != n:
        raise click.UsageError(f"{pattern.name} orders positions: there are as many queries as keys")
    return Sizes(n, n_q, heads, kv_heads, options["batch"], pattern.align == "end", m)


def require_pairs(attend: Attention, sizes: Sizes) -> None:
    """A usage error for a pattern that is known to allow no pair in a call of these sizes."""
    from contextlib import suppress

    from attnspec.relation.presburger import TooHard, budget
    from attnspec.relation.relation import box

    relation = attend.relation_for(heads=sizes.heads, kv_heads=sizes.kv_heads, batch=sizes.batch)
    if not relation.exact:
        return
    some = False
    with suppress(TooHard):
        for item in relation.classes:
            with budget(item.pairs):
                some = some or not item.pairs.intersection(box(sizes)).fix(n=sizes.n, n_q=sizes.n_q).is_empty()
        if not some:
            name = attend.spec.name
            raise click.UsageError(
                f"{name} allows no pair in such a call: its output is zero, and there is nothing to run"
            )
