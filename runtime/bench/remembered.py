"""Times measured on this machine, remembered so that ``attnspec inspect`` can print them beside its predictions."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from hashlib import sha256

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.store import Cache
from attnspec.spec.spec import Spec


@dataclass(frozen=True)
class Measured:
    """Median seconds of a call on this machine; ``backward`` is forward and backward together, None if not measured."""

    forward: float | None
    both: float | None
    runs: int
    date: str


def remember(
    spec: Spec, sizes: Sizes, dim: int, dtype: str, seconds: float, backward: bool, runs: int, device: str = "cpu"
) -> None:
    """Keep a median; the other direction's figure is kept if it is there. ``device`` is a GPU's name."""
    known = recall(spec, sizes, dim, dtype, device)
    forward, both = (known.forward, known.both) if known else (None, None)
    forward, both = (forward, seconds) if backward else (seconds, both)
    found = Measured(forward, both, runs, time.strftime("%Y-%m-%d"))
    Cache.default().set_note(_key(spec, sizes, dim, dtype, device), asdict(found))


def recall(spec: Spec, sizes: Sizes, dim: int, dtype: str, device: str = "cpu") -> Measured | None:
    """What was measured for this very pattern and call, or None."""
    note = Cache.default().note(_key(spec, sizes, dim, dtype, device))
    return None if note is None else Measured(note["forward"], note["both"], note["runs"], note["date"])


def _key(spec: Spec, sizes: Sizes, dim: int, dtype: str, device: str) -> str:
    own = "" if device == "cpu" else f"\0{device}"
    identity = f"{spec}\0{sizes}\0{dim}\0{dtype}\0{platform.node()}\0{os.cpu_count()}{own}"
    return f"measured-{sha256(identity.encode()).hexdigest()[:32]}"
