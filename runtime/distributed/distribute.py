"""One sequence over many devices: ``attnspec.distribute``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from attnspec.codegen.ranks.machines import DEFAULT, MACHINES
from attnspec.codegen.ranks.plan import RankPlan
from attnspec.codegen.ranks.shards import Shards
from attnspec.runtime import sharding
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import (
    DTYPES,
    CallError,
    autocast,
    check_derivatives,
    check_tensors,
    check_vectors,
    named,
)
from attnspec.runtime.core.visible import transforming
from attnspec.runtime.distributed import dtensors, operator
from attnspec.runtime.distributed.by_states import StatePlan, StateSpread, by_states
from attnspec.runtime.distributed.collectives import of_all
from attnspec.runtime.distributed.gather import GatherPlan, GatherSpread
from attnspec.runtime.distributed.inputs import positions, unsharded
from attnspec.runtime.distributed.planning import Asked
from attnspec.runtime.distributed.spread import Spread
from attnspec.runtime.distributed.transport import Transport
from attnspec.runtime.flops import watched
from attnspec.runtime.mixture import check_lse
from attnspec.runtime.operators import keeps
from attnspec.spec.writing import Shown

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


def distribute(
    attend: Attention,
    group_or_mesh: ProcessGroup | DeviceMesh | Transport | None = None,
    *,
    n: int | None = None,
    heads: int,
    kv_heads: int | None = None,
    dim: int,
    dim_v: int | None = None,
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    shard: str = "auto",
    chunks: int | None = None,
    machine: str = "auto",
    gather: Literal["keys"] | None = None,
) -> Distributed:
    """Attention to one sequence that is dealt out to the ranks of a group, planned from the pattern.

    >>> far = attnspec.distribute(attend, mesh["cp"], n=1 << 20, heads=32, kv_heads=8, dim=128)  # doctest: +SKIP
    >>> print(far.plan)  # doctest: +SKIP
    >>> ids, labels = far.shard(ids, dim=1), far.shard(labels, dim=1, pad=-100)  # doctest: +SKIP
    >>> out = far(q, k, v)  # of local rows, differentiable  # doctest: +SKIP

    ``attend`` is what :func:`attnspec.compile` gives, ``group_or_mesh`` a group of processes of torch.distributed
    (gloo or NCCL), a mesh of one dimension, or None for all processes. All ranks of it call this at the same place of
    their programs, and everything that they do with what it returns. Plans are made for each length of a sequence, from
    integers only, alike on all ranks: which positions a rank holds, which pairs it computes, and what it sends.

    ``n`` is the length of sequences; without it, that of what :meth:`Distributed.shard` was given. ``heads``,
    ``kv_heads`` (as many as heads), ``dim`` and ``dim_v`` (as dim) are those of calls. ``shard`` is ``"auto"``,
    ``"contiguous"`` (tokens stay in order), ``"zigzag"``, ``"residue"``, ``"grid"`` or ``"greedy"``, ``chunks`` how
    many each rank holds. What is fastest is worked out for ``dtype`` and ``batch`` on a ``machine``: ``"h100"``,
    ``"h200"``, ``"gb200-nvl72"``, ``"cpu-gloo"``, or ``"auto"`` (this for gloo, ``"h100"`` for NCCL); calls may have
    others.

    Weights that are products of features (``linear`` lines, branches of mixtures too) exchange states in place of keys,
    over contiguous shards. A pattern with a computed order, or with tables of pairs or blocks, has no plan;
    ``gather="keys"`` gathers all keys and values on every rank, for any pattern: each rank then computes its own rows
    (where orders are computed, or branches or weights have lines of their own, all rows, of which it keeps its own).

    Raises CallError for a pattern that cannot be computed so, and for numbers that do not fit.
    """
    if not isinstance(attend, Attention):
        raise CallError(f"distribute takes what attnspec.compile returns, not {attend!r}")
    name = attend._facts.name
    if dtype not in DTYPES:
        raise CallError(f"{name}: dtype is {dtype}; supported are float32, bfloat16 and float16")
    if attend._target == "dense":
        raise CallError(f'{name}: target="dense" evaluates the whole mask, and is not for many ranks')
    kv_heads, dim_v = heads if kv_heads is None else kv_heads, dim if dim_v is None else dim_v
    numbers = {"heads": heads, "kv_heads": kv_heads, "dim": dim, "dim_v": dim_v, "batch": batch}
    for label, number in {**numbers, "n": 0 if n is None else n, "chunks": 1 if chunks is None else chunks}.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < (0 if label == "n" else 1):
            raise CallError(f"{name}: {label} is a number of at least {int(label != 'n')}, not {number!r}")
    if heads % kv_heads:
        raise CallError(f"{name}: {heads} heads cannot be shared among {kv_heads} key heads")
    transport = transport_of(name, group_or_mesh)
    if machine == "auto":
        machine = "cpu-gloo" if getattr(transport, "backend", "gloo") == "gloo" else DEFAULT
    if machine not in MACHINES:
        raise CallError(f"{name}: machine is one of {', '.join(MACHINES)}, not {machine!r}")
    asked = Asked(heads, kv_heads, dim, dim_v, str(dtype).removeprefix("torch."), batch, shard, chunks, machine)
    if gather not in (None, "keys"):
        raise CallError(f'{name}: gather is "keys" or None, not {gather!r}')
    kind: Any = GatherSpread if gather == "keys" else StateSpread if by_states(attend) else Spread
    return Distributed(kind(attend, transport, asked), n)


_OF_PIECES = frozenset({"cache", "state", "q_start", "return_state"})
"""What calls with pieces of a sequence take, on one device."""


def transport_of(name: str, group_or_mesh: Any) -> Transport:
    """How messages travel in a group or a mesh. Raises CallError for what is neither."""
    if hasattr(group_or_mesh, "post"):
        return group_or_mesh  # type: ignore[no-any-return]
    import torch.distributed as dist

    from attnspec.runtime.distributed.processes import of_group

    if not dist.is_available() or not dist.is_initialized():
        raise CallError(
            f"{name}: torch.distributed is not initialized: torch.distributed.init_process_group(...) comes before "
            "attnspec.distribute, and torchrun starts the processes"
        )
    if hasattr(group_or_mesh, "get_group"):
        if group_or_mesh.ndim != 1:
            raise CallError(
                f"{name}: the mesh has {group_or_mesh.ndim} dimensions; a sequence is dealt out along one: "
                f"mesh[{(group_or_mesh.mesh_dim_names or ('cp',))[-1]!r}]"
            )
        group_or_mesh = group_or_mesh.get_group()
    group = dist.group.WORLD if group_or_mesh is None else group_or_mesh
    if not isinstance(group, dist.ProcessGroup):
        raise CallError(
            f"{name}: a group of processes or a mesh of one dimension is needed, with this process in it; not {group!r}"
        )
    return of_group(group)


class Distributed(Shown):
    """An attention over a group of ranks: :func:`attnspec.distribute` makes it."""

    def __init__(self, spread: Spread | StateSpread | GatherSpread, n: int | None) -> None:
        self._name, self._facts = spread.name, spread.attend._facts
        self._lengths: dict[int, set[int]] = {}
        transport = spread.transport
        self.rank, self.ranks = transport.rank, transport.ranks
        self._encoded = ""
        if isinstance(spread, Spread):
            group = str(getattr(transport, "name", f"transport {id(transport)}"))
            self._encoded, spread = operator.registered(spread, group)
        self._of, self._n = spread, n
        if n is not None:
            self._planned(n)

    @property
    def attend(self) -> Attention:
        """What is computed."""
        return self._of.attend

    @property
    def plan(self) -> RankPlan | StatePlan | GatherPlan:
        """What was planned for ``n``: print it. Raises CallError where no length is known yet."""
        return self.plan_for(self._only())

    def plan_for(self, n: int) -> RankPlan | StatePlan | GatherPlan:
        """What is planned for sequences of this length."""
        return self._planned(n)

    def sent(self, inputs: Mapping[str, Tensor] | None = None, n: int | None = None) -> tuple[int, int]:
        """The bytes that this rank sends in a call with these inputs, given whole, forward and backward.

        Left out are sums of gradients of inputs, and what the first call of a kind says, so that all do the same.
        """
        return self._of.sent(dict(inputs or {}), self._only() if n is None else n)

    @property
    def positions(self) -> Tensor:
        """The positions of this rank's rows in the sequence, int64, -1 for padding: for what a model does by itself."""
        n = self._only()
        return torch.from_numpy(self._shards(n).positions(self.rank))

    def shard(self, t: Tensor, dim: int, pad: float = 0) -> Tensor:
        """The rows of this rank of a tensor that is whole: ``dim`` is the dimension of the sequence.

        The only way from positions to rows: they may be in another order. Behind its positions a rank may have rows of
        padding, so that all have as many; they hold ``pad``. Differentiable. Raises CallError where the length is
        not that of the sequence, and for a ``pad`` that the tensor's type cannot hold.
        """
        dim = self._dim(t, dim)
        n = t.shape[dim]
        if self._n not in (None, n):
            raise CallError(f"{self._name}: dimension {dim} of the tensor has {n} entries; sequences have {self._n}")
        shards = self._shards(n)
        own = t.index_select(dim, positions(shards, self.rank, t.device))
        missing = shards.rows - own.shape[dim]
        padding = torch.full((), pad, dtype=own.dtype, device=own.device)
        if padding.item() != pad and not own.dtype.is_floating_point:
            raise CallError(f"{self._name}: pad = {pad} cannot stand in a tensor of {own.dtype}")
        if not missing:
            return own
        return torch.cat([own, padding.expand(*own.shape[:dim], missing, *own.shape[dim + 1 :])], dim)

    def gather(self, t: Tensor, dim: int, *, n: int | None = None) -> Tensor:
        """The whole of a tensor of which all ranks hold their rows, on all ranks: ``dim`` is that of the rows.

        Without gradients: give ``t.detach()`` where it has some. Raises CallError where the rows are no shard.
        """
        dim = self._dim(t, dim)
        if t.requires_grad and torch.is_grad_enabled():
            raise CallError(f"{self._name}: gather has no gradients: give t.detach(), or gather under torch.no_grad()")
        n = self._length("t", t.shape[dim], n)
        whole = t.new_empty((*t.shape[:dim], n, *t.shape[dim + 1 :]))
        for rank, rows in enumerate(of_all(self._of.transport, t.detach())):
            at = positions(self._shards(n), rank, t.device)
            whole.index_copy_(dim, at, rows.narrow(dim, 0, len(at)))
        return whole

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[False] = False,
        n: int | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[True],
        n: int | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor]: ...

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        return_lse: bool = False,
        n: int | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Any:
        """Attention of the rows of this rank: q (batch, heads, rows, dim), k and v (batch, kv_heads, rows, dim).

        Returns this rank's rows of the output, (batch, heads, rows, dim_v), and with ``return_lse`` of the log-sum-exp,
        as a call of ``attend`` with the whole of q, k and v would; rows of padding see nothing. Differentiable in q, k,
        v and float inputs. All ranks call it together, and differentiate together. Positions are those of the whole
        sequence in everything, and inputs are whole, the same on all ranks; the gradients of float inputs are summed
        over the group. What is declared to be along positions (``n``, ``n_q``) may also come as :meth:`shard` gives it:
        then it is gathered once, and the gradient is that of the shard. Documents (``sorted`` numbers or ``offsets``
        that queries and keys must share) say in each call what is to be sent. Everything else as in a call.

        q, k and v may be DTensors with ``Shard(2)`` along the dimension of their mesh that is this group, whose local
        rows are those of :meth:`shard`; along others ``Shard(0)``, ``Shard(1)`` (this is then planned for the heads
        that are here) or ``Replicate()``. Results are DTensors of the same placements.

        Raises CallError for tensors that are no shards, by name, and where ranks are not about to do the same, with
        their numbers: at the first call of each kind (shapes, dtypes, scale), and with TORCH_DISTRIBUTED_DEBUG=INFO in
        each call. Without it a rank that goes back to a kind seen before, alone, is an error of the messages. A rank
        that is gone is an error in the others, at the latest after the group's timeout.
        """
        given = named(self._name, inputs, more)
        if found := _OF_PIECES & more.keys():
            raise CallError(
                f"{self._name}: over ranks there is no {min(found)}=: a call is all of a sequence, of which ranks hand "
                "on states by themselves. One device goes on from call to call: attend(..., state=, return_state=True)"
            )
        check_tensors(self._name, given)
        check_lse(self._facts, return_lse)
        if sharding.distributed(q, k, v, *given.values()):
            options = {"scale": scale, "return_lse": return_lse, "n": n}
            return dtensors.call(self, self.attend.spec, self._of.transport, q, k, v, given, **options)
        if not torch.compiler.is_compiling() and transforming():
            raise NotImplementedError(f"{self._name}: attention over ranks has no rules for torch.func (vmap, grad)")
        q, k, v = autocast(q, k, v)
        if not torch.compiler.is_compiling():
            for label, t in (("q", q), ("k", k), ("v", v)):
                check_vectors(self._name, self.attend._target, self.attend._kinds, label, t)
        check_derivatives(self._name, scale, q, k, v, *given.values())
        length = self._length("q", q.shape[2], n)
        if not isinstance(self._of, Spread):
            out, lse = self._of.call((q, k, v), scale, given, length, return_lse)
            return (out, lse) if return_lse else out
        given = self._whole(given, length)
        tensors = [q, k, v, *given.values()]
        scale = None if scale is None else float(scale)
        watched(operator.FORMULAS)
        found = operator.attend_parallel(tensors, list(given), scale, self._encoded, length, keeps(*tensors))
        return (found[0], found[1]) if return_lse else found[0]

    def _planned(self, n: int) -> RankPlan | StatePlan | GatherPlan:
        self._shards(n)
        return self._of.planned(n)

    def _shards(self, n: int) -> Shards:
        found = self._of.shards(n)
        self._lengths.setdefault(found.rows, set()).add(n)
        return found

    def _whole(self, given: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        """Inputs with those that came as shards gathered."""
        if torch.compiler.is_compiling():
            return dict(given)
        return unsharded(self._of.attend.spec, self._of.transport, self._shards(n), given)

    def _only(self) -> int:
        """The length that is meant where none is said."""
        known = sorted({n for lengths in self._lengths.values() for n in lengths})
        if self._n is None and len(known) != 1:
            seen = f"those so far are {', '.join(map(str, known))}" if known else "none was sharded yet"
            raise CallError(f"{self._name}: which length of sequences is meant is not known ({seen}): give n=")
        return known[0] if self._n is None else self._n

    def _length(self, label: str, rows: int, n: int | None) -> int:
        """The length of a sequence of whose tensors a rank has so many rows."""
        if self._n is not None or n is not None:
            if self._n is not None and n not in (None, self._n):
                raise CallError(f"{self._name}: this is for sequences of {self._n}, not of n = {n}")
            n = self._n if self._n is not None else n
            assert n is not None
            if not torch.compiler.is_compiling() and rows != (wants := self._shards(n).rows):
                raise CallError(
                    f"{self._name}: {label} has {rows} rows, which is no shard: each of {self.ranks} ranks has {wants} "
                    f"of a sequence of {n}. Give what far.shard(t, dim) returns"
                )
            return n
        found = self._lengths.get(rows, set())
        if len(found) != 1:
            why = "several lengths have so many rows" if found else "no sequence that was sharded has so many rows"
            raise CallError(
                f"{self._name}: {label} has {rows} rows, and of which length the sequence is, is not known: {why}. "
                "Give n=, here or to attnspec.distribute, and what far.shard(t, dim) returns"
            )
        return next(iter(found))

    def _dim(self, t: Tensor, dim: int) -> int:
        if not isinstance(t, Tensor) or not -t.dim() <= dim < t.dim():
            what = f"of {t.dim()} dimensions" if isinstance(t, Tensor) else f"but {type(t).__name__}"
            raise CallError(f"{self._name}: a tensor with a dimension {dim} is needed, not one {what}")
        return dim % t.dim()

    def __str__(self) -> str:
        if self._n is None and not self._lengths:
            return f"{self._name} over {self.ranks} ranks, planned for each length when it is seen"
        return str(self.plan)

    def __repr__(self) -> str:
        return f"<attnspec {self._name} over {self.ranks} ranks, this is rank {self.rank}>"
