"""Settings shared by all tests: Hypothesis profiles and the switch that rewrites golden files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Two test processes on two cores, each with threads of its own: those that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Triton kernels run in numpy: this is read when triton is imported, which no test does before.
os.environ.setdefault("TRITON_INTERPRET", "1")

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("quick", max_examples=40, deadline=None, suppress_health_check=_SLOW, derandomize=True)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("ATTNSPEC_PROFILE", "quick"))


@pytest.fixture(autouse=True, scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels of the tests go to a folder of their own, one for all processes of a run.

    A run does not depend on what was compiled before.
    """
    before = os.environ.get("ATTNSPEC_CACHE")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "kernels"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["ATTNSPEC_CACHE"] = str(folder)
    yield
    if before is None:
        del os.environ["ATTNSPEC_CACHE"]
    else:
        os.environ["ATTNSPEC_CACHE"] = before


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files with what the code gives now")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
