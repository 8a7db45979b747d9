"""Each mistake is reported as the golden file beside it says: ``pytest --update-golden`` rewrites them.

The first line of a spec may give the attention and parameters: ``# check: name width=3``. With ``# lower: heads=4`` it
is right so far, and wrong on the way to a kernel for that many heads; with ``# triton:`` to a Triton kernel; with
``# reach:`` the mistake is to ask for its reach, with ``# past:`` that it looks ahead.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from attnspec.analysis.past import require_past
from attnspec.analysis.reach import reach
from attnspec.check.check import check_text, problems_of
from attnspec.check.parameters import read_value
from attnspec.codegen.cpp.kernel import kernel
from attnspec.codegen.cpp.unit import KernelKey
from attnspec.codegen.flex.module import module as export
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.triton.module import Plans, TritonKey, module
from attnspec.codegen.triton.schedule import schedule_for
from attnspec.errors.catalogue import CODES
from attnspec.errors.diagnostic import SpecError, render
from attnspec.errors.source import Source
from attnspec.errors.syntax import MAX_SOURCE
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec

FOLDER = Path(__file__).parent / "cases"
SPECS = sorted(FOLDER.glob("*.attn"))


def errors_of(path: Path) -> SpecError:
    text = path.read_text(encoding="utf-8")
    first = re.match(r"# (check|lower|triton|reach|past|flex):(.*)", text)
    way, words = (first[1], first[2].split()) if first else ("check", [])
    params = {key: read_value(value) for key, sign, value in (word.partition("=") for word in words) if sign}
    name = next((word for word in words if "=" not in word), None)
    if way == "check":
        with pytest.raises(SpecError) as caught:
            check_text(text, name, params, path.name)
        return caught.value
    spec, heads = check_text(text, filename=path.name), params.get("heads")
    assert heads is None or isinstance(heads, int)
    with pytest.raises(SpecError) as caught:
        WAYS[way](spec, heads)
    return caught.value


def _kernel(spec: Spec, heads: int | None) -> None:
    kernel(plan(lower(spec, heads)), KernelKey("forward", "float32", 64, 64))


def _triton(spec: Spec, heads: int | None) -> None:
    made = plan(lower(spec, heads))
    module(Plans(made, made, made), TritonKey(64, 64), schedule_for(64, 2, 1024))


def _reach(spec: Spec, heads: int | None) -> None:
    reach((lower(spec, heads), Sizes(16, 16)))


def _past(spec: Spec, heads: int | None) -> None:
    require_past(lower(spec, heads))


def _flex(spec: Spec, heads: int | None) -> None:
    export(lower(spec, heads))


WAYS = {"lower": _kernel, "triton": _triton, "reach": _reach, "past": _past, "flex": _flex}


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_golden(path: Path, update_golden: bool) -> None:
    found = str(errors_of(path)) + "\n"
    golden = path.with_suffix(".err")
    if update_golden:
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_every_code_has_an_example() -> None:
    seen = {d.code for path in SPECS for d in errors_of(path).diagnostics}
    assert set(CODES) - seen == {"E006"}  # a file of its own would be too long


def test_too_long() -> None:
    with pytest.raises(SpecError, match="E006"):
        check_text("#" * (MAX_SOURCE + 1))
    check_text("attention a {}" + "#" * (MAX_SOURCE - 14))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_errors_are_data(path: Path) -> None:
    error = errors_of(path)
    data = json.loads(json.dumps(error.to_dict()))["errors"]
    text = path.read_text(encoding="utf-8")
    for given, diagnostic in zip(data, error.diagnostics, strict=True):
        assert given["code"] == diagnostic.code
        first = given["labels"][0]
        assert first["file"] == path.name
        assert 0 <= first["start"] <= first["end"] <= len(text)
        line = text.split("\n")[first["line"] - 1]
        assert text[first["start"] :][:1] in ("", "\n") or line[first["column"] - 1] == text[first["start"]]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_color_changes_nothing_else(path: Path) -> None:
    for diagnostic in errors_of(path).diagnostics:
        assert re.sub(r"\x1b\[[0-9;]*m", "", render(diagnostic, color=True)) == render(diagnostic)


def test_problems_without_a_choice_of_attention() -> None:
    assert problems_of(Source("t", "attention a(x) { attend q < x } attention c {}")) == ()
    assert [d.code for d in problems_of(Source("t", "attention a(x) { attend q < y } pattern p = x"))] == [
        "E011",
        "E011",
    ]
    assert [d.code for d in problems_of(Source("t", ""))] == ["E017"]
    assert [d.code for d in problems_of(Source("t", "#" * 200_001))] == ["E006"]


def test_terminal_control_characters_are_not_printed() -> None:
    with pytest.raises(SpecError) as caught:
        check_text("attention a { attend \x1b[31mq }", filename="evil\x1b[0m")
    assert "\x1b" not in str(caught.value)
