"""GPUs by what their makers say of them: dense matrix rates with float32 sums, and bandwidth. Nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attnspec.codegen.cost.roofline import Device


def _sheet(name: str, half: float, tf32: float, bandwidth: float) -> Device:
    """From tera-operations per second in bfloat16 or float16 and in TF32, and gigabytes per second."""
    flops = {"float32": tf32 * 1e12, "bfloat16": half * 1e12, "float16": half * 1e12}
    return Device(f"{name} (data sheet)", flops, bandwidth * 1e9, "the maker's data sheet, without sparsity")


SHEETS: Mapping[str, Device] = MappingProxyType(
    {
        "a100": _sheet("NVIDIA A100 80 GB SXM", 312, 156, 2039),
        "b200": _sheet("NVIDIA B200", 2250, 1125, 8000),
        "h100": _sheet("NVIDIA H100 SXM", 989, 494.5, 3350),
        "h200": _sheet("NVIDIA H200 SXM", 989, 494.5, 4800),
        "l40s": _sheet("NVIDIA L40S", 362, 183, 864),
        "mi300x": _sheet("AMD MI300X", 1307, 653.7, 5300),
        "rtx4090": _sheet("NVIDIA RTX 4090", 165.2, 82.6, 1008),
    }
)
"""What ``attnspec inspect --gpu`` knows, by the names that people use."""
