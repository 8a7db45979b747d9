"""Models in which no other attention can be put: they compute it themselves, or compute with its mask."""

from __future__ import annotations

import functools
import sys
from typing import Any

from transformers import PreTrainedModel

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.constant import constant

_INDEXED = ("axk2", "deepseek_v32", "dots3_note", "glm_moe_dsa", "hy_v4", "hy_v4_vl", "mistral_large4", "qwen4_exp")
_WITH_MASKS = frozenset((*_INDEXED, "doge", "git", "lasr", "minimax_m3_vl", "nemotron_asr_streaming", "parakeet"))
"""Models of transformers that ask for an attention and add something of their own to the mask before."""
_PLAIN = frozenset(("bloom", "falcon", "gpt_neo", "mpt", "openai", "xglm"))
"""Of those that compute attention themselves the ones whose masks are known all the same."""
_WHERE = "transformers.models."


def check_takes_ours(config: Any) -> None:
    """Raises CallError for a model in which our attention cannot be. One that is not transformers' own is let pass."""
    why = _why_not(type(config).__module__)
    if why:
        raise CallError(
            f"attnspec.transformers: {_model(config)} {why}, whatever attn_implementation is: there is no way to put "
            'another in its place. Load it with attn_implementation="eager", which is its own'
        )


def check_own_known(config: Any) -> None:
    """Raises CallError for a model whose own masks nobody can look up."""
    why, name = _why_not(type(config).__module__), _name(type(config).__module__)
    if why and name not in _WITH_MASKS | _PLAIN:
        raise CallError(f"attnspec.transformers: {_model(config)} {why}, and what it attends to is not known here")


def _model(config: Any) -> str:
    return type(config).__name__.removesuffix("Config")


def _name(module: str) -> str:
    return module.removeprefix(_WHERE).partition(".")[0] if module.startswith(_WHERE) else ""


@constant
def _why_not(module: str) -> str:
    """Why models whose config is of this module cannot have our attention; empty where they can."""
    return _looked_up(module)


@functools.cache
def _looked_up(module: str) -> str:
    if _name(module) in _WITH_MASKS:
        return "computes with its mask itself"
    modeling = module.replace(".configuration_", ".modeling_")
    for kind in vars(sys.modules.get(modeling, object)).values() if _name(module) else ():
        if isinstance(kind, type) and issubclass(kind, PreTrainedModel) and kind.__module__ == modeling:
            known: Any = kind
            return "" if known._can_set_attn_implementation() else "computes its attention itself"
    return ""
