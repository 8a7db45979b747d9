"""The inputs of a pattern over ranks: whole, or as shards of what has an entry for each position."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.codegen.ranks.shards import Shards
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.distributed.collectives import exchanged, of_all, shared, total
from attnspec.runtime.distributed.transport import Transport
from attnspec.runtime.prepare.inputs import check_offsets
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.parts import Input
from attnspec.spec.spec import Spec

LENGTHS = (e.Var("n"), e.Var("n_q"))
"""Sizes of what has an entry for each position."""


def whole_inputs(
    spec: Spec,
    transport: Transport,
    shards: Shards,
    inputs: Mapping[str, Tensor],
    *,
    as_they_are: Collection[str] = (),
) -> dict[str, Tensor]:
    """The inputs of a call whole, as one device has them; those that came as shards are gathered, in one step each.

    What the declared sizes say is along positions (``n``, ``n_q``) has n entries there, or a rank's rows, padding among
    them: that is a shard. All else is the same on every rank. Gradients are those of all ranks: a rank gets its rows',
    and of what it gave whole the sum, over the group alone. Shards of the names in ``as_they_are`` stay what they are.
    Raises CallError for what is neither.
    """
    by_name = {declared.name: declared for declared in spec.inputs}
    found = {}
    for name, t in inputs.items():
        declared = by_name.get(name)
        axis = None if declared is None else _sharded(spec, declared, t, shards)
        if axis is None:
            found[name] = shared(transport, t) if t.is_floating_point() else t
        elif name in as_they_are:
            found[name] = t
        else:
            found[name] = gathered(transport, shards, t, axis)
    return found


def unsharded(spec: Spec, transport: Transport, shards: Shards, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs with those that came as shards gathered; whose gradients as a whole are to be the sum over ranks already.

    Raises CallError as :func:`whole_inputs` does.
    """
    by_name, found = {declared.name: declared for declared in spec.inputs}, dict(inputs)
    for name, t in inputs.items():
        axis = _sharded(spec, by_name[name], t, shards) if name in by_name else None
        if axis is not None:
            found[name] = gathered(transport, shards, t, axis, alike=True)
    return found


def _sharded(spec: Spec, declared: Input, t: Tensor, shards: Shards) -> int | None:
    if declared.form == "offsets" or not isinstance(t, Tensor) or t.dim() != len(declared.sizes):
        return None  # a call says what is wrong with it
    n, rows = shards.n, shards.rows
    found = []
    for axis, size in enumerate(declared.sizes):
        if not contents.free(size) & {"n", "n_q"}:
            continue
        if size not in LENGTHS or t.shape[axis] == n or (t.shape[axis] == 1 and rows != 1):
            continue
        if t.shape[axis] != rows:
            raise CallError(
                f"{spec.name}: input `{declared.name}` has {t.shape[axis]:,} entries by position: over {shards.ranks} "
                f"ranks it has {n:,} where it is whole, and {rows:,} as a shard"
            )
        found.append(axis)
    if len(found) > 1:
        raise CallError(
            f"{spec.name}: input `{declared.name}` is a shard along {len(found)} dimensions: what is for pairs of "
            "queries and keys is whole along one of them"
        )
    return found[0] if found else None


def gathered(transport: Transport, shards: Shards, t: Tensor, axis: int, *, alike: bool = False) -> Tensor:
    """All positions of a tensor of which each rank has its rows, in their order along ``axis``.

    The gradient of a rank's rows is the sum of those that all ranks have for them (``alike``: these are the same, the
    sum already); that of padding is 0.
    """
    return _Gathered.apply(transport, shards, axis, alike, t)  # type: ignore[no-any-return, no-untyped-call]


def positions(shards: Shards, rank: int, device: torch.device) -> Tensor:
    """The positions of a rank's rows, but padding."""
    places = shards.positions(rank)
    return torch.from_numpy(places[places >= 0].astype(np.int64)).to(device)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transport: Transport, shards: Shards, axis: int, alike: bool, t: Tensor) -> Tensor:
        ctx.how, ctx.rows = (transport, shards, axis, alike), t.shape[axis]
        found = t.new_empty((*t.shape[:axis], shards.n, *t.shape[axis + 1 :]))
        for rank, rows in enumerate(of_all(transport, t)):
            places = positions(shards, rank, t.device)
            found.index_copy_(axis, places, rows.narrow(axis, 0, len(places)))
        return found

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[None, None, None, None, Tensor]:
        transport, shards, axis, alike = ctx.how
        me = transport.rank
        own = d.index_select(axis, positions(shards, me, d.device))
        if not alike:
            others = [rank for rank in range(transport.ranks) if rank != me]
            pieces = {rank: d.index_select(axis, positions(shards, rank, d.device)) for rank in others}
            sent = [(rank, piece) for rank, piece in pieces.items() if piece.numel()]
            got = exchanged(transport, sent, [(rank, own) for rank in others if own.numel()])
            if own.numel():
                got.insert(me, own)
                own = total(torch.stack(got))
        found = d.new_zeros((*d.shape[:axis], ctx.rows, *d.shape[axis + 1 :]))
        found.narrow(axis, 0, own.shape[axis]).copy_(own)
        return None, None, None, None, found


def check_documents(where: str, declared: Input, t: Tensor, n: int) -> None:
    """Raise CallError for what says not of each position of a sequence in which document it is."""
    if t.is_floating_point() or t.dtype == torch.bool or t.dim() != len(declared.sizes):
        raise CallError(f"{where} is declared `{declared}`, not {t.dtype} of {t.dim()} dimensions")
    if declared.form == "offsets":
        check_offsets(where, t, n)
    elif t.shape[-1] != n:
        raise CallError(f"{where} has {t.shape[-1]:,} entries by position, and the sequence {n:,} positions")
    elif not bool((t[..., 1:] >= t[..., :-1]).all()):
        raise CallError(f"{where} is declared sorted, but its values decrease")


def require_alike(name: str, transport: Transport, values: Mapping[str, Tensor], device: torch.device) -> None:
    """Raise CallError, with its name and the ranks, for what was not given alike to all; ``values`` are on the CPU.

    Every rank takes part, whatever it was given; all of them raise.
    """

    def digest(t: Tensor) -> int:
        held = t.detach().cpu().contiguous().numpy()
        said = f"{tuple(held.shape)} {held.dtype.str}".encode() + held.tobytes()
        return int.from_bytes(hashlib.sha256(said).digest()[:7], "little")

    mine = torch.tensor([digest(values[key]) for key in sorted(values)], dtype=torch.int64, device=device)
    table = torch.stack(of_all(transport, mine)).tolist()
    for column, key in enumerate(sorted(values)):
        different = [rank for rank in range(transport.ranks) if table[rank][column] != table[0][column]]
        if different:
            said = ", ".join(map(str, different))
            raise CallError(
                f"{name}: all ranks are given the same `{key}`, whole: rank{'s' * (len(different) > 1)} {said} got "
                "another one than rank 0"
            )
