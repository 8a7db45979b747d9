"""Code written for FlexAttention (``torch.nn.attention.flex_attention``), over kernels of ours."""

from attnspec.runtime.flex.imported import Imported, spec_of

__all__ = ["Imported", "spec_of"]
