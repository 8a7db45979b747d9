"""What the layers of a model cost, and what their caches keep, before anything runs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attnspec.analysis.cache_size import cache_size
from attnspec.analysis.retention import retention
from attnspec.analysis.state_size import state_size
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec
from attnspec.spec.units import plural, quantity, ranges, share
from attnspec.spec.writing import Shown

if TYPE_CHECKING:
    from attnspec.codegen.cost.cost import Cost
    from attnspec.runtime.attention import Attention


@dataclass(frozen=True)
class Layers:
    """Layers of a model that attend alike.

    ``cost`` is that of a call over all n tokens in one of them, ``cache`` the bytes that one keeps after these,
    ``kept`` what that is, and ``all_keys`` the bytes of all its keys and values. ``own``: it is the model's own mask.
    """

    numbers: tuple[int, ...]
    pattern: str
    own: bool
    cost: Cost
    kept: str
    cache: int
    all_keys: int


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """What ``attnspec.transformers.report`` finds; printed it is a table."""

    model: str
    dtype: str
    n: int
    batch: int
    layers: tuple[Layers, ...]

    @property
    def flops(self) -> int:
        """Operations of a forward pass in the attention of all layers."""
        return sum(len(one.numbers) * one.cost.flops for one in self.layers)

    @property
    def backward_flops(self) -> int:
        """Those of its backward pass."""
        return sum(len(one.numbers) * one.cost.backward_flops for one in self.layers)

    @property
    def cache(self) -> int:
        """Bytes that the layers keep after n tokens."""
        return sum(len(one.numbers) * one.cache for one in self.layers)

    @property
    def all_keys(self) -> int:
        """Bytes of all keys and values of n tokens."""
        return sum(len(one.numbers) * one.all_keys for one in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data."""
        totals = {name: getattr(self, name) for name in ("flops", "backward_flops", "cache", "all_keys")}
        layers = [
            {**{k: v for k, v in asdict(one).items() if k != "cost"}, "cost": one.cost.to_dict()} for one in self.layers
        ]
        return {"model": self.model, "dtype": self.dtype, "n": self.n, "batch": self.batch, "layers": layers, **totals}

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title in ("layers", "attends by", "live pairs", "forward", "backward", "cache", "of all keys", "keeps"):
            table.add_column(title, justify="left" if title in ("layers", "attends by", "keeps") else "right")
        for one in self.layers:
            most, many = "" if one.cost.exact else "at most ", len(one.numbers)
            table.add_row(
                ranges(one.numbers),
                f"its own: {one.pattern}" if one.own else one.pattern,
                f"{most}{one.cost.density:.3%}",
                f"{most}{quantity(many * one.cost.flops, 'FLOP')}",
                f"{most}{quantity(many * one.cost.backward_flops, 'FLOP')}",
                quantity(many * one.cache, "B"),
                share(one.cache / one.all_keys),
                one.kept,
            )
        if len(self.layers) > 1:
            done = (quantity(self.flops, "FLOP"), quantity(self.backward_flops, "FLOP"), quantity(self.cache, "B"))
            table.add_row("all", "", "", *done, share(self.cache / self.all_keys), "")
        s = self.layers[0].cost.sizes
        heads = f"{s.heads} heads" + (f" ({s.kv_heads} for keys)" if s.kv_heads != s.heads else "")
        out = io.StringIO()
        many = sum(len(one.numbers) for one in self.layers)
        out.write(
            f"{self.model}  {plural(many, 'layer')}, {heads}, dim {self.layers[0].cost.dim}, {self.dtype}, "
            f"n = {self.n:,}, batch {self.batch}\n"
        )
        Console(file=out, width=1000, highlight=False, markup=False).print(table)
        return "\n".join(line.rstrip() for line in out.getvalue().rstrip().split("\n"))

    __repr__ = __str__


def layers(
    attend: Attention, said: str, own: bool, numbers: Sequence[int], sizes: Sizes, dims: tuple[int, int], dtype: Any
) -> Layers:
    """The figures of layers that attend alike: of ``sizes``, with keys and values of so many ``dims``."""
    call = {"heads": sizes.heads, "kv_heads": sizes.kv_heads, "batch": sizes.batch}
    cost = attend.cost(n=sizes.n, dim=dims[0], dim_v=dims[1], dtype=dtype, **call)  # type: ignore[arg-type]
    parts = attend.spec.parts if attend.spec.composed else (attend.spec,)
    found = [_kept(one, sizes, dims, dtype.itemsize) for one in parts]
    every = sizes.batch * sizes.kv_heads * sizes.n * sum(dims) * dtype.itemsize
    kept = "; ".join(dict.fromkeys(text for text, _ in found))
    return Layers(tuple(numbers), said, own, cost, kept, sum(size for _, size in found), every)


def _kept(spec: Spec, sizes: Sizes, dims: tuple[int, int], itemsize: int) -> tuple[str, int]:
    """What a cache keeps of a pattern after n tokens, in words and in bytes."""
    relation = lower(spec, sizes.heads, sizes.kv_heads, sizes.batch)
    if spec.weights.linear:
        states = state_size(relation, sizes, [sizes.n], max(dims), itemsize)
        many = max(need.states[0] for need in states.needs)
        keys = max(need.keys[0] for need in states.needs)
        return ", ".join([plural(many, "state"), *([plural(keys, "key")] if keys else [])]), states.bytes[0]
    found = cache_size(retention(relation, sizes), sizes, [sizes.n], sum(dims) * itemsize)
    return "; ".join(dict.fromkeys(str(one.retention) for one in found.kept)), found.bytes[0]
