"""Compiled kernels on disk, found by the hash of what determines them.

An entry is a folder ``<digest>`` with ``kernel.so`` (or ``kernel.py``), every earlier stage as text, and the checksums
of all of them (``sha256sum -c sha256`` checks them too). It is written under another name and renamed, so that readers
see all of it or nothing and two processes may build the same kernel at once. A damaged entry is removed and built
again. ``notes`` are small JSON texts beside the entries, each with its checksum: what a pattern's text led to last
time. Nothing is ever unpickled. The folder is private to the user (mode 0700) and bounded in size.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from attnspec.errors.diagnostic import AttnspecError

LIMIT = 512 * 1024 * 1024
"""Bytes on disk from which on the entries unused for longest are removed; ``ATTNSPEC_CACHE_LIMIT`` overrides it."""


ABANDONED = 24 * 3600
"""Seconds after which what a process was writing, or removing, is taken to be left by one that was killed."""

_BUILDING, _REMOVING, _WRITING, _TURN = "building-", "removing-", "writing-", "turn-"
_CHECKSUMS = "sha256"


class CacheError(AttnspecError, RuntimeError):
    """The folder cannot be used."""


@dataclass(frozen=True)
class Cache:
    """A folder of kernels."""

    folder: Path

    @classmethod
    def default(cls) -> Cache:
        """``$ATTNSPEC_CACHE``, else ``attnspec`` in the user's cache folder; created private if it is not there.

        Raises CacheError if it belongs to someone else or others may write to it.
        """
        named = os.environ.get("ATTNSPEC_CACHE")
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = (Path(named) if named else home / "attnspec").absolute()  # a name may begin with a dash
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError as error:
            raise CacheError(f"the kernel cache {folder} cannot be used: {error}. Set ATTNSPEC_CACHE.") from None
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            raise CacheError(
                f"the kernel cache {folder} belongs to another user. Set ATTNSPEC_CACHE to a folder of yours."
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CacheError(f"others may write to the kernel cache {folder}. Run: chmod go-w {folder}")
        return cls(folder)

    def library(self, digest: str) -> Path | None:
        """The shared library of an entry whose checksum holds; None if there is none (a damaged one is removed)."""
        return self.file(digest, "kernel.so")

    def file(self, digest: str, name: str) -> Path | None:
        """The same of an entry whose kernel is the file ``name``."""
        entry = self.folder / digest
        try:
            lines = (entry / _CHECKSUMS).read_text(encoding="utf-8").splitlines()
            whole = any(line.endswith(f"  {name}") for line in lines)
            whole = whole and lines == [_checksum(entry / line[66:]) for line in lines]
        except (OSError, ValueError):
            whole = False
        if whole:
            with contextlib.suppress(OSError):
                os.utime(entry)
            return entry / name
        if entry.exists():
            self._remove(entry)
        return None

    def add(
        self, digest: str, build: Callable[[Path], object], stages: Mapping[str, str], name: str = "kernel.so"
    ) -> Path:
        """Build an entry (``build`` writes the kernel to the path it is given, of this name) and return its path.

        If another process was faster, its entry is used. Raises CacheError where the folder cannot be written to.
        """
        try:
            work = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=self.folder))
            try:
                build(work / name)
                for stage, text in stages.items():
                    (work / stage).write_text(text, encoding="utf-8")
                checksums = "".join(f"{_checksum(path)}\n" for path in sorted(work.iterdir()))
                (work / _CHECKSUMS).write_text(checksums, encoding="utf-8")
                try:
                    os.rename(work, self.folder / digest)
                except OSError:
                    if self.file(digest, name) is None:  # neither ours nor a whole one of another process
                        os.rename(work, self.folder / digest)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        except OSError as error:
            raise CacheError(f"the kernel cache {self.folder} cannot be used: {error}. Set ATTNSPEC_CACHE.") from None
        self._trim(keep=digest)
        found = self.file(digest, name)
        if found is None:
            raise CacheError(f"the kernel cache {self.folder} loses what is written to it. Set ATTNSPEC_CACHE.")
        return found

    @contextlib.contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """While one process makes what a key stands for, others that want it wait: they look again when it is made.

        The system ends the turn of a process that is killed. Where files cannot be locked nobody waits.
        """
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError, ImportError):
                import fcntl

                path = self.folder / f"{_TURN}{key}"
                file = held.enter_context(path.open("w"))
                fcntl.flock(file, fcntl.LOCK_EX)
                held.callback(path.unlink, missing_ok=True)  # who waits has it open; who comes later makes another
            yield

    def note(self, key: str) -> dict[str, Any] | None:
        """The note under a key; None if there is none, or it is not what was written."""
        try:
            checksum, value = json.loads((self.folder / "notes" / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return None
        return value if checksum == _note_checksum(key, value) else None

    def set_note(self, key: str, value: Mapping[str, Any]) -> None:
        """Write a note, atomically. A full disk is no reason to fail: the note is only a short cut."""
        notes = self.folder / "notes"
        with contextlib.suppress(OSError):
            notes.mkdir(mode=0o700, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_WRITING, dir=notes)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump([_note_checksum(key, dict(value)), dict(value)], file)
            os.replace(name, notes / f"{key}.json")

    def remove_note(self, key: str) -> bool:
        """Remove the note under a key; whether there was one."""
        try:
            (self.folder / "notes" / f"{key}.json").unlink()
        except OSError:
            return False
        return True

    def _remove(self, entry: Path) -> None:
        """Remove an entry so that no reader sees half of it."""
        with contextlib.suppress(OSError):
            grave = Path(tempfile.mkdtemp(prefix=_REMOVING, dir=self.folder))
            os.rename(entry, grave / "entry")
            shutil.rmtree(grave, ignore_errors=True)

    def _trim(self, keep: str) -> None:
        """Remove what killed processes left, and what was unused for longest until the folder is within its limit."""
        wanted = os.environ.get("ATTNSPEC_CACHE_LIMIT", str(LIMIT))
        if not wanted.isdecimal():
            raise CacheError(f"ATTNSPEC_CACHE_LIMIT is a number of bytes, not {wanted!r}")
        limit = int(wanted)
        found: list[tuple[float, int, Path]] = []
        with contextlib.suppress(OSError):
            for entry in self.folder.iterdir():
                with contextlib.suppress(OSError):
                    files = [entry] if entry.is_file() else [f for f in entry.rglob("*") if f.is_file()]
                    found.append((entry.stat().st_mtime, sum(f.stat().st_size for f in files), entry))
        left = (f"{_BUILDING}*", f"{_REMOVING}*", f"{_TURN}*", f"notes/{_WRITING}*")
        for path in (path for pattern in left for path in self.folder.glob(pattern)):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        total = sum(size for _, size, _ in found)
        for _, size, entry in sorted(found, key=lambda item: item[0]):
            if total <= limit:
                return
            if entry.name != keep and not entry.name.startswith((_BUILDING, _TURN)):
                self._remove(entry)
                total -= size


def _checksum(path: Path) -> str:
    """A line of an entry's checksums."""
    return f"{sha256(path.read_bytes()).hexdigest()}  {path.name}"


def _note_checksum(key: str, value: object) -> str:
    """Of a note and of its key: a note is not what another key wrote."""
    return sha256(f"{key}\0{json.dumps(value, sort_keys=True)}".encode()).hexdigest()
