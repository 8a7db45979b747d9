"""The prices of ranks on this machine, kept on disk as its ceilings are. (Reading them loads no torch.)"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from hashlib import sha256
from typing import NamedTuple

from attnspec.codegen.ranks.machines import Machine
from attnspec.runtime.bench.ceilings import processor
from attnspec.runtime.core.store import Cache

NAME = "cpu-gloo"
"""What machines call them."""


class Prices(NamedTuple):
    """The prices, and for each size of message the seconds until it is there, all ranks sending one at once."""

    machine: Machine
    messages: dict[int, float]


def keep(prices: Prices) -> None:
    """Remember them in place of earlier ones."""
    machine = {**asdict(prices.machine), "flops": dict(prices.machine.flops)}
    Cache.default().set_note(_note(), {"machine": machine, "messages": list(prices.messages.items())})


def remembered() -> Prices | None:
    """Those that were measured last on this machine, or None."""
    note = Cache.default().note(_note())
    return None if note is None else Prices(Machine(**note["machine"]), dict(note["messages"]))


def forget() -> bool:
    """Forget them; whether there were any."""
    return Cache.default().remove_note(_note())


def _note() -> str:
    identity = f"{platform.node()} {processor()} {os.cpu_count()}"
    return f"ranks-{sha256(identity.encode()).hexdigest()[:32]}"
