"""What a target is, and the list of them. A new one is a module with ``forward`` and ``backward``, and a line here."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from torch import Tensor

from attnspec.runtime.core.request import Call, Gradients, Result


class Target(Protocol):
    """Fused kernels for one kind of machine: forward and backward of a program on tensors that fit."""

    def forward(self, call: Call, keep: bool, *, into: tuple[Tensor, Tensor] | None = None) -> Result:
        """Attention. ``keep`` says that gradients may be wanted: then what backward needs is returned too.

        Outputs of parts are float32. ``into`` are an output and a log-sum-exp, float32, to which a part is added.
        """

    def backward(
        self,
        call: Call,
        result: Result,
        dout: Tensor,
        dlse: Tensor | None,
        wanted: Sequence[bool],
        *,
        into: Sequence[Tensor] | None = None,
    ) -> Gradients:
        """Gradients of a call from those of its output and (None: there are none) of its log-sum-exp.

        ``wanted`` says of which inputs. Computed again is what forward did not keep. The output and its gradient are of
        q's dtype; gradients of parts are float32. Without a norm, what weights are relative to is the log-sum-exp.
        ``into`` are the gradients of q, k and v, float32, to which those of a part are added.
        """


@dataclass(frozen=True)
class Place:
    """The module that is a target (imported when first called), and the kinds of devices whose tensors it takes."""

    module: str
    kinds: tuple[str, ...]


# For tensors on a device, "auto" is the first that takes them. (Triton's interpreter runs on the CPU, for tests.)
TARGETS: Mapping[str, Place] = {
    "cpp": Place("attnspec.runtime.cpp.run", ("cpu",)),
    "triton": Place("attnspec.runtime.triton.run", ("cpu", "cuda")),
}
NAMES = ("auto", *TARGETS, "dense")
"""What a pattern may be compiled for; ``"dense"`` is plain PyTorch."""


def kinds(name: str) -> tuple[str, ...]:
    """The kinds of devices on which tensors may be for one of the names."""
    places = [TARGETS[name]] if name in TARGETS else TARGETS.values()
    return tuple(dict.fromkeys(kind for place in places for kind in place.kinds))


@functools.cache
def target_of(name: str, kind: str) -> Target:
    """The target of a program for tensors on a kind of device."""
    place = TARGETS[name] if name in TARGETS else next(p for p in TARGETS.values() if kind in p.kinds)
    return cast(Target, import_module(place.module))
