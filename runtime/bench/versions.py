"""What a measurement depends on beside the code."""

from __future__ import annotations

import time

import torch

from attnspec.runtime.core.device import name_of
from attnspec.runtime.triton.module import triton_version


def versions(device: torch.device) -> dict[str, str]:
    """Device, driver, libraries, and the date, by name."""
    found = {"device": name_of(device), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    found["triton"] = triton_version() or "none"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        found["multiprocessors"] = str(properties.multi_processor_count)
        found["cuda"] = str(torch.version.cuda or getattr(torch.version, "hip", None))
        found["driver"] = _driver()
    return found


def _driver() -> str:
    """The version of NVIDIA's driver, from the file that it keeps; unknown elsewhere."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as lines:
            words = lines.readline().split()
    except OSError:
        return "unknown"
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
