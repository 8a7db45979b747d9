"""What stands beside an example of the reference, and whether it is so."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

import attnspec
from attnspec.reference.entry import Entry
from attnspec.runtime.expressions.real import real
from attnspec.spec.spec import Spec

_MASK = re.compile(r"(query|row) (\d+) (sees|counts) ([\d ]+|nothing)")
_SCORE = re.compile(r"s = (\S+) becomes (\S+) at query (\d+), key (\d+)")
_SUM = re.compile(r"the weights of query (\d+) sum to (\S+)")
_SIZES = {"n": 8, "n_q": None, "heads": 1, "batch": 1, "h": 0, "b": 0}


def text_of(example: str) -> str:
    """A whole file: an example is one, or holds the clauses of an attention."""
    return example if re.search(r"^(pattern|attention)\b", example, re.M) else f"attention example {{\n{example}\n}}"


def differs(entry: Entry) -> str:
    """Where an example does not show what it says it does; nothing if it does."""
    spec = attnspec.read(text_of(entry.example))
    says, _, settings = entry.shows.partition(" (")
    given = eval(f"dict({settings.removesuffix(')')})", {"true": True, "false": False})  # text of our own
    sizes: dict[str, Any] = {key: given.pop(key, default) for key, default in _SIZES.items()}
    inputs = {key: np.asarray(value) for key, value in given.items()}
    if found := _MASK.fullmatch(says):
        return _mask(spec, *found.groups(), sizes, inputs)
    if found := _SCORE.fullmatch(says):
        return _score(spec, *map(float, found.groups()), sizes, inputs)
    if found := _SUM.fullmatch(says):
        zeros = torch.zeros(1, 1, sizes["n"], 4)
        total = attnspec.compile(text_of(entry.example), target="dense")(zeros, zeros, zeros + 1)[
            0, 0, int(found[1]), 0
        ]
        return "" if abs(float(total) - float(found[2])) < 1e-6 else f"they sum to {total}"
    return f"cannot be read: {entry.shows!r}"


def _mask(
    spec: Spec, what: str, number: str, word: str, keys: str, sizes: dict[str, Any], inputs: dict[str, Any]
) -> str:
    mask = spec.mask(sizes["n"], sizes["n_q"], sizes["heads"], sizes["batch"], inputs=inputs)
    rows = mask[sizes["b"], sizes["h"]]
    row = rows[int(number) - (spec.offset(sizes["n"], len(rows)) if what == "query" else 0)]
    values = np.flatnonzero(row) if word == "sees" else row.astype(int)
    right = " ".join(map(str, values)) or "nothing"
    return "" if keys == right else f"{what} {number} {word} {right}"


def _score(
    spec: Spec, before: float, after: float, q: float, k: float, sizes: dict[str, Any], inputs: dict[str, Any]
) -> str:
    env = {"q": np.array(int(q)), "k": np.array(int(k)), **spec.sizes(sizes["n"], heads=sizes["heads"])}
    env |= {name: np.array(sizes[name]) for name in ("h", "b")}
    floats = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in inputs.items()}
    if "alibi_slope" in str(spec):
        floats["alibi.slope"] = torch.tensor(_slopes(sizes["heads"]), dtype=torch.float64)
    value = float(real(spec.score, env, floats, torch.tensor(before, dtype=torch.float64)))
    return "" if abs(value - after) < 1e-9 else f"it becomes {value}"


def _slopes(heads: int) -> list[float]:
    """ALiBi's, where heads are a power of two (Press et al., 2022, section 3)."""
    assert heads & (heads - 1) == 0
    return [2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)]
