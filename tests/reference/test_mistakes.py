"""What ``attnspec explain`` says of each code: its example gives it, and the mended one does not."""

from __future__ import annotations

import pytest

from attnspec.check.check import check_text
from attnspec.check.parameters import read_value
from attnspec.errors.catalogue import CODES
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.syntax import MAX_SOURCE
from attnspec.reference.mistakes import MISTAKES
from tests.check.test_errors import WAYS, _kernel
from tests.support.examples import text_of

# What `...` stands for, where the whole would be too long to print.
LONG = {"E006": "." * MAX_SOURCE, "E408": ", ".join(["0, 1"] * 519)}
STAGES = {
    "relation": _kernel,
    "kernel": _kernel,
    "triton": WAYS["triton"],
    "reach": WAYS["reach"],
    "past": WAYS["past"],
    "flex": WAYS["flex"],
}


def code_of(code: str, text: str, given: str) -> str:
    """The code of the first mistake of a text, or nothing."""
    params = {key: read_value(value) for key, _, value in (word.partition("=") for word in given.split())}
    found = MISTAKES[code].found
    heads = params.pop("heads", None)
    assert heads is None or isinstance(heads, int)
    try:
        spec = check_text(text_of(text.replace("...", LONG.get(code, "..."))), params=params)
        if found:
            STAGES[found](spec, heads)
    except SpecError as error:
        return error.diagnostics[0].code
    return ""


def test_every_code_is_explained() -> None:
    missing = CODES.keys() - MISTAKES.keys()
    assert not missing, f"explain {sorted(missing)} in attnspec/reference/mistakes.py"
    assert CODES.keys() == MISTAKES.keys()


@pytest.mark.parametrize("code", MISTAKES)
def test_the_example_gives_the_mistake_and_is_mended(code: str) -> None:
    mistake = MISTAKES[code]
    assert code_of(code, mistake.wrong, mistake.wrong_given) == code
    assert code_of(code, mistake.right, mistake.right_given) == ""
