"""The script that the README shows for models of transformers works as it is written, and prints what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shortened", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_readme_script(
    shortened: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a few steps of training, or all of them."""
    section = ROOT.joinpath("README.md").read_text(encoding="utf-8").partition("## Hugging Face in two lines\n")[2]
    script, said = (re.search(found, section, re.DOTALL) for found in (r"```python\n(.*?)```", r"```\n(Llama.*?)```"))
    assert script is not None
    assert said is not None
    monkeypatch.chdir(ROOT)
    exec(script[1].replace("range(100)", "range(2)") if shortened else script[1], {})
    assert capsys.readouterr().out == said[1]
