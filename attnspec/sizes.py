"""The sizes of one call."""

from __future__ import annotations

from dataclasses import dataclass

MOST = 1 << 33
"""The largest length that is counted exactly."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of one call; ``aligned_end`` says that the last query row stands at the last key."""

    n: int
    n_q: int
    heads: int = 1
    kv_heads: int = 1
    batch: int = 1
    aligned_end: bool = True

    def __post_init__(self) -> None:
        for name in ("n", "n_q", "heads", "kv_heads", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 <= value <= MOST:
                raise ValueError(f"{name} must be an integer between 0 and 2**33, not {value!r}")

    @property
    def first(self) -> int:
        """The position of query row 0."""
        return self.n - self.n_q if self.aligned_end else 0

    def parameters(self, h: int, b: int) -> dict[str, int]:
        """The values of the parameters of sets, for one head and batch entry."""
        return {
            "n": self.n,
            "n_q": self.n_q,
            "h": h,
            "b": b,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "batch": self.batch,
        }
