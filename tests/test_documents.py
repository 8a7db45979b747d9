"""What the sources point at is there to be read: a paper, a file of this repository, or the statement itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KINDS = {".py", ".attn", ".hpp", ".lark", ".md"}
ELSEWHERE = re.compile(
    r"\b(?:DESIGN|SYSTEMS|HOUSE|TRITON\.md|LINEAR(?:\.md| [0-9A-D])|ECOSYSTEM)\b"
    r"|\b(?:issue|issues) +#?[0-9]|#[0-9]{1,2}\b"
)
DOCUMENT = re.compile(r"\b[\w/]+\.md\b")


def pointers(text: str) -> list[str]:
    """What a text points at that a reader of the repository cannot open."""
    documents = [name for name in DOCUMENT.findall(text) if not any(ROOT.rglob(Path(name).name))]
    return [*ELSEWHERE.findall(text), *documents]


@pytest.mark.parametrize("folder", ["attnspec", "codegen", "runtime", "specs"])
def test_nothing_points_at_a_document_that_is_not_here(folder: str) -> None:
    paths = [p for p in (ROOT / folder).rglob("*") if p.suffix in KINDS]  # links are not followed
    assert paths
    found = {str(p.relative_to(ROOT)): pointers(p.read_text(encoding="utf-8")) for p in paths}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}, "say it, or name the paper"


@pytest.mark.parametrize(
    "text", ["(DESIGN 2.8)", "LINEAR 3.1", "see issue 12", "as SYSTEMS.md says", "in GUIDE.md", "fixes #12"]
)
def test_a_pointer_elsewhere_is_found(text: str) -> None:
    assert pointers(text)


@pytest.mark.parametrize("text", ["README.md", "#888", "a linear system", "no issue with that", "a design"])
def test_what_is_here_is_no_pointer_elsewhere(text: str) -> None:
    assert not pointers(text)
