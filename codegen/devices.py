"""Devices with measured ceilings, by name: for floors of the time a pattern takes."""

from __future__ import annotations

from attnspec.codegen.roofline import Device

DEVICES = (
    Device(
        "H100 SXM (floor only: no GPU kernels yet)",
        {"bfloat16": 798e12, "float16": 798e12},
        3.0e12,
        "bf16 product of 8192 x 8192 random matrices and a device-to-device copy, torch 2.11, November 2026",
    ),
    Device(
        "H200 SXM (floor only: no GPU kernels yet)",
        {"bfloat16": 788e12, "float16": 788e12},
        4.3e12,
        "bf16 product of 8192 x 8192 random matrices and a device-to-device copy, torch 2.11, October 2026",
    ),
)
