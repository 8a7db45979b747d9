"""Machines of many ranks by name: what computing, sending and a step's own work cost on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DEFAULT = "h100"
"""The machine that is meant where none is named."""


@dataclass(frozen=True)
class Machine:
    """The prices of a machine's ranks.

    ``flops`` are the useful operations per second of attention kernels, by element type. ``near`` and ``far`` are bytes
    per second that a rank receives (and sends, at the same time) from ranks of its node of ``node`` ranks, and from
    others. ``message``, ``call`` and ``step`` are seconds: of a message, of a kernel call, and of what the host does
    for a step: lists of messages, waits, launches. ``beside``: that goes on while a device computes, and costs only
    where it takes longer; a processor does it itself. ``origin`` says where the prices come from.
    """

    name: str
    flops: Mapping[str, float]
    near: float
    far: float
    node: int
    message: float
    call: float
    step: float
    beside: bool
    origin: str

    def slowest(self, ranks: int) -> float:
        """Bytes per second between neighbours of so many ranks, of which all wait for the slowest link."""
        return self.near if ranks <= self.node else self.far

    def __str__(self) -> str:
        return f"{self.name}, {self.node} a node" if self.far != self.near else self.name


_USEFUL = 0.35
"""The share of a data sheet's dense rate that attention kernels are taken to reach, on live pairs alone."""
_SHEET = (
    "not measured: data sheets, of whose rates attention kernels are taken to reach 35 % on live pairs, NVLink two "
    "thirds and the network nine tenths; 10 us a message, 30 us a kernel call, 250 us of the host a step"
)


def _gpus(name: str, half: float, tf32: float, near: float, far: float, node: int) -> Machine:
    """From the data sheet: tera-operations per second dense, and gigabytes per second and direction of the links."""
    flops = {"float32": tf32 * 1e12 * _USEFUL, "bfloat16": half * 1e12 * _USEFUL, "float16": half * 1e12 * _USEFUL}
    return Machine(name, flops, near * 1e9 * 2 / 3, far * 1e9 * 0.9, node, 10e-6, 30e-6, 250e-6, True, _SHEET)


MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        one.name: one
        for one in (
            _gpus("h100", 989, 494.5, 450, 50, 8),
            _gpus("h200", 989, 494.5, 450, 50, 8),
            _gpus("gb200-nvl72", 2500, 1250, 900, 50, 72),
            Machine(
                "cpu-gloo",
                {"float32": 100e9, "bfloat16": 175e9, "float16": 95e9},
                1.5e9,
                1.5e9,
                1,
                150e-6,
                20e-6,
                150e-6,
                False,
                "measured on an AMD EPYC (Zen 5), one thread a rank, ranks of one machine, messages of 4 MiB, "
                "29 November 2026; `attnspec bench --ranks` measures a machine of one's own",
            ),
        )
    }
)
"""By their names. DGX H100, DGX H200 and GB200 NVL72 are taken with one adapter of 400 Gb/s for each GPU."""
