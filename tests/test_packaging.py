"""What an installed package holds, and that nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {"attnspec": 0, "codegen": 1, "runtime": 2, "cli": 3}


def test_the_wheel_holds_everything(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"attnspec/grammar.lark", "attnspec/prelude.attn", "attnspec/py.typed"} <= names
    texts = (("specs", "*.attn"), ("codegen/cpp", "*.hpp"), ("codegen/triton", "*.py"))
    for folder, pattern in (*texts, ("codegen", "*.py"), ("runtime", "*.py")):
        shipped = {f"attnspec/{folder}/{p.name}" for p in (ROOT / folder).glob(pattern)}
        assert shipped
        assert shipped <= names
    assert not [n for n in names if n.split("/")[0] in ("codegen", "runtime", "specs", "tests")]


def modules() -> list[tuple[Path, int]]:
    found = []
    for folder in ("attnspec", "codegen", "runtime"):
        for path in sorted((ROOT / folder).glob("*.py")):
            found.append((path, LAYERS[folder]))
    return found + [(path, LAYERS["cli"]) for path in sorted((ROOT / "attnspec" / "cli").glob("*.py"))]


def layer_of(module: str) -> int:
    parts = module.split(".")
    return LAYERS.get(parts[1], 0) if len(parts) > 1 else 0


@pytest.mark.parametrize(("path", "layer"), modules(), ids=lambda x: getattr(x, "name", None))
def test_imports_point_one_way(path: Path, layer: int) -> None:
    """Attnspec <- codegen <- runtime, the command line on top; one door for each foreign library."""
    doors = {"lark": {"parse.py"}, "islpy": {"presburger.py"}}
    lid = ("__init__.py", "__main__.py")  # the public names, found lazily, and `python -m attnspec`
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            top = name.split(".")[0]
            if top == "attnspec" and not (layer == 0 and path.name in lid):
                assert layer_of(name) <= layer, f"{path.name} imports {name}"
            if top in doors:
                assert path.name in doors[top], f"{path.name} imports {name}"
            if top == "torch":
                assert layer >= LAYERS["runtime"], f"{path.name} imports {name}"
            if top == "rich":
                assert layer == LAYERS["cli"], f"{path.name} imports {name}"


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
