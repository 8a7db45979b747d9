"""The command line. Each command is a file of ``commands`` and is imported only when it runs."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

import click

from attnspec.errors.catalogue import nearest
from attnspec.errors.diagnostic import AttnspecError, SpecError, render

COMMANDS = {
    "bench": "Time a pattern against SDPA and compiled FlexAttention.",
    "check": "Check spec files; print nothing if they are right.",
    "compile": "Compile a pattern's Triton kernels ahead of time, for a GPU that need not be there.",
    "completion": "Print a completion script for a shell.",
    "diff": "Are two patterns equal? If not, the first pair, or the lines, in which they differ.",
    "draw": "Draw the mask as an SVG or PNG picture.",
    "emit": "Print a stage of the compiler as text.",
    "explain": "Explain a mistake by its code.",
    "fmt": "Format spec files.",
    "help": "Explain the language: a topic, a word, a pattern, a shipped spec.",
    "inspect": "Show what a pattern looks like and costs, without running it.",
    "list": "List the shipped specs, or show some in full.",
    "run": "Compile for this machine, run forward and backward, and compare with dense attention.",
}
"""Each command, a file of its name in ``commands``, with what ``--help`` says of it."""


class _Lazy(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"attnspec.cli.commands.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = nearest(args[0], COMMANDS)
            hint = f" Did you mean {close!r}?" if close else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="attnspec")
def group() -> None:
    """A compiler for attention patterns.

    SPEC is the name of a shipped spec (see `attnspec list`), a file.attn, or file.attn:name; parameters follow as
    name=value. `attnspec help` explains the language. Exit status: 0, 1 (the answer is no), 2 (the input is wrong).
    """


def main() -> None:
    """Run the command line; a user's mistake ends in a message and status 2."""
    json_wanted = "--json" in sys.argv
    try:
        group(prog_name="attnspec", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        sys.exit(141)
    except Exception as error:
        _explain(error, json_wanted)
        sys.exit(2)


def _explain(error: Exception, json_wanted: bool) -> None:
    """Say what the user can do about an error; re-raise one that is not the user's."""
    if isinstance(error, SpecError):
        if json_wanted:
            click.echo(json.dumps(error.to_dict(), indent=2))
            return
        color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        click.echo("\n\n".join(render(d, color) for d in error.diagnostics), err=True)
        first = error.diagnostics[0].code
        count = f"{len(error.diagnostics)} errors; " if len(error.diagnostics) > 1 else ""
        click.echo(f"\n{count}`attnspec explain {first}` says more", err=True)
        return
    if not isinstance(error, (AttnspecError, OSError, MemoryError)):
        raise error
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if json_wanted:
        click.echo(json.dumps({"errors": [{"title": message}]}, indent=2))
    else:
        click.echo(f"error: {message}", err=True)
