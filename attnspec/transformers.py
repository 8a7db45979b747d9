"""Models of Hugging Face's transformers whose attention is ours."""

from importlib.metadata import PackageNotFoundError, version

try:
    _found = version("transformers")
except PackageNotFoundError:
    raise ModuleNotFoundError("attnspec.transformers needs transformers: pip install 'attnspec[hf]'") from None
if not (5, 20) <= tuple(int(part) for part in _found.split(".")[:2]) < (6, 0):
    raise ImportError(f"attnspec.transformers is for transformers 5.20 and later ones before 6, not {_found}")

from attnspec.report.model import report
from attnspec.runtime.huggingface.cache import cache
from attnspec.runtime.huggingface.register import register

__all__ = ["cache", "register", "report"]
