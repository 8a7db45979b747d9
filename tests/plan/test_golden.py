"""Every stage of every shipped spec as golden text: what a change does to the compiler shows up as a readable diff."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import attnspec
from attnspec.codegen.cpp.kernel import kernel
from attnspec.codegen.cpp.unit import KernelKey
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.plan.plan import Plan
from attnspec.relation.lower import lower
from tests.support.marks import slow

GOLDEN = Path(__file__).parent / "golden"


def stages(name: str) -> str:
    """Spec, relation, plan and the generated part of the kernel (the hand-written library is left out)."""
    spec = attnspec.read(name)
    relation = lower(spec, 8)
    made = plan(relation)
    parts = {"spec": spec, "relation": relation, "plan": made}
    if spec.softmax_only and not spec.composed:
        parts["kernel (generated part)"] = _generated(made)
    for number, part in enumerate(spec.parts if spec.composed else ()):
        branch = plan(lower(part, 8))
        parts |= {f"branch {number}: spec": part, f"branch {number}: plan": branch}
        if part.softmax_only:
            parts[f"branch {number}: kernel (generated part)"] = _generated(branch)
    return "".join(f"==== {title}\n{part}\n" for title, part in parts.items())


def _generated(made: Plan) -> str:
    text = kernel(made, KernelKey("forward", "float32", 64, 64))
    generated = re.search(r"^[^\n]*\nstruct Pass0 \{.*?^struct Pattern \{.*?^\};$", text, re.DOTALL | re.MULTILINE)
    assert generated is not None
    return generated.group()


LONG = ("swin",)


@pytest.mark.parametrize("name", [slow(name) if name in LONG else name for name in attnspec.shipped()])
def test_stages(name: str, update_golden: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    got = stages(name)
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(got, encoding="utf-8")
    assert got == path.read_text(encoding="utf-8"), f"run pytest --update-golden if {path.name} should change"


def test_no_golden_file_is_left_over() -> None:
    assert {p.stem for p in GOLDEN.glob("*.txt")} == set(attnspec.shipped())


@pytest.mark.slow
@pytest.mark.parametrize("name", attnspec.shipped())
def test_every_stage_is_the_same_in_another_process_order(name: str) -> None:
    """Stages do not depend on what was compiled before."""
    assert stages(name) == stages(name)
