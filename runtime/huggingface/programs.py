"""The compiled attention of a structure with what a layer adds to it: a cap of scores, sinks, a bias."""

from __future__ import annotations

from typing import NamedTuple

from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.huggingface.standin import Structure


class Wanted(NamedTuple):
    """What a layer asks for: a mask, and lines of scores."""

    structure: Structure
    softcap: float | None = None
    sinks: bool = False
    bias: bool = False


def program(wanted: Wanted) -> Attention:
    """Its attention, made once and then looked up. The cap is an argument of its kernel, which all caps share."""
    found = _PROGRAMS.get(wanted)
    if found is None:
        found = _PROGRAMS[wanted] = _made(wanted)
    return found


_PROGRAMS: dict[Wanted, Attention] = {}


def _made(wanted: Wanted) -> Attention:
    lines = []
    if wanted.softcap is not None:
        lines.append("score softcap(s, cap)")
    if wanted.bias:
        lines += ["input bias: float[batch, heads, n_q, n]", "score s + bias[b, h, q, k]"]
    if wanted.sinks:
        lines += ["input sinks: float[heads]", "sink sinks[h]"]
    params = {} if wanted.softcap is None else {"cap": float(wanted.softcap)}
    text = wanted.structure.text(lines, "(cap = 50.0)" if params else "")
    return compile(text, params=params)
