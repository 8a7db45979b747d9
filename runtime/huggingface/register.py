"""A name under which models find our attention: ``attnspec.transformers.register``."""

from __future__ import annotations

from transformers import AttentionInterface, AttentionMaskInterface

from attnspec.runtime.huggingface.attention import attention
from attnspec.runtime.huggingface.masks import mask


def register(name: str = "attnspec") -> None:
    """Let models of transformers take their attention from here, ``attn_implementation=name``, with their own masks."""
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
