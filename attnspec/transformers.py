"""Models of Hugging Face's transformers whose attention is ours."""

from importlib.util import find_spec

if find_spec("transformers") is None:
    raise ModuleNotFoundError("attnspec.transformers needs transformers: pip install 'attnspec[hf]'")

from attnspec.report.model import report
from attnspec.runtime.huggingface.cache import cache
from attnspec.runtime.huggingface.register import register

__all__ = ["cache", "register", "report"]
