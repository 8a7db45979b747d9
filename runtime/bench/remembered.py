"""Times measured on this machine, remembered so that ``attnspec inspect`` can print them beside its predictions."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.store import Cache
from attnspec.spec.spec import Spec

if TYPE_CHECKING:
    from attnspec.runtime.attention import Attention
    from attnspec.runtime.bench.race import Outcome
    from attnspec.runtime.bench.setup import Setup


@dataclass(frozen=True)
class Measured:
    """Median seconds of a call on this machine; ``backward`` is forward and backward together, None if not measured."""

    forward: float | None
    both: float | None
    runs: int
    date: str


def remember(attend: Attention, setup: Setup, outcome: Outcome) -> None:
    """Keep the median of a call with example inputs and the compiler's plan; the other direction's stays as it is."""
    from attnspec.runtime.core.device import name_of

    if attend.program.tile is not None or attend.program.layout != "auto" or setup.given:
        return
    call = attend.spec, setup.sizes, setup.dim, setup.dtype_name, name_of(setup.device)
    known, seconds = recall(*call), outcome.timings["attnspec"].median
    forward, both = (known.forward, known.both) if known else (None, None)
    forward, both = (forward, seconds) if setup.backward else (seconds, both)
    Cache.default().set_note(_key(*call), asdict(Measured(forward, both, setup.runs, time.strftime("%Y-%m-%d"))))


def recall(spec: Spec, sizes: Sizes, dim: int, dtype: str, device: str = "cpu") -> Measured | None:
    """What was measured for this very pattern and call, or None. ``device`` is a GPU's name."""
    note = Cache.default().note(_key(spec, sizes, dim, dtype, device))
    return None if note is None else Measured(note["forward"], note["both"], note["runs"], note["date"])


def _key(spec: Spec, sizes: Sizes, dim: int, dtype: str, device: str) -> str:
    where = "" if device == "cpu" else f"\0{device}"
    identity = f"{spec}\0{sizes}\0{dim}\0{dtype}\0{platform.node()}\0{os.cpu_count()}{where}"
    return f"measured-{sha256(identity.encode()).hexdigest()[:32]}"
