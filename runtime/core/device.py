"""Devices by name, and what a machine with a GPU is made of."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch
from torch import Tensor

from attnspec.runtime.core.visible import visible

NAMES = ("cpu", "cuda")


class DeviceError(RuntimeError):
    """A device that was asked for is not there."""


def device_of(name: str) -> torch.device:
    """The device of a name. Raises DeviceError where it is not there, with the reason.

    >>> device_of("cpu")
    device(type='cpu')
    """
    if name not in NAMES:
        raise DeviceError(f"there is no device {name!r}; the devices are {' and '.join(NAMES)}")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = torch.version.cuda or getattr(torch.version, "hip", None)
        why = (
            "torch finds no GPU or no driver for it (try nvidia-smi)"
            if built
            else f"torch {torch.__version__} is a build for the CPU only"
        )
        raise DeviceError(f"there is no CUDA device here: {why}")
    return torch.device("cuda", torch.cuda.current_device())


def capturing() -> bool:
    """Whether a CUDA graph is being captured: then nothing may wait for the device, or be copied to it."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def lasting() -> bool:
    """Whether what is made now holds numbers, and may be kept: not where torch traces with fake tensors."""
    return visible(torch.empty(0))


def on_device(make: Callable[..., Tensor], *arguments: Hashable, device: torch.device | str) -> Tensor:
    """What ``make`` makes of some arguments, on a device: copied there once and kept, for calls that follow."""
    where = torch.device(device)
    if where.type == "cpu" or not lasting():
        return make(*arguments).to(where)
    return _kept(make, arguments, where)


@lru_cache(maxsize=64)
def _kept(make: Callable[..., Tensor], arguments: tuple[Hashable, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept may later be needed for gradients
        return make(*arguments).to(device)


def name_of(device: torch.device) -> str:
    """A device's name for people, and the key under which its ceilings are kept."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
