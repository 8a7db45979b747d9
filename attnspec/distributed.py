"""One sequence over many devices within what PyTorch has: see :func:`attnspec.distribute`."""

from attnspec.runtime.distributed.balancer import LoadBalancer
from attnspec.runtime.distributed.distribute import Distributed
from attnspec.runtime.distributed.style import ContextParallel

__all__ = ["ContextParallel", "Distributed", "LoadBalancer"]
