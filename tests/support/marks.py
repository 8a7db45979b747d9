"""What only slow tests try."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """Values of parameters that only slow tests try."""
    return pytest.param(*values, marks=pytest.mark.slow)
