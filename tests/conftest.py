"""Settings shared by all tests: Hypothesis profiles, the kernel cache, and the switch that rewrites golden files."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two test processes on two cores: threads of their own would only wait for each other. (Read when torch is imported.)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Triton kernels run in numpy: this is read when triton is imported, which no test does before.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Kernels of tests compile in a third of the time: most are called a few times only. (See pytest_configure.)
OWN_FLAGS = "ATTNSPEC_CXXFLAGS" not in os.environ
os.environ.setdefault("ATTNSPEC_CXXFLAGS", "-Og")

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("quick", max_examples=16, deadline=None, suppress_health_check=_SLOW, derandomize=True)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("ATTNSPEC_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    """One folder of kernels for all processes, which outlives the run, inside ``$ATTNSPEC_CACHE`` or pytest's cache.

    Kernels are found by their own text, so that none is ever wrong. Notes, which are found by a spec's text, do not
    outlive the run: tests change the compiler under them.
    """
    if hasattr(config, "workerinput"):
        return  # as the process that started this one has set it
    home = os.environ.get("ATTNSPEC_CACHE")
    folder = (Path(home) if home else config.cache.mkdir("attnspec")) / "tests"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(folder / "notes", ignore_errors=True)
    os.environ["ATTNSPEC_CACHE"] = str(folder)
    # Torch finds its graphs by the names of operators: those of another checkout may return other shapes.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    if OWN_FLAGS:
        os.environ["ATTNSPEC_CXXFLAGS"] = precompiled(folder / "header.hpp")


def precompiled(header: Path) -> str:
    """Flags with which kernels find what they include parsed: that takes a third of their time.

    And with the quicker of two linkers, where there is one.
    """
    from attnspec.runtime.cpp.compiler import CompilerError, compiler

    flags = os.environ["ATTNSPEC_CXXFLAGS"]
    if shutil.which("ld.gold"):
        flags = os.environ["ATTNSPEC_CXXFLAGS"] = f"{flags} -pipe -fuse-ld=gold"
    names = "array cstddef cstdint cstdlib cstring limits type_traits utility"
    lines = [f"#include <{name}>" for name in names.split()]
    lines += ["#if defined(__AVX__)", "#include <immintrin.h>", "#endif", ""]
    header.write_text("\n".join(lines), encoding="utf-8")
    try:
        tool = compiler()
    except CompilerError:
        return flags  # the tests that need one say so
    compiler.cache_clear()
    made = header.with_suffix(f".{os.getpid()}")
    command = [*tool.command, *tool.flags, "-x", "c++-header", str(header), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    made.replace(f"{header}.gch")  # at once: another run may be reading it
    return f"{flags} -include {shlex.quote(str(header))}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files with what the code gives now")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: whoever meets it last leaves the other processes idle."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/test_lint.py"))


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
