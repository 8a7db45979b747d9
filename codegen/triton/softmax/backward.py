"""Backward in Triton, without atomics on dQ, dK and dV: one kernel by query tile, one by key tile.

Both compute the weights again (Dao et al., 2022, appendix B.4): ``P = exp(S - lse)``, the log-sum-exp in two parts, and
``dS = P * (dO V^T - delta)``. By key tile the transposed scores are computed directly, so that nothing is transposed
after it was computed.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.triton.side import parts
from attnspec.codegen.triton.softmax.body import Body


class Queries(Body):
    """dQ, and the gradients of float inputs."""

    @property
    def state(self) -> list[str]:
        """The gradient, and sums for entries of inputs."""
        return [*(f"dq{n}" for n in self.dims), *(f"sum{n}" for n in self.context.sums)]

    def start(self) -> Iterator[str]:
        """Load queries, gradients of the output, and row statistics."""
        yield from self.tensor("q", "Q")
        yield from self.tensor("g", "DO")
        yield from self.outer.read("q", "q_head", "q_r", parts(self.context.dim), "True")
        yield from self.outer.read("g", "g_head", "g_r", parts(self.context.dim_v), "True")
        yield f"line = {self.context.held.line} + q_first + q_rel"
        yield from self.norm("NORM + line")
        yield f"delta = tl.load({self.delta} + line, mask=q_live, other=0.0)"
        yield from self.zeros("dq", self.context.dim)
        for n in self.context.sums:
            yield f"sum{n} = 0.0"

    def tile(self) -> Iterator[str]:
        """Scores, weights, their gradients, and dQ."""
        yield from self.scores_by_query()
        yield from self.weights("[:, None]")
        yield from self.dot("dp", "g", "v", self.dims_v)
        yield from self.changes("delta[:, None]")
        if self.context.scored:
            yield from self.entries()
        for n in self.dims:
            yield f"dq{n} = tl.dot(ds.to(k{n}.dtype), k{n}, dq{n}, input_precision=PRECISION)"

    def entries(self) -> Iterator[str]:
        """Gradients through the score lines."""
        entries = self.context.gradient.entries
        results = ", ".join(["ds", *(f"e{n}" for n in range(len(entries)))])
        yield f"{results} = {self.call(self.context.gradient.function, g='ds', s='raw')}"
        for n, entry in enumerate(entries):
            yield f"if D_{entry.argument} is not None:"
            if not entry.moves:
                yield f"    sum{n} += tl.sum(tl.sum(e{n}, 1), 0)"
                continue
            # Summed over what the place does not depend on; pairs that share it take turns, in any order.
            if entry.moves == {"q"}:
                yield f"    e{n} = tl.sum(e{n}, 1, keep_dims=True)"
            elif entry.moves == {"k"}:
                yield f"    e{n} = tl.sum(e{n}, 0, keep_dims=True)"
            yield f"    place, inside = {self.call(entry.place)}"
            yield f"    tl.atomic_add(D_{entry.argument} + place, e{n}, mask=inside & (e{n} != 0.0))"

    def end(self) -> Iterator[str]:
        """Store dQ and the sums."""
        for n in self.dims:
            yield f"dq{n} = dq{n} * scale"
        yield from self.tensor("dq", "DQ")
        yield from self.outer.write("dq_head", "dq_r", "dq", parts(self.context.dim), self.context.carry)
        residues, held = self.pass_.layout.residues, self.context.held
        line = f"({held.b} * {held.heads} + {held.h})"
        line = f"({line} * {residues} + c)" if residues > 1 else line
        for n in self.context.sums:
            yield f"if SUM{n} is not None:"
            yield f"    tl.store(SUM{n} + {line} * tiles + number, sum{n})"


class Keys(Body):
    """dK and dV."""

    @property
    def state(self) -> list[str]:
        """The gradients."""
        return [*(f"dk{n}" for n in self.dims), *(f"dv{n}" for n in self.dims_v)]

    def start(self) -> Iterator[str]:
        """Load keys and values."""
        yield from self.tensor("k", "K", "kv")
        yield from self.tensor("v", "V", "kv")
        yield from self.outer.read("k", "k_head", "k_r", parts(self.context.dim), "True")
        yield from self.outer.read("v", "v_head", "v_r", parts(self.context.dim_v), "True")
        yield from self.zeros("dk", self.context.dim)
        yield from self.zeros("dv", self.context.dim_v)

    def heads_of_inner(self) -> Iterator[str]:
        """Queries, gradients of the output, and row statistics, of one of the heads that share the keys."""
        yield from self.head("x * GROUP + one")
        yield from self.tensor("q", "Q")
        yield from self.tensor("g", "DO")
        yield f"norm_line = NORM + {self.context.held.line}"
        yield f"delta_line = {self.delta} + {self.context.held.line}"

    def tile(self) -> Iterator[str]:
        """Transposed scores and weights, dV, their gradients, and dK."""
        yield from self.inner.place("i")
        yield from self.mask()
        yield from self.inner.read("q", "q_head", "q_r", parts(self.context.dim), "True")
        yield from self.inner.read("g", "g_head", "g_r", parts(self.context.dim_v), "True")
        yield from self.norm("norm_line + q_first + q_rel")
        yield "delta = tl.load(delta_line + q_first + q_rel, mask=q_live, other=0.0)"
        yield from self.dot("s", "k", "q", self.dims)
        yield from self.scores()
        yield from self.weights("[None, :]")
        for n in self.dims_v:  # before dP is there: fewer registers are held
            yield f"dv{n} = tl.dot(p.to(g{n}.dtype), g{n}, dv{n}, input_precision=PRECISION)"
        yield from self.dot("dp", "v", "g", self.dims_v)
        yield from self.changes("delta[None, :]")
        if self.context.scored:
            call = self.call(self.context.gradient.function, g="ds", s="raw")
            yield f"ds = {call}[0]" if self.context.gradient.entries else f"ds = {call}"
        for n in self.dims:
            yield f"dk{n} = tl.dot(ds.to(q{n}.dtype), q{n}, dk{n}, input_precision=PRECISION)"

    def end(self) -> Iterator[str]:
        """Store dK and dV."""
        for n in self.dims:
            yield f"dk{n} = dk{n} * scale"
        if self.repeats:
            # A key may have several slots: each has its own row.
            yield "k_rel = k_slot"
            yield "k_live = (k_slot >= k_begin) & (k_slot < k_end)"
        for name, dim in (("dk", self.context.dim), ("dv", self.context.dim_v)):
            yield from self.tensor(name, name.upper(), None if self.repeats else "kv")
            yield from self.outer.write(f"{name}_head", f"{name}_r", name, parts(dim), self.context.adds)
