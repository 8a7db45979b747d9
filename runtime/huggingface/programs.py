"""The compiled attention of a structure with what a layer adds to it: a cap of scores, sinks, a bias."""

from __future__ import annotations

from typing import NamedTuple

from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.huggingface.constant import Numbered, constant
from attnspec.runtime.huggingface.standin import Structure

NO_MASK = 0
"""Stands for no structure: every query sees every key that is given."""


class Wanted(NamedTuple):
    """What a layer asks for: a mask, by the number of its structure, and lines of scores."""

    structure: int
    softcap: float | None = None
    sinks: bool = False
    bias: bool = False


def program(wanted: Wanted) -> Attention:
    """Its attention, made once and then looked up. The cap is an argument of its kernel, which all caps share."""
    found: Attention = _PROGRAMS.numbered(_number(*wanted))
    return found


_PROGRAMS = Numbered()


@constant
def _number(structure: int, softcap: float | None, sinks: bool, bias: bool) -> int:
    """The number of an attention. torch.compile calls this while it traces: it cannot trace a compiler."""
    wanted = Wanted(structure, softcap, sinks, bias)
    return _PROGRAMS.number(wanted, lambda _: _made(wanted))


def _made(wanted: Wanted) -> Attention:
    lines = []
    if wanted.softcap is not None:
        lines.append("score softcap(s, cap)")
    if wanted.bias:
        lines += ["input bias: float[batch, heads, n_q, n]", "score s + bias[b, h, q, k]"]
    if wanted.sinks:
        lines += ["input sinks: float[heads]", "sink sinks[h]"]
    params = {} if wanted.softcap is None else {"cap": float(wanted.softcap)}
    parameters = "(cap = 50.0)" if params else ""
    structure = Structure.numbered(wanted.structure)
    if wanted.structure == NO_MASK:
        text = f"attention huggingface{parameters} {{ {'  '.join(lines)} }}"
    else:
        assert structure is not None
        text = structure.text(lines, parameters)
    return compile(text, params=params)
