"""The kernel cache: atomic, shared, self-repairing, private, bounded; and the compiler behind it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import attnspec
from attnspec.runtime.core.program import facts
from attnspec.runtime.core.store import Cache, CacheError
from attnspec.runtime.cpp import load as native
from attnspec.runtime.cpp import prepared
from attnspec.runtime.cpp.compiler import CompilerError, compiler
from tests.support.marks import slow
from tests.support.oracle import agree, tensors


def forget() -> None:
    """As in a new process: nothing is loaded."""
    for cached in (native.native, prepared.forward, prepared.moving, prepared.backward):
        cached.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing loaded from another."""
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path / "kernels"))
    forget()
    yield tmp_path / "kernels"
    forget()


def entries(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if (p / "kernel.so").exists()]


def use(width: int = 7) -> None:
    agree(attnspec.compile("window", width=width), *tensors(40))


def test_an_entry_holds_every_stage_as_text(folder: Path) -> None:
    use()
    forward = next(e for e in entries(folder) if "forward pass" in (e / "kernel.cpp").read_text())
    assert "window(width)" in (forward / "source.attn").read_text()
    assert (forward / "params.json").read_text() == '{"width": 7}'
    assert (forward / "plan.txt").read_text().startswith("plan window")
    assert (forward / "relation.txt").read_text().startswith("relation window")
    assert len(entries(folder)) == 2


def test_folder_is_private(folder: Path) -> None:
    use()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(CacheError, match="chmod go-w"):
        Cache.default()


def test_a_folder_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CacheError, match="Set ATTNSPEC_CACHE"):
        Cache.default()


@pytest.mark.parametrize("damage", [slow("truncate"), "flip", slow("no checksum"), slow("no library")])
def test_a_damaged_entry_is_built_again(folder: Path, damage: str) -> None:
    use()
    for entry in entries(folder):
        library = entry / "kernel.so"
        data = bytearray(library.read_bytes())
        library.unlink()  # the old file is still mapped by this process
        if damage == "truncate":
            library.write_bytes(data[: len(data) // 2])
        elif damage == "flip":
            data[len(data) // 2] ^= 255
            library.write_bytes(data)
        elif damage == "no checksum":
            library.write_bytes(data)
            (entry / "sha256").unlink()
    forget()
    use()
    cache = Cache.default()
    assert len(entries(folder)) == 2
    assert all(cache.library(e.name) for e in entries(folder))


def test_damaged_notes_are_ignored(folder: Path) -> None:
    use()
    for note in (folder / "notes").iterdir():
        note.write_text("{]")
    forget()
    use()
    for note in (folder / "notes").iterdir():
        note.write_text("{}")
    forget()
    facts.cache_clear()
    use()


@pytest.mark.slow
@pytest.mark.parametrize("at", [0.0, 0.3, 0.99])
def test_every_file_is_covered_by_a_checksum(folder: Path, at: float) -> None:
    """A byte that changes anywhere is noticed: what is wrong is never used, and built again."""
    # A fact of this pattern is that it depends on the number of heads.
    attend = "attention a { for h in 0..2 { attend k <= q }  for h in 2..4 { attend |q - k| <= 3 } }"
    q, k, v = (t.detach() for t in tensors(40, heads=4))
    right = attnspec.compile(attend)(q, k, v)
    written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path.parent.name for path in written} > {"notes"}
    for path, data in written.items():
        if path.suffix != ".so":  # those are mapped by this process; see the test above
            byte = int(at * len(data))
            path.write_bytes(data[:byte] + bytes([data[byte] ^ 4]) + data[byte + 1 :])
            forget()
            facts.cache_clear()
            assert torch.equal(attnspec.compile(attend)(q, k, v), right)
            cache = Cache.default()
            assert all(cache.library(entry.name) for entry in entries(folder))


def test_what_killed_processes_left_is_removed(folder: Path) -> None:
    use()
    old, new = folder / "building-old", folder / "building-new"
    note = folder / "notes" / "writing-old"
    for left in (old, new):
        left.mkdir()
        (left / "kernel.cpp").write_text("")
    note.write_text("")
    for left in (old, note):
        os.utime(left, (1e9, 1e9))
    use(8)
    assert not old.exists()
    assert not note.exists()
    assert new.exists()


@pytest.mark.parametrize("name", ["-o", slow("--help"), slow("with space")])
def test_odd_names_of_folders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTNSPEC_CACHE", name)
    forget()
    use()
    assert len(entries(tmp_path / name)) == 2
    forget()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")
def test_a_folder_that_holds_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNSPEC_CACHE", "/proc")
    forget()
    with pytest.raises(CacheError, match="Set ATTNSPEC_CACHE"):
        use()


def test_a_kernel_that_cannot_be_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(native.ctypes, "CDLL", refuse)
    with pytest.raises(CacheError, match=r"failed to map segment.*noexec.*ATTNSPEC_CACHE"):
        use()


@pytest.mark.slow
def test_old_entries_make_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (3, 4, 5):
        use(width)
    for age, entry in enumerate(sorted(entries(folder), key=lambda e: e.stat().st_mtime)):
        os.utime(entry, (1e9 + age, 1e9 + age))
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    monkeypatch.setenv("ATTNSPEC_CACHE_LIMIT", str(size // 2))
    use(6)
    left = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert left <= size // 2
    use(3)


@pytest.mark.slow
def test_processes_build_at_once(folder: Path) -> None:
    code = (
        "import attnspec, torch; q = torch.ones(1, 1, 30, 8); "
        "print(float(attnspec.compile('window', width=9)(q, q, q).sum()))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    results = [process.communicate(timeout=300) for process in running]
    assert [out.strip() for out, _ in results] == ["240.0"] * 4, results
    assert len(entries(folder)) == 1
    assert not list(folder.glob("building-*"))


def test_others_wait_while_one_makes_a_kernel(folder: Path) -> None:
    cache, first = Cache.default(), threading.Event()
    made: list[None] = []

    def make() -> None:
        first.wait()
        with cache.turn("kernel"):
            if cache.note("kernel") is None:
                time.sleep(0.05)
                made.append(None)
                cache.set_note("kernel", {"kernel": "made"})

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    first.set()
    for thread in threads:
        thread.join(timeout=60)
    assert len(made) == 1
    assert not list(folder.glob("turn-*"))


def test_no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.cache_clear()
    try:
        monkeypatch.setenv("PATH", "/nonexistent")
        monkeypatch.delenv("CXX", raising=False)
        with pytest.raises(CompilerError, match=r"none of c\+\+, g\+\+, clang\+\+.*\n.*apt-get install g\+\+"):
            use()
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(CompilerError, match="CXX is 'no-such-compiler'"):
            use()
        monkeypatch.setenv("CXX", "/bin/false")
        with pytest.raises(CompilerError, match="the C\\+\\+ compiler failed"):
            use()
    finally:
        compiler.cache_clear()
