"""What can be asked of an attention without running it: its stages, what a call costs, its mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnspec.codegen.tiles import Tile
from attnspec.errors.catalogue import did_you_mean
from attnspec.relation.relation import DependsOnInputs
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import plan, relation
from attnspec.runtime.weights import Weights

if TYPE_CHECKING:
    from attnspec.codegen.cost.cost import Cost
    from attnspec.codegen.plan.plan import Plan
    from attnspec.relation.relation import Relation
    from attnspec.runtime.prepare.given import Given

_PLAN_LENGTH = 8192
"""Of example inputs with which layouts are compared."""
_ARGUMENTS = ("n", "n_q", "heads", "kv_heads", "batch", "dim", "dim_v", "dtype", "inputs")


class Stages(Weights):
    """What can be asked without running it: the part of :class:`attnspec.Attention` that answers."""

    @cached_property
    def relation(self) -> Relation:
        """The exact set of pairs, for every length; raises SpecError where it needs sizes (see ``relation_for``)."""
        return self.relation_for()

    @cached_property
    def plan(self) -> Plan:
        """The tiles a kernel visits; raises SpecError where it needs sizes (see ``plan_for``)."""
        return self.plan_for()

    def relation_for(
        self, *, heads: int | None = None, kv_heads: int | None = None, batch: int | None = None
    ) -> Relation:
        """The relation for given numbers of heads and batch entries."""
        return relation(self.program, self._sizes(heads, kv_heads, batch))

    def plan_for(
        self,
        *,
        heads: int | None = None,
        kv_heads: int | None = None,
        batch: int | None = None,
        inputs: Mapping[str, Any] | str | None = None,
        **more: Any,
    ) -> Plan:
        """The plan for given numbers of heads and batch entries.

        It serves all values of inputs. What the compiler assumes of them where it compares layouts is that each number
        that bounds a position is n; integer inputs with one value for each head or batch entry can be given, by name,
        in ``inputs`` or as ``inputs="example"``, to see what would be chosen for them. Raises CallError where one does
        not fit.
        """
        if inputs is None and not more:
            return plan(self.program, self._sizes(heads, kv_heads, batch))
        from attnspec.codegen.plan.choose import plan as choose

        given = self._asked(self._call_sizes(_PLAN_LENGTH, None, heads or 1, kv_heads, batch or 1), inputs, more)
        tile = Tile(*self.program.tile) if self.program.tile else None
        relation = self.relation_for(heads=heads, kv_heads=kv_heads, batch=batch)
        return choose(relation, tile, self.program.layout, scalars=given.sizes.scalars)

    def cost(
        self,
        *,
        n: int,
        n_q: int | None = None,
        heads: int = 1,
        kv_heads: int | None = None,
        batch: int = 1,
        dim: int = 64,
        dim_v: int | None = None,
        dtype: torch.dtype = torch.float32,
        inputs: Mapping[str, Any] | str | None = None,
        **more: Any,
    ) -> Cost:
        """What a call of these sizes computes, before anything runs: exact pairs, tiles, operations and bytes.

        The pattern's inputs go by name, as in a call: tensors, arrays, lists, or one number for all entries; ``inputs``
        holds them where a name collides with a size, and ``inputs="example"`` stands for plausible ones. Only those
        that decide which pairs there are matter. Without them the figures are upper bounds, and say so; where not even
        a bound is known (``length`` of ``padded``) they must be given.

        >>> import attnspec
        >>> attnspec.compile("padded").cost(n=4096, length=1000).pairs
        4096000

        Where weights are products of features, operations are those of states (of the CPU's kernels, on one thread):

        >>> print(f"{attnspec.compile('linear').cost(n=16384).flops:.1e}")
        5.4e+08

        Raises CallError where an input is missing or does not fit, TooMany where inputs leave too many tiles to count.
        """
        from attnspec.codegen.cost.cost import cost
        from attnspec.runtime.prepare.given import contents_of

        plan = self.plan_for(heads=heads, kv_heads=kv_heads, batch=batch)
        given = self._asked(self._call_sizes(n, n_q, heads, kv_heads, batch), inputs, more)
        asked = inputs is not None or more
        contents = contents_of(self.spec, given) if asked and not plan.relation.exact else None
        text = given.text if contents is not None or plan.relation.reads_scalars else ""
        try:
            return cost(plan, given.sizes, dim, dim if dim_v is None else dim_v, dtype.itemsize, contents, text)
        except DependsOnInputs as error:
            raise CallError(self._needs(error.names, n)) from None

    def _needs(self, names: Sequence[str], n: int) -> str:
        """Which inputs a cost needs, and how they are given."""
        declared = ", ".join(f"`{item}`" for item in self.spec.inputs if item.name in names)
        example = ", ".join(f"{name}=..." for name in names)
        return (
            f"{self._facts.name}: how many pairs there are depends on the values of {declared}. Give them by name, "
            f'cost(n={n}, {example}): a tensor, or one number for all entries; or say inputs="example"'
        )

    def axes(self, n: int) -> Mapping[str, tuple[slice | None, slice | None]]:
        """Where each axis lies among the queries and among the keys (None where it has none), in declared order.

        ``n`` is the number that the sizes of the axes are written in: not the length of the tensors, which is what the
        axes add up to.
        """
        from attnspec.spec.axes import slices

        return slices(self.spec.axes, n)

    def mask(
        self,
        n: int,
        n_q: int | None = None,
        heads: int = 1,
        batch: int = 1,
        kv_heads: int | None = None,
        inputs: Mapping[str, Any] | str | None = None,
        **more: Any,
    ) -> Tensor:
        """The definition as a mask, (batch, heads, n_q, n): bool; for a mixture or an order how often a pair counts.

        The pattern's inputs go by name, as for :meth:`cost`. Raises CallError where one is missing or does not fit.
        """
        given = self._asked(self._call_sizes(n, n_q, heads, kv_heads, batch), inputs, more)
        try:
            return torch.from_numpy(self.spec.mask(n, n_q, heads, batch, kv_heads, given.arrays))
        except ValueError as error:
            raise CallError(str(error)) from None

    def _asked(self, sizes: Sizes, inputs: Mapping[str, Any] | str | None, more: Mapping[str, Any]) -> Given:
        """What a caller says of inputs by name, as a mapping or as ``"example"``."""
        from attnspec.runtime.prepare.given import examples, given

        if inputs == "example" and not more:
            return examples(self.spec, sizes)
        if isinstance(inputs, str):
            raise CallError(
                f'{self._facts.name}: inputs is a mapping from names to values, or "example" and nothing else'
            )
        named = self._named(inputs, more)
        for name in named:
            if name not in {declared.name for declared in self.spec.inputs} and (
                hint := did_you_mean(name, _ARGUMENTS)
            ):
                raise CallError(f"{self._facts.name}: there is no argument or input `{name}`; {hint}")
        return given(self.spec, sizes, named)

    def _call_sizes(self, n: int, n_q: int | None, heads: int, kv_heads: int | None, batch: int) -> Sizes:
        """The sizes of a call, checked, with what is solved for beside axes."""
        n_q, kv_heads = n if n_q is None else n_q, heads if kv_heads is None else kv_heads
        sizes = Sizes(n, n_q, heads, kv_heads, batch, self._facts.align == "end")
        return replace(sizes, m=self.spec.sizes(n, n_q)["m"]) if self.spec.axes else sizes

    def _sizes(self, heads: int | None, kv_heads: int | None, batch: int | None) -> tuple[tuple[str, int], ...]:
        given = {"heads": heads, "kv_heads": heads if kv_heads is None else kv_heads, "batch": batch}
        return tuple((name, size) for name in self._facts.needs if (size := given[name]) is not None)
