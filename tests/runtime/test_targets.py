"""Every target in the list is one: mypy does not look into modules that are imported by name."""

from __future__ import annotations

from importlib import import_module
from inspect import Parameter, signature

import pytest

from attnspec.runtime.targets import NAMES, TARGETS, Target, kinds, target_of


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("function", ["forward", "backward"])
def test_signatures(name: str, function: str) -> None:
    _, *wanted = signature(getattr(Target, function)).parameters.values()
    given = list(signature(getattr(import_module(TARGETS[name].module), function)).parameters.values())
    same, more = given[: len(wanted)], given[len(wanted) :]
    assert [(p.name, p.annotation, p.kind) for p in same] == [(p.name, p.annotation, p.kind) for p in wanted]
    assert all(p.default is not Parameter.empty for p in more)


def test_tensors_run_where_they_are() -> None:
    assert NAMES == ("auto", "cpp", "triton", "dense")
    assert kinds("auto") == kinds("dense") == kinds("triton") == ("cpu", "cuda")
    assert kinds("cpp") == ("cpu",)
    cpp, triton = (import_module(place.module) for place in TARGETS.values())
    assert [target_of("auto", "cpu"), target_of("auto", "cuda"), target_of("triton", "cpu")] == [cpp, triton, triton]
