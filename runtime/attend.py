"""What a pattern does beside the kernel: inputs checked, vectors rotated, orders computed, sinks evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.relation.sizes import Sizes
from attnspec.runtime import operators as operator
from attnspec.runtime import transforms
from attnspec.runtime.core.arguments import CallError, check_tensors
from attnspec.runtime.core.norm import log_of_totals
from attnspec.runtime.core.program import decode
from attnspec.runtime.core.request import EMPTY, Call, sizes_of
from attnspec.runtime.core.visible import array, traced, transforming, visible
from attnspec.runtime.cpp.merge import mixed
from attnspec.runtime.cpp.turn import turns
from attnspec.runtime.dense import softmax as oracle
from attnspec.runtime.dense.linear import dense_linear
from attnspec.runtime.dense.pairs import counted, past
from attnspec.runtime.dense.rows import Scored
from attnspec.runtime.flops import watched
from attnspec.runtime.linear.favor import by_branch
from attnspec.runtime.linear.operators import attended
from attnspec.runtime.linear.work import vector_sizes
from attnspec.runtime.prepare.inputs import check_vectors, prepare, read_by_rotations, read_by_rotations_only
from attnspec.runtime.prepare.operator import ORDER, made_names, ready, traced_tables
from attnspec.runtime.prepare.order import hash_buckets
from attnspec.runtime.prepare.rotate import half_turned, turned, turned_by
from attnspec.runtime.prepared import Prepared
from attnspec.runtime.sink import sink, traced_sink
from attnspec.spec import contents
from attnspec.spec.real import RealRead
from attnspec.spec.spec import Spec


@dataclass(frozen=True, eq=False)
class Around:
    """A pattern with what follows from its text, found once so that torch.compile need not trace how.

    ``reads`` are the inputs of its kernel, ``made`` those of them and of what stands around it that are not float
    inputs, ``floats`` the float inputs that become float32, ``angles`` those that rotations read. ``turns`` says that
    the C++ kernels can turn the queries.
    """

    spec: Spec
    program: str
    reads: tuple[str, ...]
    made: tuple[str, ...]
    floats: frozenset[str]
    angles: frozenset[str]
    turns: bool

    @classmethod
    def of(cls, spec: Spec, program: str) -> Around:
        """Of a checked pattern."""
        floats = frozenset(i.name for i in spec.inputs if i.kind == "float") - read_by_rotations_only(spec)
        turns = [rotation.start for rotation in spec.rotations] == [0] and decode(program).target != "triton"
        return cls(spec, program, tuple(names(spec)), tuple(made_names(spec)), floats, read_by_rotations(spec), turns)

    def call(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float | None,
        inputs: Mapping[str, Tensor],
        known: Prepared | None = None,
    ) -> tuple[Call, Sizes, dict[str, Tensor]]:
        """A call of vectors that are not rotated yet, its sizes, and its inputs made ready."""
        if known is None:
            found, sizes = self._ready(q, k, inputs), sizes_of(self.spec, q, k)
        else:
            found, sizes = known.ready(q, inputs), known.sizes
        return self._call(q, k, v, scale, found, sink(self.spec, sizes, found, q.device)), sizes, found

    def traced(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, inputs: Mapping[str, Tensor]) -> Call:
        """A call of vectors that are rotated already, where tensors are traced."""
        found = self._ready(q, k, inputs)
        made = traced_sink(self.spec, self.program, q, k, found)
        tables: list[Tensor] = []
        if self.spec.rotations:
            read = {name: t for name, t in found.items() if name not in self.floats or name in self.angles}
            tables = traced_tables(self.program, q, k, read)
        return self._call(*turned_by(self.spec, q, k, tables), v, scale, found, made)

    def of_rows(self, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The sink, (batch, heads) or (batch, heads, n_q), float32; None where the pattern has none."""
        found = self._ready(q, k, inputs)
        if traced(q, *inputs.values()):
            return traced_sink(self.spec, self.program, q, k, found)
        return sink(self.spec, sizes_of(self.spec, q, k), found, q.device)

    def _ready(self, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return ready(self.spec, self.program, self.made, self.floats, q, k, inputs)

    def _call(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, found: Mapping[str, Tensor], made: Tensor | None
    ) -> Call:
        if scale is None:
            scale = 1.0 / math.sqrt(q.shape[-1]) if self.spec.scale is None else self.spec.scale
        tensors = [found[name] for name in self.reads]
        return Call(q, k, v, tensors, found.get(ORDER), made, float(scale), self.program)


def bare(
    program: str, q: Tensor, k: Tensor, v: Tensor, scale: float | None, keep: bool, known: Prepared | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, log-sum-exp and norm (if ``keep``) of a pattern that is a mask and no more.

    ``known`` is for tensors that :func:`attnspec.runtime.core.direct.direct` lets pass.
    """
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1]) if known is None else known.scale
    call, grows = Call(q, k, v, (), None, None, float(scale), program), operator.keeps(q, k, v)
    if known is not None:
        out, lse, norm, _ = operator.attended_at_once(call, keep, grows)
    else:
        out, lse, norm, _ = transforms.attend(call, keep or grows)
    return out, lse, norm


def attend(
    around: Around,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    inputs: Mapping[str, Tensor],
    keep: bool = False,
    known: Prepared | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, log-sum-exp and norm (if ``keep``) of a pattern that is more than a mask.

    ``known`` is for tensors that :func:`attnspec.runtime.core.direct.direct` lets pass.
    """
    if around.spec.order is not None and q.shape[2] != k.shape[2]:
        name = around.spec.name
        raise CallError(f"{name}: an order needs as many queries as keys, not {q.shape[2]} and {k.shape[2]}")
    if known is None and traced(q, *(t for t in inputs.values() if isinstance(t, Tensor))):
        call = around.traced(q, k, v, scale, inputs)
        keep = keep or operator.keeps(call.q, call.k, v, call.sink, *call.inputs)
    else:
        call, sizes, found = around.call(q, k, v, scale, inputs, known)
        grows = operator.keeps(q, k, v, call.sink, *call.inputs, *[found[name] for name in around.angles])
        kept = () if known is None else known.angles
        if not (keep or grows) and around.turns and turns(q) and (known is not None or visible(q)):
            # Each query is loaded once: turned then, it is not written to memory. (Gradients need turned queries.)
            q, k, by = half_turned(around.spec, q, k, sizes, found, kept)
            return (*operator.attended_turning(call._replace(q=q, k=k), by, known is not None), EMPTY)
        if around.spec.rotations or around.spec.normalized:
            q, k = turned(around.spec, q, k, sizes, found, True, kept)
            call = call._replace(q=q, k=k)
        if known is not None:
            out, lse, norm, _ = operator.attended_at_once(call, keep, grows)
            return out, lse, norm
        keep = keep or grows
    out, lse, norm, _ = transforms.attend(call, keep)
    return out, lse, norm


def linear(
    spec: Spec,
    program: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    inputs: Mapping[str, Tensor],
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    """Output and, if asked for, the logarithm of the total weight, where weights are products of features."""
    check_tensors(spec.name, inputs)
    watched()
    out, total = attended(program, q, k, v, None if scale is None else float(scale), inputs, return_lse)
    if not return_lse:
        return out, EMPTY
    return out, log_of_totals(total)


def dense(
    spec: Spec, q: Tensor, k: Tensor, v: Tensor, scale: float | None, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The same over the whole mask in plain PyTorch. With given shares there is no log-sum-exp: it is NaN."""
    sizes = sizes_of(spec, q, k)
    if transforming():
        inputs = {name: t if t.is_floating_point() else torch.from_numpy(array(t)) for name, t in inputs.items()}
    if spec.composed:
        rest, own = by_branch(spec.parts, inputs)
        parts = [dense(one, q, k, v, scale, own_inputs) for one, own_inputs in zip(spec.parts, own, strict=True)]
        found = prepare(spec, sizes, rest, real=q.dtype, device=q.device)
        block = oracle.Block(range(sizes.batch), range(sizes.heads), np.arange(sizes.n_q))
        return mixed(parts, *oracle.of_rows(spec, parts[0][1], sizes, found, block), spec.detached)
    linear, given = spec.weights.linear, dict(inputs)
    projection = given.pop("projection", None) if any(part.favors for part in spec.weighings) else None
    found = prepare(spec, sizes, given, real=torch.float64 if linear else q.dtype, device=q.device)
    check_vectors(spec, sizes, found, vector_sizes(spec, q, v))
    if spec.order is not None and "buckets" not in given:
        given["buckets"] = hash_buckets(q, spec.order)
    counts = counted(spec, sizes, given)
    if linear:
        recalled = past(spec, sizes, given)
        turned_q, turned_k = turned(spec, q.double(), k.double(), sizes, found)
        whole = counts if isinstance(counts, Tensor) else oracle.together(counts)
        out, lse = dense_linear(spec, turned_q, turned_k, v, scale, found, whole, sizes, recalled, projection)
        return out.to(q.dtype), lse if q.dtype == torch.float64 else lse.float()
    out, lse = oracle.dense(spec, q, k, v, scale, found, counts, sizes)
    return out, lse if q.dtype == torch.float64 else lse.float()


def no_vectors(spec: Spec, k: Tensor | None, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """What stands for q and k in a call that has neither. Raises CallError where a pattern needs them."""
    if v is None or k is not None or not spec.weights.constant:
        raise CallError(f"{spec.name}: a call takes q, k and v; only where features are constant v alone, attend(v=v)")
    ones = v.new_ones((*v.shape[:3], 1))
    return ones, ones


def check_results(spec: Spec, scale: float | None, lse: bool, largest: bool) -> None:
    """Raises CallError where a log-sum-exp, or largest scores, are asked of weights that have none."""
    if spec.composed:
        for part in spec.alone:
            check_results(part, scale, not spec.shared, largest)
    weights = spec.weights
    if not weights.linear or spec.composed:
        return
    if largest:
        raise CallError(
            f"{spec.name}: there are no scores of which one is the largest: weights are products of features"
        )
    if not lse:
        return
    factor = scale if scale is not None else 1.0 if spec.scale is None else spec.scale
    why = ""
    if not weights.divides_by_total:
        why = "the divisor is not `total`" if weights.divide is not None else "nothing is divided by the total"
    elif not weights.never_negative:
        why = "features may be negative"
    elif factor <= 0:
        why = f"the scale is {factor:g}"
    if why:
        raise CallError(f"{spec.name}: the total of the weights has no logarithm that could be returned: {why}")


def largest(spec: Spec, q: Tensor, k: Tensor, scale: float | None, inputs: Mapping[str, Tensor]) -> Tensor:
    """The largest scores of rows in plain PyTorch."""
    return Scored.of(spec, q, k, scale, inputs, sizes_of(spec, q, k)).largest(np.arange(q.shape[2]))


def score_inputs(spec: Spec) -> frozenset[str]:
    """The float inputs that score lines read."""
    return frozenset(node.name for node in contents.walk(spec.score) if isinstance(node, RealRead))
