"""Layers made of patterns, as ``torch.nn.Module``."""

from attnspec.runtime.modules.spec_attention import SpecAttention

__all__ = ["SpecAttention"]
