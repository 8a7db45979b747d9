"""The command line, called in this process: one of its own takes two seconds to import what a command needs."""

from __future__ import annotations

import io
import json
import os
import sys
from subprocess import CompletedProcess
from typing import Any
from unittest import mock

import pytest

from attnspec.cli import main


def run(*words: str, status: int = 0, stdin: str | None = "", **env: str) -> CompletedProcess[str]:
    """Run the command and check its exit status; without ``stdin`` (None) standard input is closed."""
    streams = [io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8") for text in (stdin or "", "", "")]
    found: Any = 0
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ, env):  # what a command changes is undone
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, None if name == "stdin" and stdin is None else stream)
        patch.setattr(sys, "argv", ["attnspec", *words])
        try:
            main()
        except SystemExit as stop:
            found = stop.code or 0
    out, err = (_written(stream) for stream in streams[1:])
    assert found == status, f"status {found}\n{out}\n{err}"
    return CompletedProcess(words, found, out, err)


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def read_json(*words: str, status: int = 0, stdin: str = "") -> Any:
    return json.loads(run(*words, "--json", status=status, stdin=stdin).stdout)
