"""Attention over many ranks in a model that is there already: a style for ``parallelize_module``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.tensor.parallel import ParallelStyle

from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.distributed.distribute import Distributed

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class ContextParallel(ParallelStyle):
    """Modules that call an attention call it over many ranks.

    >>> far = attnspec.distribute(attend, mesh["cp"], n=1 << 20, heads=32, dim=128)  # doctest: +SKIP
    >>> plan = {"layers.*.attention": ContextParallel(far)}  # doctest: +SKIP
    >>> model = parallelize_module(model, mesh["cp"], plan)  # doctest: +SKIP
    >>> loss = model(far.shard(ids, dim=1), labels=far.shard(labels, dim=1, pad=-100))  # doctest: +SKIP

    In a module with this style the attribute that holds ``far.attend``, or an attention compiled from the same text
    with the same parameters (as :class:`attnspec.nn.SpecAttention` has in ``attend``), is replaced by ``far``. What the
    module is called with are then the rows of a rank, plain tensors or DTensors with ``Shard(2)``, and so is what it
    returns. Positions that the model adds or rotates by itself are :attr:`Distributed.positions`.

    Raises CallError where a module holds no such attention, or another one, and where the mesh is not far's.
    """

    def __init__(self, far: Distributed) -> None:
        super().__init__()
        self.far = far

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        """What ``parallelize_module`` calls for each module that is named."""
        name, what = self.far.attend.spec.name, type(module).__name__
        if device_mesh.size() != self.far.ranks or device_mesh.get_local_rank() != self.far.rank:
            raise CallError(
                f"{name}: {what} is parallelized over {device_mesh}, and this attention is rank {self.far.rank} of "
                f"{self.far.ranks}"
            )
        held = {label: value for label, value in vars(module).items() if isinstance(value, Attention)}
        if not held:
            raise CallError(f"{name}: {what} holds no attention: name the module that has one as an attribute")
        for label, attend in held.items():
            if attend.program != self.far.attend.program:
                raise CallError(f"{name}: {what}.{label} is {attend!r}, and not {self.far.attend!r}")
            setattr(module, label, self.far)
        return module
