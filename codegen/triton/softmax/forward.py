"""Forward in Triton: for each tile of queries a running softmax over its tiles of keys.

As flash-attention does (Dao, 2023): maximum and sum of each row, and the output scaled to that maximum.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.triton.side import parts
from attnspec.codegen.triton.softmax.body import Body


class Forward(Body):
    """Output and log-sum-exp."""

    @property
    def state(self) -> list[str]:
        """Maximum and sum of each row, and the output; the maximum of scores where the other knows a sink."""
        largest = ["largest"] if self.context.carry else []
        return ["top", "total", *largest, *(f"acc{n}" for n in self.dims_v)]

    def start(self) -> Iterator[str]:
        """Load the queries, and what earlier passes have summed up."""
        held = self.context.held
        yield from self.tensor("q", "Q")
        yield from self.outer.read("q", "q_head", "q_r", parts(self.context.dim), "True")
        share = [f" + share * {size}" if self.context.shares else "" for size in ("o_s", "lines", "3 * lines")]
        yield from self.tensor("o", f"OUT{share[0]}")
        yield f"lines = {held.lines}"
        yield f"row = {held.line} + {self.outer.line()}"
        yield f"line = LSE{share[1]} + row"
        yield f"norm_line = NORM{share[2]} + row"
        if self.context.carry:
            # An output with its norm is a sum with one term.
            yield "top = tl.load(norm_line, mask=q_live, other=-INF)"
            yield "total = tl.load(norm_line + lines, mask=q_live, other=0.0)"
            yield "total = tl.where(top == -INF, 0.0, tl.exp2(total))"
            yield "largest = tl.load(norm_line + 2 * lines, mask=q_live, other=-INF)"
            yield from self.outer.read("acc", "o_head", "o_r", parts(self.context.dim_v), "True")
            for n in self.dims_v:
                yield f"acc{n} = acc{n} * total[:, None]"
            return
        yield f"top = tl.full(({self.outer.rows},), -INF, tl.float32)"
        yield f"total = tl.zeros(({self.outer.rows},), tl.float32)"
        yield from self.zeros("acc", self.context.dim_v)

    def tile(self) -> Iterator[str]:
        """Scores, weights, and the output."""
        yield from self.scores_by_query()
        yield "if PARTIAL:"
        yield "    s = tl.where(allowed, s, -INF)"
        if self.context.carry:
            yield "largest = tl.maximum(largest, tl.max(s, 1) * (UNIT * LN2))"
        yield f"p, top, total, factor = softmax_step(s, top, total, {self.times!r})"
        for n in self.dims_v:
            yield f"acc{n} = tl.dot(p.to(v{n}.dtype), v{n}, acc{n} * factor[:, None], input_precision=PRECISION)"

    def end(self) -> Iterator[str]:
        """Divide by the sums."""
        yield "divisor = tl.where(total == 0.0, 1.0, total)"
        for n in self.dims_v:
            yield f"acc{n} = acc{n} / divisor[:, None]"
        yield from self.outer.write("o_head", "o_r", "acc", parts(self.context.dim_v), False)
        yield "top = tl.where(total == 0.0, -INF, top)"
        yield "tl.store(line, (top * UNIT + tl.log2(divisor)) * LN2, mask=q_live)"
        yield "tl.store(norm_line, top, mask=q_live)"
        yield "tl.store(norm_line + lines, tl.log2(divisor), mask=q_live)"
        if not self.context.carry:
            yield "largest = top * (UNIT * LN2)"
        yield "largest = tl.where((total != total) & (largest < INF), total, largest)  # maxima skip NaN"
        yield "tl.store(norm_line + 2 * lines, largest, mask=q_live)"
