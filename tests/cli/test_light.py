"""Checking a spec loads little. (How quick that is: `attnspec bench --startup`.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from attnspec import cli

CODE = """
import sys
from attnspec.check.check import check_text
print(check_text("attention a(width = 4) { attend window(width) }"))
heavy = {"numpy", "torch", "islpy", "rich", "click"} & set(sys.modules)
assert not heavy, heavy
"""


def test_each_command_is_a_file_and_a_line() -> None:
    files = Path(cli.__file__).parent.joinpath("commands").glob("[!_]*.py")
    assert {path.stem for path in files} == cli.COMMANDS.keys()


def test_checking_imports_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, timeout=60)


def test_formatting_and_errors_import_nothing_heavy() -> None:
    code = """
import sys
from attnspec.language.format import format_source
from attnspec.check.check import check_text
from attnspec.errors.diagnostic import SpecError
format_source("attention a{attend q<k}")
try:
    check_text("attention a { attend widht }")
except SpecError as error:
    str(error), error.to_dict()
heavy = {"numpy", "torch", "islpy", "rich", "click"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("words", ["window width=70", "linear --ranks 8"])
def test_inspecting_a_pattern_without_inputs_does_not_import_torch(words: str) -> None:
    """Over ranks that exchange states neither: that took a second more than all else."""
    code = f"""
import sys
sys.argv = ["attnspec", "inspect", *"{words}".split(), "-n", "1024"]
from attnspec.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
