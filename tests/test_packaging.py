"""What an installed package holds, and that nothing heavy is imported before it is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from attnspec import __version__

ROOT = Path(__file__).parent.parent


LINKS = ("codegen", "runtime", "specs")


def checkout(_tmp_path: Path) -> Path:
    return ROOT


def checkout_without_links(tmp_path: Path) -> Path:
    """As git makes one on Windows: a link is a file that holds where it leads."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("attnspec", *LINKS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in LINKS:
        (copy / "attnspec" / name).unlink()
        (copy / "attnspec" / name).write_text(f"../{name}")
    return copy


def source_archive(tmp_path: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    return archive


@pytest.mark.parametrize("source", [checkout, checkout_without_links, source_archive])
def test_the_wheel_holds_everything(source: Callable[[Path], Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path / "out"), str(source(tmp_path))], check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [p for folder in ("attnspec", *LINKS) for p in (ROOT / folder).rglob("*")]
    kinds = {".py", ".hpp", ".lark", ".attn", ".typed", ".md"}
    shipped = {p.relative_to(ROOT) for p in sources if p.suffix in kinds}
    assert wheel.name.startswith(f"attnspec-{__version__}-")
    assert {p.suffix for p in shipped} == kinds
    assert {str(p if p.parts[0] == "attnspec" else "attnspec" / p) for p in shipped} <= names
    assert not [n for n in names if n.split("/")[0] in (*LINKS, "tests")]


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import attnspec", ("torch", "numpy", "islpy", "lark")),
        ("import attnspec; attnspec.read('causal')", ("torch", "numpy", "islpy")),
        ("import attnspec; assert 'nn' in dir(attnspec); attnspec.nn.SpecAttention", ()),
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
