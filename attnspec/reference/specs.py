"""The shipped specs in words: one line each, in groups, or one in full.

>>> lines("triangle", 60)
''
>>> print(lines("child", 60))
long sequences
  sparse_fixed   Sparse Transformer, fixed (Child et al.,...
  sparse_strided Sparse Transformer, strided (Child et...
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Any

from attnspec.check.check import Signature, check_text, signature
from attnspec.check.parameters import write
from attnspec.errors.source import Source
from attnspec.language.load import load, shipped
from attnspec.language.parse import parse
from attnspec.reference.entry import fenced, table
from attnspec.spec.parts import Input

GROUPS = {
    "language models": (
        "causal", "window", "sinks", "streaming", "streaming_cache", "chunked", "blockwise_causal", "prefix_lm",
        "prefix_lm_lengths", "gpt_oss", "block_diffusion", "tree", "dense",
    ),
    "packed and padded batches": (
        "packed", "packed_offsets", "packed_window", "padded", "left_padded", "segments", "shared_question",
    ),
    "long sequences": (
        "longformer", "longformer_dilated", "dilated", "bigbird", "bigbird_mixture", "sparse_fixed", "sparse_strided",
        "logsparse", "longnet", "longnet_branch", "reformer", "reformer_bucket",
    ),
    "blocks chosen in the call": ("block_table", "block_topk"),
    "images": ("axial", "neighborhood_2d", "neighborhood_2d_shifted", "swin"),
    "positions and biases": (
        "alibi", "alibi_window", "rope", "llama3", "yarn", "longrope", "mrope", "rope_2d", "xpos",
        "t5_bias", "softcap", "transformer_xl_positions",
    ),
    "without softmax": (
        "linear", "linear_documents", "linear_window", "linear_dilated", "performer", "performer_causal",
        "performer_google", "latte", "latte_bidirectional", "tost", "retention", "mamba2", "gla", "delta",
        "gated_delta", "forgetting", "infini", "lolcats",
    ),
    "axes and memory": ("etc", "hierarchical", "longformer_axes", "memory"),
    "segment by segment": ("rmt", "rmt_both_ways", "hmt", "transformer_xl", "memory_layers"),
}  # fmt: skip
"""The shipped specs by what they are for; each is in one group."""


@cache
def signature_of(name: str) -> Signature:
    """What a shipped spec is called with, and its text of documentation."""
    text, filename, attention = load(name)
    return signature(parse(Source(filename, text)), attention)


def summary(name: str) -> str:
    """The first sentence of what documents a shipped spec."""
    paragraph = " ".join(signature_of(name).doc.strip().split("\n\n")[0].split())
    return re.split(r"(?<!\bal)(?<!\.)\.(?:\s|$)", paragraph)[0]


def group_of(name: str) -> str:
    """The group of a shipped spec."""
    return next(group for group, names in GROUPS.items() if name in names)


def chosen(word: str = "") -> dict[str, list[str]]:
    """The names of shipped specs by group: those in whose name, group or documentation a word occurs."""
    found = {
        group: [name for name in names if word.lower() in f"{name} {group} {signature_of(name).doc}".lower()]
        for group, names in GROUPS.items()
    }
    return {group: names for group, names in found.items() if names}


def lines(word: str = "", width: int | None = None) -> str:
    """One line for each of them, cut at a width, under the names of their groups."""
    found = chosen(word)
    longest = max((len(name) for names in found.values() for name in names), default=0)
    out = []
    for group, names in found.items():
        out.append(group)
        for name in names:
            line = summary(name)
            if width is not None:
                line = textwrap.shorten(line, max(20, width - longest - 3), placeholder="...")
            out.append(f"  {name:<{longest}} {line}")
    return "\n".join(out)


def in_full(name: str) -> str:
    """All there is to say of a shipped spec: its documentation, parameters, inputs, a call and its text."""
    text, filename, _ = load(name)
    called = signature_of(name)
    inputs = check_text(text, filename=filename).inputs
    arguments = "".join(f", {p.name}={_python(write(p.default))}" for p in called.parameters if p.default is not None)
    given = "".join(f", {i.name}={i.name}" for i in inputs if i.random is None)
    parts = [f"## {name}", called.doc.strip(), f"Group: {group_of(name)}."]
    if called.parameters:
        rows = [(p.name, "" if p.default is None else write(p.default)) for p in called.parameters]
        parts.append(table(("parameter", "default"), rows))
    if inputs:
        parts.append(table(("input", "type", "shape (with these parameters)", ""), [_row(i) for i in inputs]))
    parts.append(fenced(f'attend = attnspec.compile("{name}"{arguments})\nout = attend(q, k, v{given})', "python"))
    parts.append(fenced(text.strip()))
    return "\n\n".join(parts)


def to_dict(name: str) -> dict[str, Any]:
    """The same for programs."""
    text, filename, _ = load(name)
    called = signature_of(name)
    inputs = check_text(text, filename=filename).inputs
    return {
        "name": name,
        "group": group_of(name),
        "doc": called.doc,
        "parameters": {p.name: p.default for p in called.parameters},
        "inputs": {i.name: {"type": i.kind, "shape": _shape(i), "form": i.form} for i in inputs},
        "text": text,
    }


def shipped_only(names: Sequence[str]) -> None:
    """Raises FileNotFoundError, with a suggestion, for the first name that is not one of a shipped spec."""
    for name in names:
        if name not in shipped():
            if found := [other for group in chosen(name).values() for other in group]:
                raise FileNotFoundError(
                    f"no shipped spec is called {name!r}; `attnspec list --filter {name}` finds {', '.join(found)}"
                )
            load(name)
            raise FileNotFoundError(f"{name!r} is no shipped spec: `attnspec check` and `inspect` look at files")


def _shape(item: Input) -> list[str]:
    sizes = [str(size) for size in item.sizes]
    return [*sizes[:-1], "documents + 1"] if item.form == "offsets" else sizes


def _row(item: Input) -> tuple[str, str, str, str]:
    says = {"sorted": "never decreases", "offsets": "0, ..., n: where each document begins"}.get(item.form, "")
    if item.random is not None:
        says = "drawn where it is not given"
    return item.name, item.kind, f"({', '.join(_shape(item))})" if item.sizes else "one number", says


def _python(value: str) -> str:
    return {"true": "True", "false": "False"}.get(value, value)
