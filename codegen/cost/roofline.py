"""The least time a call can take on a device: operations over its matrix rate, bytes over its bandwidth."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.cost.cost import Cost


@dataclass(frozen=True)
class Device:
    """A device's measured ceilings.

    ``flops`` are operations per second of multiply-adds, by element type; ``bandwidth`` is bytes per second of a large
    copy (read and written); ``origin`` says where and when they were measured. ``units`` are the multiprocessors of a
    GPU, among which whole tiles are dealt out; 0 for a processor whose kernels cut tiles as they like.
    """

    name: str
    flops: dict[str, float]
    bandwidth: float
    origin: str
    units: int = 0


DEVICES = (
    Device(
        "AMD EPYC (Zen 5), 2 cores",
        {"float32": 548e9, "bfloat16": 1.10e12, "float16": 548e9},
        71.5e9,
        "attnspec bench --ceilings, 24 November 2026; the copy ranged from 46 to 72 GB/s over six runs",
    ),
)
"""Processors whose ceilings were measured, for floors of the time a pattern takes."""


@dataclass(frozen=True)
class Prediction:
    """Seconds, and what bounds the forward pass: ``"compute"``, ``"memory"`` or, on a GPU, ``"occupancy"``."""

    device: str
    forward: float
    backward: float
    bound: str


def predict(cost: Cost, device: Device, dtype: str) -> Prediction | None:
    """The floor of a call on a device; None where the device's rate for the element type is not known."""
    rate = device.flops.get(dtype)
    if rate is None:
        return None
    compute, memory = cost.flops / rate, cost.bytes / device.bandwidth
    backward = max(cost.backward_flops / rate, cost.backward_bytes / device.bandwidth)
    return Prediction(device.name, max(compute, memory), backward, "compute" if compute >= memory else "memory")
