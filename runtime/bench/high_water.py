"""The most memory that this process has had at once."""

from __future__ import annotations

import re
import resource
from contextlib import suppress
from pathlib import Path

_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def high_water(anew: bool = False) -> int:
    """In bytes, since it began; ``anew``: from now on, where the system can begin again.

    Not what ``getrusage`` says on Linux: there a process begins with the peak of the one that started it.
    """
    if anew:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    with suppress(OSError):
        if found := _PEAK.search(Path("/proc/self/status").read_text(encoding="ascii", errors="replace")):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
