"""The order of rooms: a file imports only from its own room and from rooms before it, and no files import in a circle.

Imports inside functions and under ``TYPE_CHECKING`` count. What goes wrong is said as "file imports file".
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent

# Rooms on one line know each other. The files directly in `codegen` and in `attnspec` count as these rooms.
ORDER = """
    errors | language | spec | check.expressions | check.clauses | check | reference | relation | analysis
    codegen | codegen.expressions | codegen.layouts | codegen.plan | codegen.cpp | codegen.triton codegen.triton.softmax
    codegen.flex | codegen.cost | codegen.ranks
    runtime.core | runtime.expressions | runtime.cpp | runtime.triton | runtime.prepare | runtime.linear
    runtime.dense | runtime runtime.parts runtime.states | runtime.caches | runtime.distributed | runtime.recurrent
    runtime.flex | runtime.huggingface | runtime.bench runtime.bench.ranks | runtime.modules | report | cli
    cli.bench | cli.commands | attnspec
"""
PLACES = {
    room: place for place, rooms in enumerate(ORDER.strip().replace("\n", "|").split("|")) for room in rooms.split()
}

# One file may import a foreign library, or the rooms named here may.
DOORS = {
    "lark": ("language.parse",),
    "islpy": ("relation.presburger", "relation.hardness", "relation.pieces"),
    "rich": ("report", "cli"),
    "click": ("cli",),
    "torch": ("runtime", "report", "cli"),
    "transformers": ("runtime.recurrent.huggingface", "runtime.huggingface"),
    "triton": ("runtime.triton",),
}

House = Mapping[str, str]
"""The text of each file by its module, ``attnspec.`` left out: ``codegen.plan.plan``."""


def house() -> dict[str, str]:
    found = {}
    for folder in ("attnspec", "codegen", "runtime"):
        for path in sorted((ROOT / folder).rglob("*.py")):  # links are not followed
            if "library" in path.parts:
                continue  # text of kernels
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if parts[0] == "attnspec" else parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(parts)] = path.read_text(encoding="utf-8")
    return found


def room(module: str, files: House) -> str:
    """The room of a file: its folder, which the file of a folder itself stands for."""
    is_folder = any(other.startswith(f"{module}.") for other in files)
    return (module if is_folder else module.rpartition(".")[0]) or "attnspec"


def imported(text: str) -> Iterator[tuple[str, str | None]]:
    """The modules, and the names taken from them, of all imports of a file, wherever they stand."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield from ((node.module or "", alias.name) for alias in node.names)


def arrows(files: House) -> Iterator[tuple[str, str]]:
    """The pairs (file, file that it imports)."""
    for module, text in files.items():
        for parent, name in imported(text):
            if (parent, name) == ("attnspec", "__version__"):
                continue  # the package itself is there before any of its rooms
            if parent.split(".")[0] == "attnspec":
                inner = parent.removeprefix("attnspec").lstrip(".")
                whole = f"{inner}.{name}".lstrip(".")
                yield module, whole if name and whole in files else inner


def wrong_arrows(files: House) -> list[str]:
    found = []
    for module, other in arrows(files):
        here, there = room(module, files), room(other, files)
        if here != there and PLACES[here] < PLACES[there]:
            found.append(f"{module} imports {other}, and {there} comes after {here}")
    return sorted(set(found))


def circles(files: House) -> list[list[str]]:
    graph = nx.DiGraph((a, b) for a, b in arrows(files) if a != b)
    return [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1]


def wrong_doors(files: House) -> list[str]:
    found = []
    for module, text in files.items():
        for parent, _ in imported(text):
            places = DOORS.get(parent.split(".")[0])
            if places and not any(f"{module}.".startswith(f"{place}.") for place in places):
                found.append(f"{module} imports {parent}")
    return sorted(set(found))


def test_rooms_have_an_order() -> None:
    assert wrong_arrows(house()) == []


def test_there_are_no_circles() -> None:
    assert circles(house()) == []


def test_foreign_libraries_have_doors() -> None:
    assert wrong_doors(house()) == []


def test_every_room_is_in_the_order_and_says_what_it_is() -> None:
    files = house()
    assert {room(module, files) for module in files} == PLACES.keys()
    for place in PLACES.keys() - {"attnspec"}:
        assert ast.get_docstring(ast.parse(files[place])), place


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("spec.expr", "from attnspec.check.check import check_text"), "spec.expr imports check.check"),
        (("spec.expr", "def f():\n    import attnspec.relation.lower"), "spec.expr imports relation.lower"),
        (("codegen.tiles", "from attnspec.codegen.plan import plan"), "codegen.tiles imports codegen.plan.plan"),
        (("codegen.tiles", "import torch"), "codegen.tiles imports torch"),
        (("runtime.core.device", "import attnspec"), "runtime.core.device imports "),
    ],
)
def test_a_wrong_import_is_found(change: tuple[str, str], message: str) -> None:
    files = house()
    module, line = change
    files[module] += f"\n{line}\n"
    wrong = wrong_arrows(files) + wrong_doors(files)
    assert len(wrong) == 1
    assert wrong[0].startswith(message)


def test_a_circle_is_found() -> None:
    files = house()
    files["errors.source"] += "\nif TYPE_CHECKING:\n    from attnspec.errors.diagnostic import Diagnostic\n"
    assert any({"errors.source", "errors.diagnostic"} <= set(circle) for circle in circles(files))
