"""What travels once although several parts need it: positions of a chunk that a rank gets, each once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from attnspec.codegen.ranks.needs import Ints, Spans
from attnspec.codegen.ranks.runs import Run, count, union
from attnspec.codegen.ranks.shards import Shards


class Wanted(NamedTuple):
    """Runs that ranks want: ``target`` of the chunks ``spans.at``, for a ``kind`` (a group of heads, a branch).

    ``spans.of`` are numbers of parts, unlike ones of unlike parts.
    """

    target: Ints
    kind: Ints
    spans: Spans


class Got(NamedTuple):
    """How many positions of a chunk go to a rank."""

    target: Ints
    chunk: Ints
    kind: Ints
    total: Ints


def distinct(wanted: Wanted, shards: Shards, kinds: int) -> Got:
    """How many positions each rank gets of each chunk, for each kind: those of several parts once."""
    number, spans = max(1, len(shards.owners)), wanted.spans
    name = (wanted.target * number + spans.at) * kinds + wanted.kind
    names, of = np.unique(name, return_inverse=True)
    total = np.zeros(len(names), dtype=np.int64)
    np.add.at(total, of, spans.lengths)
    low, high = np.full(len(names), 1 << 62), np.full(len(names), -1)
    np.minimum.at(low, of, spans.of)
    np.maximum.at(high, of, spans.of)
    several = np.flatnonzero(low != high)
    if len(several):
        order = np.argsort(of, kind="stable")
        begin = np.searchsorted(of[order], several)
        end = np.searchsorted(of[order], several, side="right")
        table = np.stack([spans.start, spans.stop, spans.step])[:, order]
        known: dict[bytes, int] = {}
        for name_of, a, b in zip(several.tolist(), begin.tolist(), end.tolist(), strict=True):
            runs = np.unique(table[:, a:b], axis=1)
            key = runs.tobytes()
            if key not in known:
                known[key] = count(union([Run(*run) for run in runs.T.tolist()]))
            total[name_of] = known[key]
    kind, rest = names % kinds, names // kinds
    return Got(rest // number, rest % number, kind, total)
