"""Devices with measured ceilings, by name: for floors of the time a pattern takes."""

from __future__ import annotations

from attnspec.codegen.cost.roofline import Device

DEVICES = (
    Device(
        "AMD EPYC (Zen 5), 2 cores",
        {"float32": 548e9, "bfloat16": 1.10e12, "float16": 548e9},
        71.5e9,
        "attnspec bench --ceilings, 24 November 2026; the copy ranged from 46 to 72 GB/s over six runs",
    ),
)
