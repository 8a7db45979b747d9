"""The middle of a call whose weights are products of features: sums over its pattern, of features that are made.

A pattern without its other lines is one more pattern, ``linear x`` and undivided, of the same target: what stands
around it is left to operations of tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.relation.sizes import Sizes
from attnspec.runtime import attend as around
from attnspec.runtime.core.program import Program, decode, facts
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.dense.pairs import counted
from attnspec.runtime.linear.operators import attended
from attnspec.spec import expr as e
from attnspec.spec.feature import CHANNEL, Vector
from attnspec.spec.parts import Clause, Input
from attnspec.spec.real import Real, RealRead
from attnspec.spec.spec import Spec
from attnspec.spec.weights import STEP, Weights


@dataclass(frozen=True, eq=False)
class CoreSums:
    """``out_i = sum over j of (a_i . b_j) D_ij v_j`` over the pairs of a pattern, with ``D`` where there are gates.

    ``program`` is the pattern without its other lines, for the target of the whole one; ``gates`` the name of the input
    that holds the logarithms of steps, None where nothing decays.
    """

    spec: Spec
    program: str
    gates: str | None

    @staticmethod
    @functools.lru_cache(maxsize=128)
    def of(whole: str, decay: int, past: bool = False) -> CoreSums:
        """Of a program. ``decay``: how many dimensions gates have (3, or 4 by channel), 0 for none.

        ``past``: without the pairs of a position with itself. Raises SpecError where there are no kernels.
        """
        program = decode(whole)
        spec = spec_of(program)
        inputs = spec.read_by(*(branch.pred for branch in spec.branches))
        line, gates = None, None
        if decay:
            gates = next(name for name in ("gates", "gates_", "gates__") if name not in {one.name for one in inputs})
            names = (e.Var("b"), e.Var("h"), STEP, CHANNEL)[:decay]
            line = RealRead(gates, names)
            sizes = tuple(map(e.Var, ("batch", "heads", "n", "features")[:decay]))
            inputs = (*inputs, Input(gates, "float", sizes))
        before = (Clause(e.Cmp("<", e.Var("k"), e.Var("q")), spec.span),) if past else ()
        core = Spec(
            spec.name, (), spec.attend, (*spec.within, *before), spec.align, "", spec.span, mixture=spec.mixture,
            inputs=inputs, weights=Weights(Vector(), Vector(), decay=line),
        )  # fmt: skip
        own = Program.of(str(core), f"{spec.name}, sums", None, {}, program.tile, program.layout, program.target)
        facts(own)
        return CoreSums(replace(spec_of(own), name=spec.name), own.encoded, gates)

    def __call__(self, a: Tensor, b: Tensor, v: Tensor, gates: Tensor | None, inputs: Mapping[str, Tensor]) -> Tensor:
        """The sums (batch, heads, n_q, dim_v), of the dtype of all: float64 of the target dense, else float32.

        a is (batch, heads, n_q, features), b (batch, kv_heads, n, features), v (batch, kv_heads, n, dim_v); ``inputs``
        are those of the call, as they were given.
        """
        given = self.read(inputs)
        if self.gates is not None:
            assert gates is not None
            given[self.gates] = gates
        if decode(self.program).target == "dense":
            return _dense(self.spec, a, b, v, 1.0, given)[0]
        return attended(self.program, a, b, v, 1.0, given)[0]

    def read(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of a call's inputs that the pairs depend on."""
        return {declared.name: inputs[declared.name] for declared in self.spec.inputs if declared.name != self.gates}

    def counts(self, sizes: Sizes, inputs: Mapping[str, Tensor]) -> Tensor:
        """How often each pair of a call counts, (batch or 1, heads or 1, n_q, n)."""
        found = counted(self.spec, sizes, self.read(inputs))
        assert isinstance(found, Tensor)  # branches are told apart only where gradients of their weights are
        return found


@functools.lru_cache(maxsize=128)
def undivided(whole: str) -> str:
    """A program whose kernels add up what those of another do, with totals where that one divides, and do not divide.

    It takes vectors that are normalized and rotated already: by their positions in the sequence, on which features may
    depend. Raises SpecError where there are no kernels.
    """
    program = decode(whole)
    spec = spec_of(program)
    by = None if spec.weights.divide is None else Real(1.0)
    core = replace(spec, weights=replace(spec.weights, divide=by), rotations=(), normalized=frozenset())
    own = Program.of(str(core), f"{spec.name}, sums", None, {}, program.tile, program.layout, program.target)
    facts(own)
    return own.encoded


def _dense(*arguments: object) -> tuple[Tensor, Tensor]:
    run = _untraced if torch.compiler.is_compiling() else around.dense
    return run(*arguments)  # type: ignore[arg-type]


_untraced = _disable_dynamo(around.dense)
