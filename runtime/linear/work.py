"""What is computed of a call whose weights are products of features: inputs, features, the sums, and the divisor."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.analysis.carried import by_head as differs_by_head
from attnspec.analysis.past import ahead, require_past
from attnspec.codegen.expressions.entrywise import in_kernels
from attnspec.codegen.expressions.reads import names as names_of
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import Needed, decode, facts, relation
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import Call, check_lists, is_wide, sizes_of
from attnspec.runtime.expressions.real import real, tables
from attnspec.runtime.linear.decay import by_channel, steps
from attnspec.runtime.linear.delta import Earlier, corrected, totals
from attnspec.runtime.linear.each import Divisor, divisors, each, seen
from attnspec.runtime.linear.features import apart, axes, mapped, together
from attnspec.runtime.linear.sums import Channels, Given, Sums, gradients, sums
from attnspec.runtime.linear.unit import unit
from attnspec.runtime.prepare.inputs import Wanted, check_vectors
from attnspec.runtime.prepare.operator import ORDER, with_order
from attnspec.runtime.prepare.rotate import turned
from attnspec.spec import contents
from attnspec.spec.feature import Vector, size
from attnspec.spec.real import Real
from attnspec.spec.spec import Spec


def vector_sizes(spec: Spec, q: Tensor, v: Tensor) -> dict[str, int]:
    """The sizes of vectors in a call, as declarations of inputs have them."""
    found, weights = {"dim": q.shape[3], "dim_v": v.shape[3]}, spec.weights
    if weights.linear:
        found["features"] = weights.features(q.shape[3])
    return found


@dataclass(frozen=True, eq=False)
class _Known:
    """What follows from a pattern's text alone, found once: walks over its expressions take longer than short calls.

    ``in_kernels`` are the sides that kernels map to features, ``as_is`` says which of them kernels read as they are,
    ``units`` which of them those of sums make of length one; ``by_head`` says that heads which share keys have
    features of their own, ``random`` that a call may bring a projection; ``reads`` are the inputs of kernels. ``bare``:
    kernels take vectors as they are, and their sums, divided or not, are the output; so it is with gradients.
    """

    wanted: Wanted
    in_kernels: tuple[str, str]
    as_is: tuple[bool, bool]
    units: tuple[bool, bool]
    by_head: bool
    random: bool
    reads: tuple[str, ...]
    bare: bool

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, program: str) -> _Known:
        """Of a pattern with features."""
        spec = spec_of(decode(program))
        weights = spec.weights
        assert weights.k is not None
        # Corrected values are of one head where keys, or what corrects their values, are.
        by_head = differs_by_head(spec) if weights.delta is not None else "h" in contents.free(weights.k)
        random, (q, k) = bool(weights.favors), in_kernels(weights)
        as_is = bool(q) or weights.q == Vector(), bool(k) or weights.k == Vector()
        none = spec.rotations or weights.reads_mass or not all(as_is)
        units = (False, False) if none else ("q" in spec.normalized, "k" in spec.normalized)
        changed = spec.rotations or spec.normalized or by_head or weights.each
        changed = changed or weights.decay is not None or weights.delta is not None
        divisor = weights.divide in (None, Real(1.0)) or weights.divides_by_total
        bare = all(as_is) and divisor and not (changed or weights.constant)
        return cls(Wanted.of(spec), (q, k), as_is, units, by_head, random, tuple(names_of(spec)), bare)


def bare(program: str) -> bool:
    """Whether the kernels of a program take vectors as they are, and their sums, divided or not, are the output."""
    return _Known.of(program).bare


def in_kernels_of(program: str) -> tuple[str, str]:
    """The sides whose features kernels of a program work out themselves: ``"q"`` and ``"k"``, or ``""`` each."""
    return _Known.of(program).in_kernels


@functools.lru_cache(maxsize=64)
def looks_ahead(program: str, needed: Needed) -> bool:
    """Whether a pattern may see keys that come later than the query."""
    return ahead(relation(decode(program), needed)) is not None


@functools.lru_cache(maxsize=64)
def check_past(program: str, needed: Needed) -> None:
    """Raises SpecError, with a pair, where a pattern that must not may see keys that come later than the query."""
    require_past(relation(decode(program), needed))


@dataclass(frozen=True, eq=False)
class Work:
    """A call: q, k and v as they were given, and its inputs made ready. ``scale`` is the factor of the weights."""

    spec: Spec
    program: str
    q: Tensor
    k: Tensor
    v: Tensor
    inputs: Mapping[str, Tensor]
    projection: Tensor | None
    sizes: Sizes
    scale: float

    @classmethod
    def of(cls, tensors: Sequence[Tensor], names: Sequence[str], scale: float | None, program: str) -> Work:
        """Of q, k, v and inputs by name. Raises CallError where one does not fit."""
        q, k, v, *rest = tensors
        spec, given = spec_of(decode(program)), dict(zip(names, rest, strict=True))
        if facts(decode(program)).lists:
            check_lists(decode(program), q.shape[1], k.shape[1], q.shape[0])
        if spec.order is not None and q.shape[2] != k.shape[2]:
            raise CallError(f"{spec.name}: an order needs as many queries as keys, not {q.shape[2]} and {k.shape[2]}")
        known = _Known.of(program)
        projection = given.pop("projection", None) if known.random else None
        sizes = sizes_of(spec, q, k)
        found = known.wanted.at(sizes, wide=is_wide(q, k))(given, q.device)
        if spec.inputs:
            check_vectors(spec, sizes, found, vector_sizes(spec, q, v))
        found = with_order(spec, q, given, found)
        if scale is None:
            scale = 1.0 if spec.scale is None else spec.scale
        return cls(spec, program, q, k, v, found, projection, sizes, float(scale))

    @property
    def plain(self) -> bool:
        """Whether the sums stay as they are: divided by nothing, or by one."""
        return self.spec.weights.divide in (None, Real(1.0))

    @property
    def divides(self) -> bool:
        """Whether the sums are divided by the totals as they are."""
        return self.spec.weights.divides_by_total

    def given(self, forward: bool = False) -> Given:
        """The features of queries and keys and the values that go with them, as kernels take them; differentiable.

        ``forward``: for sums alone, of which kernels make vectors of length one themselves where they read vectors.
        """
        known, units = _Known.of(self.program), (False, False)
        of_q, of_k = known.in_kernels
        if self.bare:
            return Given(self.call(self.q, self.k, self.v), of_q, of_k)
        if forward:
            units = known.units
        q, k, v = self._vectors(any(units))
        (a, _), (b, gates) = (
            (x, None) if as_is else self._mapped(side, x)
            for side, x, as_is in zip("qk", (q, k), known.as_is, strict=True)
        )
        features = together(self.spec, a.shape[-1], b.shape[-1])
        a, b = (t.expand(*t.shape[:-1], features) for t in (a, b))
        steps = self._steps(gates, features)
        if self.spec.weights.delta is not None:
            v = self._corrected(b, v, steps.get("decay_k"), units[1])
        return Given(self.call(a, b, v), of_q, of_k, **steps, units=units)

    @property
    def bare(self) -> bool:
        """Whether kernels take the tensors of the call as they are, and their sums are the output."""
        return _Known.of(self.program).bare and self.q.shape[3] == self.k.shape[3]

    def _vectors(self, as_they_are: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """All normalized and turned, keys and values by query head where the features of keys differ by it."""
        q, k, v = self.q, self.k, self.v
        if self.spec.rotations:
            q, k = turned(self.spec, q.float(), k.float(), self.sizes, self.inputs)
        elif not as_they_are:
            q, k = (unit(x.float()) if s in self.spec.normalized else x for s, x in (("q", q), ("k", k)))
        if q.shape[1] != k.shape[1] and _Known.of(self.program).by_head:
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        return q, k, v

    @property
    def kernel_inputs(self) -> list[Tensor]:
        """The inputs that kernels read."""
        return [self.inputs[name] for name in _Known.of(self.program).reads]

    def call(self, a: Tensor, b: Tensor, v: Tensor) -> Call:
        """A call of kernels: of features and values, with what else they read."""
        return Call(a, b, v, self.kernel_inputs, self.inputs.get(ORDER), None, self.scale, self.program)

    def _each(self, for_gradients: bool = False) -> Tensor:
        """The output where each feature has a divisor of its own, differentiable; or no number, for gradients alone."""
        q, k, v = self._vectors()
        a, _ = self._mapped("q", q)
        features = together(self.spec, a.shape[-1], size(self.spec.weights.k, k.shape[-1]))  # type: ignore[arg-type]
        parts = apart(self.spec, k.float(), self.inputs, self.sizes, self.projection, features)
        call = self.call(a.expand(*a.shape[:-1], features), k, v)
        divisor = Divisor(self.spec, self.sizes, self.inputs)
        return each(
            call, parts, self._steps(None, features), divisor, None if divisor.plain else seen(call), for_gradients
        )

    def _corrected(self, b: Tensor, v: Tensor, decay: Tensor | None, unit: bool) -> Tensor:
        """The values less what their keys recall of those before, float32; differentiable."""
        delta, (batch, heads, n, _) = self.spec.weights.delta, b.shape
        assert delta is not None
        whole = Call(self.q, self.k, self.v, (), None, None, 1.0, self.program)
        check_past(self.program, whole.needed)
        if self.sizes.n_q != n and any("n_q" in contents.free(size) for i in self.spec.inputs for size in i.sizes):
            raise CallError(
                f"{self.spec.name}: `delta` takes keys as queries: beside it inputs of fewer queries are not read"
            )
        earlier = Earlier.of(self.program)
        inputs = [self.inputs[name] for name in earlier.reads]
        decay = None if decay is None else decay[:, :: self.sizes.heads // heads]
        env = axes(self.sizes, 3, heads) | tables(self.inputs) | {"k": np.arange(n)}
        write = read = real(delta, env, self.inputs, dtype=torch.float32, device=v.device).expand(batch, heads, n)
        if self.spec.weights.divide is not None:
            total = totals(earlier, inputs, b, decay, unit)[..., None]
            # Of a key that no row sees it may be no number; the gradient of its slope there is none.
            wrong = ~total.isfinite()
            total = total.masked_fill(wrong, 1.0)
            some = total != 0 if self.divides else seen(earlier.call(b, v, inputs))
            over = total if self.divides else self.divisor(b.masked_fill(wrong, 0.0), total[..., 0])
            read = self.divided(write[..., None], over, some).masked_fill(wrong, torch.nan)[..., 0]
        return corrected(earlier, inputs, b, v, write, read, decay, unit)

    def _mapped(self, side: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
        found = mapped(self.spec, side, x.float(), self.inputs, self.sizes, self.projection)
        return found.values, found.gates

    def _steps(self, gates: Tensor | None, features: int) -> Mapping[str, Any]:
        """What decays, as fields of ``Given``, differentiable: sums of steps, or by channel the steps themselves."""
        if self.spec.weights.decay is None and gates is None:
            return {}
        needed = Call(self.q, self.k, self.v, (), None, None, 1.0, self.program).needed
        if looks_ahead(self.program, needed):
            raise CallError(
                f"{self.spec.name}: kernels of weights that decay are for patterns whose keys are never later than "
                'their queries, as with `within k <= q`; target="dense" has the others'
            )
        if gates is not None:
            gates = gates.repeat_interleave(self.sizes.heads // gates.shape[1], 1)
        if self.spec.weights.by_channel or (gates is not None and gates.dim() == 4):
            first, made = by_channel(self.spec, self.inputs, self.sizes, features, gates)
            return {"channels": Channels(made, (self.sizes.first - first, -first))}
        found = steps(self.spec, self.inputs, self.sizes, self.q.device, more=None if gates is None else gates.double())
        assert found is not None
        at_q, at_k = self.sizes.first - found.first, -found.first
        ends = at_q + self.sizes.n_q, at_k + self.sizes.n
        return {"decay_q": found.sums[..., at_q : ends[0]], "decay_k": found.sums[..., at_k : ends[1]]}

    def forward(self, totals: bool) -> tuple[Tensor, Tensor]:
        """The output, of v's dtype, and the totals (batch, heads, n_q), float32.

        These are empty where rows have none, and where they are not wanted.
        """
        with torch.no_grad():
            if self.spec.weights.each:
                return self._each(), self.v.new_empty(0, dtype=torch.float32)
            given = self.given(forward=True)
            given = given if self.bare else given.cut()
            line = self.spec.weights.divide
            whole = self.divides or self.plain
            # What is divided afterwards may be too large for fp16, or too small.
            dtype = self.v.dtype if whole else torch.float32
            found = sums(given, line is not None, self.divides, dtype, kept=totals or not whole)
            if found.total is None:
                return found.out, self.v.new_empty(0, dtype=torch.float32)
            if whole:
                return found.out, found.total
            over = self.divisor(given.call.q, found.total)
            out = self.divided(found.out, over, seen(given.call)).to(self.v.dtype)
            return out, found.total if totals else self.v.new_empty(0, dtype=torch.float32)

    def divisor(self, a: Tensor, total: Tensor) -> Tensor:
        """What the sums of rows are divided by, (batch, heads, rows, 1), differentiable; ``a`` are their features."""
        mass = a.sum(-1) if self.spec.weights.reads_mass else None
        return divisors(self.spec, self.sizes, self.inputs, total[..., None], mass)

    def divided(self, x: Tensor, over: Tensor, seen: Tensor) -> Tensor:
        """``x`` over a divisor: 0 where nothing is seen, or the divisor is 0."""
        some = seen & (over != 0)
        return torch.where(some, x / torch.where(some, over, 1.0), 0.0)

    def backward(
        self, out: Tensor, total: Tensor, dout: Tensor, dtotal: Tensor | None, wanted: Sequence[str]
    ) -> list[Tensor]:
        """The gradients of q, k and v, and of the float inputs of these names; features are computed again."""
        line = self.spec.weights.divide
        if self.bare and not wanted:
            with torch.no_grad():
                of = Sums(out, None if line is None else total)
                return list(gradients(self.given(), of, self.divides, dout, dtotal)[:3])  # type: ignore[arg-type]
        with torch.inference_mode(False), torch.enable_grad():
            q, k, v = (t.detach().requires_grad_() for t in (self.q, self.k, self.v))
            known = {"projection": self.projection} if self.projection is not None else {}
            leaves = {name: {**self.inputs, **known}[name].detach().requires_grad_() for name in wanted}
            projection = leaves.get("projection", self.projection)
            inputs = {**self.inputs, **{name: t for name, t in leaves.items() if name != "projection"}}
            own = replace(self, q=q, k=k, v=v, inputs=inputs, projection=projection)
            sources = [q, k, v, *leaves.values()]
            if self.spec.weights.each:
                made_of = own._each(True)
                found_of = torch.autograd.grad(made_of, sources, dout, allow_unused=True, materialize_grads=True)
                return [d.contiguous() for d in found_of]
            given = own.given()
            call = given.call
            made: list[Tensor] = [call.q, call.k, call.v, *given.steps]
            cut = given.cut()
            found = Sums(out, None if line is None else total)
            upstream: list[Tensor] = []
            if not (self.plain or self.divides):
                leaf = total.detach().requires_grad_()
                over = own.divisor(call.q, leaf)
                dout = self.divided(dout.float(), over.detach(), seen(cut.call))
                upstream = [-(dout * out).sum(-1, keepdim=True)]
                if over.requires_grad:
                    (dtotal,) = torch.autograd.grad(over, leaf, upstream, retain_graph=True, allow_unused=True)
                    made.append(over)
        of_v_alone = not any(x.requires_grad for x in (call.q, call.k, *given.steps))  # features are constant
        by = gradients(cut, found, self.divides, dout, dtotal, of_v_alone)
        arrived = [by.q, by.k, by.v, *(by.steps or [None] * len(given.steps)), *upstream][: len(made)]
        reached = [(x, d) for x, d in zip(made, arrived, strict=True) if d is not None and x.requires_grad]
        results = torch.autograd.grad(
            [x for x, _ in reached],
            sources,
            [d.to(x.dtype) for x, d in reached],
            allow_unused=True,
            materialize_grads=True,
        )
        return [d.contiguous() for d in results]
