"""What a rank holds of a sequence, and calls of some of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnspec.analysis.carried import Carried
from attnspec.codegen.ranks.states import StateExchange
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import Program
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.distributed.halo import with_halo
from attnspec.runtime.distributed.inputs import LENGTHS
from attnspec.runtime.distributed.transport import Transport
from attnspec.runtime.prepare.inputs import check_offsets
from attnspec.runtime.states.call import Asked, piece
from attnspec.runtime.states.documents import Documents
from attnspec.runtime.states.piece import Piece
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.parts import Input
from attnspec.spec.spec import Spec


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens from ``first`` to before ``stop``: keys and values of all, queries of those from ``start`` on.

    ``inputs`` by position lie along ``axes`` and begin at ``begins``: with the sequence, or with these tokens.
    """

    spec: Spec
    program: Program
    going: Carried | None
    first: int
    start: int
    stop: int
    n: int
    q: Tensor
    k: Tensor
    v: Tensor
    scale: Any
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, int]
    begins: Mapping[str, int]

    @classmethod
    def of(
        cls,
        exchange: StateExchange,
        transport: Transport,
        program: Program,
        going: Carried | None,
        vectors: tuple[Tensor, Tensor, Tensor],
        scale: Any,
        inputs: Mapping[str, Tensor],
    ) -> Tokens:
        """Of a rank, with the keys before its own that it needs. Raises CallError for inputs that do not fit."""
        spec, (start, stop) = spec_of(program), exchange.span(transport.rank)
        first, n, rows = exchange.first(transport.rank), exchange.shards.n, exchange.shards.rows
        documents = documents_of(going)
        axes, begins, local = {}, {}, []
        for declared in spec.inputs:
            t = inputs.get(declared.name)
            axis = _axis(spec, declared, declared.name in documents)
            if t is None or axis is None or declared.form == "offsets":
                continue
            long = t.shape[axis] if axis < t.dim() else None
            axes[declared.name], begins[declared.name] = axis, 0
            if long == n and (n != rows or declared.name in documents):
                continue
            if long != rows or declared.name in documents:
                whole = f"{n:,}" if declared.name in documents else f"{n:,}, or {rows:,} of a rank"
                raise CallError(
                    f"{spec.name}: input `{declared.name}` has {long} entries by position; there must be {whole}"
                )
            local.append(declared.name)
        q, k, v = (t.narrow(2, 0, stop - start) for t in vectors)
        own = [k, v, *(inputs[name].narrow(axes[name], 0, stop - start) for name in local)]
        k, v, *rest = with_halo(transport, exchange, own, [2, 2, *(axes[name] for name in local)])
        held = {**inputs, **dict(zip(local, rest, strict=True))}
        begins |= dict.fromkeys(local, first)
        return cls(spec, program, going, first, start, stop, n, q, k, v, scale, held, axes, begins)

    @property
    def real(self) -> torch.dtype:
        """That of states."""
        return torch.float64 if self.q.dtype == torch.float64 else torch.float32

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        """What the states depend on and wants gradients."""
        return tuple(t for t in (self.k, self.v, *self.inputs.values()) if t.is_floating_point())

    def asked(
        self, stop: int, *, rows: bool, state: Tensor | None = None, **more: Any
    ) -> tuple[Asked, Documents | None]:
        """A call of the tokens up to some, and their documents, by offsets. ``rows``: with queries, for outputs.

        ``state`` is one for each entry of the batch: of packed documents it goes to the first.
        """
        count, start = stop - self.first, self.start - self.first
        given = dict(self.inputs)
        for name, axis in self.axes.items():
            given[name] = given[name].narrow(axis, self.first - self.begins[name], count)
        packed = None
        if self.going is not None and self.going.packed is not None:
            name = self.going.packed
            check_offsets(f"{self.spec.name}: input `{name}`", given[name], self.n)
            packed = Documents.last(given[name].cpu(), self.first, stop)
            given[name] = packed.offsets.reshape(*given[name].shape[:-1], -1).to(given[name].device)
            packed = Documents.of(given[name], count)
            state = None if state is None else packed.from_first(state)
        q, weights = self.q, self.spec.weights
        if not rows:
            q = q.new_zeros(()).expand(*q.shape[:2], count, q.shape[3])
        elif start and (weights.each or weights.running or self._by_row):
            q = torch.nn.functional.pad(q, (0, 0, start, 0))
        k, v = (t.narrow(2, 0, count) for t in (self.k, self.v))
        v = more.pop("v", v)
        return_state = more.pop("return_state", not rows)
        asked = Asked(
            self.program.encoded, q, k, v, self.scale, given, state, self.first, return_state, True, not rows, **more
        )
        return asked, packed

    @property
    def _by_row(self) -> bool:
        return any(e.Var("n_q") in declared.sizes for declared in self.spec.inputs)

    def continues(self) -> Tensor | None:
        """Whether the first token goes on with the document of the one before it, (batch or 1, 1, 1, 1).

        None where that goes without saying.
        """
        if self.going is None or self.going.packed is not None or not self.first or self.first >= self.n:
            return None
        found = None
        for name in documents_of(self.going):
            t, axis = self.inputs[name], self.axes[name]
            same = (t.select(axis, self.first) == t.select(axis, self.first - 1)).reshape(-1, 1, 1, 1)
            found = same if found is None else found & same
        return None if found is None or bool(found.all()) else found


def made(asked: Asked, going: Carried | None = None) -> Piece:
    """A call, with features made by operations of tensors, as one for the new state ``alone`` is."""
    found = piece(asked, going)
    assert isinstance(found, Piece)
    return found


def documents_of(going: Carried | None) -> set[str]:
    """The inputs that say in which document a position is."""
    if going is None:
        return set()
    return {name for atom in going.alike for name in contents.varies(atom)} - e.POSITIONS - e.SIZES


def _axis(spec: Spec, declared: Input, of_documents: bool) -> int | None:
    """Along which dimension an input has an entry for each position; None where it has none."""
    read = [axis for axis, size in enumerate(declared.sizes) if contents.free(size) & {"n", "n_q"}]
    if not read:
        return None
    odd = len(read) > 1 or declared.sizes[read[0]] not in LENGTHS or (of_documents and read[0] > 1)
    if odd and declared.form != "offsets":
        raise CallError(
            f"{spec.name}: ranks that exchange states take no `{declared}`: inputs by position have one entry for each "
            "of the n positions, and documents are `sorted` numbers or `offsets`, int[n] or int[batch, n]"
        )
    if declared.form == "offsets" and not of_documents:
        raise CallError(f"{spec.name}: ranks that exchange states take no `{declared}`, which says no documents")
    return read[0]


def rows_of_inputs(spec: Spec, inputs: Mapping[str, Tensor], n: int, start: int, count: int) -> dict[str, Tensor]:
    """Whole inputs with the entries of some positions alone, where there is one for each."""
    found = dict(inputs)
    for declared in spec.inputs:
        for axis, size in enumerate(declared.sizes):
            t = found.get(declared.name)
            if t is not None and size in LENGTHS and declared.form != "offsets" and t.shape[axis] == n:
                found[declared.name] = t.narrow(axis, start if count else 0, count)
    return found
