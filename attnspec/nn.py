"""Layers made of patterns, as ``torch.nn.Module``; :class:`attnspec.TokenStatistics` is another."""

from attnspec.runtime.modules.favor_attention import FavorAttention
from attnspec.runtime.modules.spec_attention import SpecAttention

__all__ = ["FavorAttention", "SpecAttention"]
