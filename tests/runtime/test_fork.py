"""A process that was forked after a call with several threads: it must end, with the right result."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys, warnings, torch, attnspec
torch.set_num_threads(2)
q = torch.randn(1, 2, 3000, 32, requires_grad=True)
attend = attnspec.compile("window", width=100)
wanted = attend(q, q, q)
wanted.sum().backward()
child = os.fork()
if child == 0:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = attend(q, q, q)
        out.sum().backward()
    assert [str(w.message).startswith("attnspec: this process was forked") for w in caught] == [True], caught
    os._exit(0 if torch.equal(out, wanted) and torch.get_num_threads() == 1 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_process_does_not_hang() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
