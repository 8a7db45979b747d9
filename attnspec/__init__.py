"""A compiler for attention patterns: say which query may attend to which key, get a fused kernel.

>>> import attnspec
>>> spec = attnspec.read("attention near { attend |q - k| <= 1 }")
>>> spec.mask(n=3).astype(int)[0, 0].tolist()
[[1, 1, 0], [1, 1, 1], [0, 1, 1]]

The language is explained by ``attnspec help`` on the command line: the text of ``attnspec/language/REFERENCE.md``.
Importing this package imports neither torch nor the solver: they load with the first use of ``attnspec.compile``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = [
    "Attention",
    "Cache",
    "CallError",
    "Distributed",
    "Recurrent",
    "Spec",
    "SpecError",
    "TokenStatistics",
    "checkpoint_policy",
    "compile",
    "distribute",
    "merge",
    "read",
    "recurrent",
    "shipped",
]

if TYPE_CHECKING:
    from attnspec import distributed as distributed
    from attnspec import flex as flex
    from attnspec import nn as nn
    from attnspec import transformers as transformers
    from attnspec.errors.diagnostic import SpecError
    from attnspec.language.load import shipped
    from attnspec.runtime.attention import Attention, compile
    from attnspec.runtime.caches.cache import Cache
    from attnspec.runtime.core.errors import CallError
    from attnspec.runtime.cpp.merge import merge
    from attnspec.runtime.distributed.checkpoint import checkpoint_policy
    from attnspec.runtime.distributed.distribute import Distributed, distribute
    from attnspec.runtime.modules.token_statistics import TokenStatistics
    from attnspec.runtime.recurrent.recurrent import Recurrent, recurrent
    from attnspec.spec.spec import Spec


def read(source: str, *, params: dict[str, Any] | None = None, **more: Any) -> Spec:
    """The checked pattern of a shipped name, a path or source text. Raises SpecError with all mistakes found."""
    from attnspec.check.check import check_text
    from attnspec.language.load import load

    text, filename, name = load(source)
    return check_text(text, name, {**(params or {}), **more}, filename)


_HOMES = {
    "compile": "attnspec.runtime.attention",
    "merge": "attnspec.runtime.cpp.merge",
    "checkpoint_policy": "attnspec.runtime.distributed.checkpoint",
    "Distributed": "attnspec.runtime.distributed.distribute",
    "distribute": "attnspec.runtime.distributed.distribute",
    "Recurrent": "attnspec.runtime.recurrent.recurrent",
    "recurrent": "attnspec.runtime.recurrent.recurrent",
    "Attention": "attnspec.runtime.attention",
    "Cache": "attnspec.runtime.caches.cache",
    "CallError": "attnspec.runtime.core.errors",
    "SpecError": "attnspec.errors.diagnostic",
    "Spec": "attnspec.spec.spec",
    "TokenStatistics": "attnspec.runtime.modules.token_statistics",
    "shipped": "attnspec.language.load",
}
_MODULES = ("distributed", "flex", "nn", "transformers")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"attnspec.{name}")
    raise AttributeError(f"module 'attnspec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
