"""GPUs that kernels can be compiled for: what limits how many blocks of a kernel run side by side.

Sources: the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; AMD's CDNA 3 Instruction
Set Architecture and the MI300X tuning guide (a compute unit has 4 SIMDs of 512 vector registers a lane, 64 KiB of
shared memory and 8 wavefronts on each SIMD); CDNA 4 has 160 KiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Gpu:
    """An architecture. Shared memory is in bytes; ``registers`` are 32-bit ones of a multiprocessor."""

    name: str
    backend: str
    arch: int | str
    warp: int
    registers: int
    shared_of_block: int
    shared: int
    warps: int
    blocks: int
    most_registers: int
    """Registers that one thread can have."""


GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("sm_80", "cuda", 80, 32, 65536, 163 * KIB, 164 * KIB, 64, 32, 255),
        Gpu("sm_86", "cuda", 86, 32, 65536, 99 * KIB, 100 * KIB, 48, 16, 255),
        Gpu("sm_89", "cuda", 89, 32, 65536, 99 * KIB, 100 * KIB, 48, 24, 255),
        Gpu("sm_90", "cuda", 90, 32, 65536, 227 * KIB, 228 * KIB, 64, 32, 255),
        Gpu("sm_100", "cuda", 100, 32, 65536, 227 * KIB, 228 * KIB, 64, 32, 255),
        Gpu("sm_120", "cuda", 120, 32, 65536, 99 * KIB, 100 * KIB, 48, 24, 255),
        Gpu("gfx942", "hip", "gfx942", 64, 4 * 512 * 64, 64 * KIB, 64 * KIB, 32, 16, 512),
        Gpu("gfx950", "hip", "gfx950", 64, 4 * 512 * 64, 160 * KIB, 160 * KIB, 32, 16, 512),
    )
}


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on a GPU: registers of a thread, bytes spilled by a thread, bytes of shared memory."""

    registers: int
    spilled: int
    shared: int
    warps: int

    def fits(self, gpu: Gpu) -> bool:
        """Whether the kernel spills nothing and its shared memory is there."""
        return not self.spilled and self.shared <= gpu.shared_of_block

    def blocks(self, gpu: Gpu) -> int:
        """How many blocks run on a multiprocessor at a time; registers are given out in eights."""
        registers = -(-max(1, self.registers) // 8) * 8 * gpu.warp * self.warps
        limits = [gpu.blocks, gpu.warps // self.warps, gpu.registers // registers]
        if self.shared:
            limits.append(gpu.shared // self.shared)
        return min(limits)

    def occupancy(self, gpu: Gpu) -> float:
        """The share of a multiprocessor's warps that are resident."""
        return self.blocks(gpu) * self.warps / gpu.warps
