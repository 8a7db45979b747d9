"""Queries against keys that are kept in pieces: each piece is a part of the score matrix, added to in the kernel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.codegen.plan.lengths import NARROW_LENGTH
from attnspec.relation.sizes import Sizes
from attnspec.runtime.caches.strip import Piece
from attnspec.runtime.core.program import Program
from attnspec.runtime.core.request import Call, Part
from attnspec.runtime.prepare.apart import turned_queries
from attnspec.runtime.prepare.inputs import Wanted, reads
from attnspec.runtime.prepare.rotate import turned
from attnspec.runtime.prepare.turning import keys_turn_once
from attnspec.runtime.targets import target_of
from attnspec.spec.spec import Spec


@dataclass(frozen=True, eq=False)
class Rows:
    """A pattern with what follows from its text, found once: a step of decoding has no time to look at it.

    ``names`` are the inputs of its kernel, ``wanted`` what is made ready for it, ``reads`` says that something comes
    with a call or is made for it, ``once`` that keys are stored turned, ``turns`` that queries turn.
    """

    spec: Spec
    program: Program
    names: tuple[str, ...]
    wanted: Wanted
    reads: bool
    once: bool
    turns: bool

    @classmethod
    def of(cls, spec: Spec, program: Program) -> Rows:
        """Of a checked pattern."""
        turns = bool(spec.rotations or spec.normalized)
        read = bool(spec.inputs or reads(spec))
        return cls(spec, program, tuple(names(spec)), Wanted.of(spec), read, keys_turn_once(spec), turns)

    def __call__(
        self, q: Tensor, pieces: Iterable[Piece], part: Part, scale: float | None, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp, float32, of queries that see what stands in some pieces, without the sink.

        ``part`` says where the queries lie; keys are those of the pieces, turned already where they turn once.
        """
        spec = self.spec
        if scale is None:
            scale = 1.0 / math.sqrt(q.shape[-1]) if spec.scale is None else spec.scale
        found = self._prepared(q, part, inputs) if self.reads or inputs else {}
        target = target_of(self.program.target, q.device.type)
        given, encoded = [found[name] for name in self.names], self.program.encoded
        sums: tuple[Tensor, Tensor] | None = None
        for start, k, v in pieces:
            at, by_q = part if start == part.k_start else part._replace(k_start=start), q
            if self.turns and not self.once:
                by_q, k = turned(spec, q, k, at.sizes(q, k, spec.align, None), found, compiled=True)
            elif self.turns and sums is None:
                by_q = q = turned_queries(spec, q, at.sizes(q, k, spec.align, None), found)
            call = Call(by_q, k, v, given, None, None, float(scale), encoded, at)
            out, lse, *_ = target.forward(call, False, into=sums)
            sums = out, lse
        if sums is None:
            raise ValueError("there are no keys")
        return sums

    def _prepared(self, q: Tensor, part: Part, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        whole = Sizes(part.n, part.n_q, part.heads, part.kv_heads, part.batch, self.spec.align == "end")
        return self.wanted.at(whole, wide=max(part.n, part.n_q) > NARROW_LENGTH)(inputs, q.device)
