"""What an installed package holds, and that nothing heavy is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [p for folder in ("attnspec", "codegen", "runtime", "specs") for p in (ROOT / folder).rglob("*")]
    kinds = {".py", ".hpp", ".lark", ".attn", ".typed"}
    shipped = {p.relative_to(ROOT) for p in sources if p.suffix in kinds or p.name == "py.typed"}
    assert {p.suffix for p in shipped} >= kinds - {".typed"}
    assert {str(p if p.parts[0] == "attnspec" else "attnspec" / p) for p in shipped} <= names
    assert not [n for n in names if n.split("/")[0] in ("codegen", "runtime", "specs", "tests")]


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import attnspec", ("torch", "numpy", "islpy", "lark")),
        ("import attnspec; attnspec.read('causal')", ("torch", "numpy", "islpy")),
        ("import attnspec.codegen.cpp.kernel, attnspec.codegen.cost.cost", ("torch",)),
    ],
)
def test_light_imports(code: str, absent: tuple[str, ...]) -> None:
    check = f"{code}\nimport sys; print([m for m in {absent!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_files_are_small() -> None:
    for folder in ("attnspec", "codegen", "runtime", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".hpp"):
                assert len(path.read_text().splitlines()) <= 400, f"{path} is asking to be split"
