"""Code written for FlexAttention (``torch.nn.attention.flex_attention``), over kernels of ours."""

from attnspec.runtime.flex.attention import flex_attention
from attnspec.runtime.flex.imported import Imported, spec_of

__all__ = ["Imported", "flex_attention", "spec_of"]
