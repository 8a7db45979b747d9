"""The command line in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

COMMAND = [sys.executable, "-m", "attnspec"]


def run(*words: str, status: int = 0, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command and check its exit status."""
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, input=stdin, timeout=600, env={**os.environ, **env}
    )
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def read_json(*words: str, status: int = 0) -> Any:
    return json.loads(run(*words, "--json", status=status).stdout)
