"""Which kernels are compiled for which calls."""

from __future__ import annotations

from pathlib import Path

import pytest

import attnspec
from attnspec.runtime.cpp.compiler import Compiler
from tests.support.oracle import agree, tensors


def test_a_new_length_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = attnspec.compile("attention near { attend window(50) }")
    agree(attend, *tensors(50))
    monkeypatch.setattr(Compiler, "compile", lambda *_: pytest.fail("compiled again"))
    agree(attend, *tensors(177, 91, heads=4, batch=2))


def test_wide_kernels_compute_positions_in_64_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Chosen for lengths over 2**28, which no test can hold: here the limit is lowered."""
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path / "kernels"))
    monkeypatch.setattr("attnspec.runtime.core.request.NARROW_LENGTH", 100)
    attend = attnspec.compile("attention a { attend |q - k| * 3 < 120 }")
    agree(attend, *tensors(150))
    texts = [path.read_text() for path in (tmp_path / "kernels").glob("*/kernel.cpp")]
    assert len(texts) == 2
    assert all("#define ATTNSPEC_POS int64_t" in text and "attention a" in text for text in texts)
