"""An attention over a group of ranks: plans by length, agreed on by all, and the passes of one rank."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from attnspec.codegen.ranks.documents import Extents, documents, restricted
from attnspec.codegen.ranks.plan import RankPlan
from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.shards import Shards
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import CallError, check_call
from attnspec.runtime.core.program import fingerprint
from attnspec.runtime.distributed.backward import backward
from attnspec.runtime.distributed.collectives import of_all, sum_up
from attnspec.runtime.distributed.duties import Duties
from attnspec.runtime.distributed.finish import Finish, Kept
from attnspec.runtime.distributed.forward import forward
from attnspec.runtime.distributed.inputs import check_documents, require_alike
from attnspec.runtime.distributed.job import Job
from attnspec.runtime.distributed.planning import Asked, planned
from attnspec.runtime.distributed.stored import Form
from attnspec.runtime.distributed.strided import WholeInputs
from attnspec.runtime.distributed.transport import Transport, always
from attnspec.runtime.prepare.inputs import check


class Given(NamedTuple):
    """The tensors of a call: local rows of q, k and v, and whole inputs."""

    q: Tensor
    k: Tensor
    v: Tensor
    inputs: Mapping[str, Tensor]
    scale: float | None
    n: int

    @classmethod
    def of(cls, tensors: Sequence[Tensor], names: Sequence[str], scale: float | None, n: int) -> Given:
        """From the arguments of operators."""
        q, k, v, *rest = tensors
        return cls(q, k, v, dict(zip(names, rest, strict=True)), scale, n)


@dataclass(eq=False)
class Spread:
    """One rank's view of it."""

    attend: Attention
    transport: Transport
    asked: Asked
    _planned: dict[int, RankPlan] = field(default_factory=dict)
    _duties: dict[int, Duties] = field(default_factory=dict)
    _documents: dict[int, frozenset[str]] = field(default_factory=dict)
    _by_documents: dict[tuple[Any, ...], Duties] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.attend._facts.name

    def planned(self, n: int) -> RankPlan:
        """The plan for sequences of length n: the same on all ranks."""
        if n not in self._planned:
            self._planned[n] = planned(self.attend, self.transport.ranks, n, self.asked)
        return self._planned[n]

    def schedule(self, n: int) -> Schedule:
        """What ranks do by it."""
        return self.planned(n).schedule

    def shards(self, n: int) -> Shards:
        """Who holds what."""
        return self.schedule(n).shards

    def duties(self, n: int) -> Duties:
        """What this rank has to do of it."""
        if n not in self._duties:
            self._duties[n] = Duties.of(self.schedule(n), self.transport.rank)
        return self._duties[n]

    def sent(self, inputs: Mapping[str, Tensor], n: int) -> tuple[int, int]:
        """The bytes that this rank sends in a call with these inputs, forward and backward; sums of gradients left out.

        With documents ranks tell each other in each call that theirs are the same.
        """
        extents, rank = self._of_documents(inputs, n), self.transport.rank
        made = restricted(self.schedule(n), extents) if extents else self.schedule(n)
        told = 8 * len(extents) * (self.transport.ranks - 1)
        return int(made.sent()[rank]) + told, int(made.sent(backward=True)[rank])

    def _of_documents(self, inputs: Mapping[str, Tensor], n: int) -> dict[str, Extents]:
        """Where documents begin and end at the chunks of shards, of each input that says what they are."""
        schedule, found = self.schedule(n), {}
        if self.transport.ranks == 1 or not schedule.shards.size:
            return {}
        if n not in self._documents:
            every = (documents(schedule.relation, one.pattern) for one in schedule.placed)
            self._documents[n] = frozenset[str]().union(*every)
        names = self._documents[n]
        for declared in self.attend.spec.inputs:
            name, t = declared.name, inputs.get(declared.name)
            if name in names and t is not None:
                check_documents(f"{self.name}: input `{name}`", declared, t, n)
                made = Extents.of_offsets if declared.form == "offsets" else Extents.of_numbers
                found[name] = made(t.numpy(force=True).astype(np.int64), schedule.shards)
        return found

    def _duties_of(self, n: int, extents: Mapping[str, Extents]) -> Duties:
        """What this rank has to do in a call: documents leave less of it."""
        if not extents:
            return self.duties(n)
        key = n, *sorted(extents.items())
        if key not in self._by_documents:
            while len(self._by_documents) >= _MOST_DOCUMENTS:
                del self._by_documents[next(iter(self._by_documents))]
            made = restricted(self.schedule(n), extents)
            self._by_documents[key] = Duties.of(made, self.transport.rank)
        return self._by_documents[key]

    @torch.no_grad()
    def forward(self, given: Given, keep: bool) -> Kept:
        """Results of this rank's rows. Raises CallError for tensors that do not fit."""
        form = self._form(given)
        self._agree(given, form)
        extents = self._of_documents(given.inputs, given.n)
        if extents:
            require_alike(self.name, self.transport, {name: given.inputs[name] for name in extents}, form.device)
        job = self._job(given, form, extents, keep)
        finish = Finish(self.attend, job.duties, form, job.inputs.given, job.apart)
        return finish.forward(forward(job, given.q, given.k, given.v, finish.sink), keep)

    @torch.no_grad()
    def backward(
        self, given: Given, kept: Kept, dout: Tensor, dlse: Tensor | None, wanted: Sequence[str]
    ) -> list[Tensor]:
        """Gradients of q, k and v, of this rank's rows, and of the inputs that are wanted, summed over all ranks."""
        form = self._form(given)
        job = self._job(given, form, self._of_documents(given.inputs, given.n), True)
        like = {name: given.inputs[name] for name in wanted}
        dinputs = {name: torch.zeros(t.shape, dtype=torch.float32, device=t.device) for name, t in like.items()}
        dout = dout.to(form.dtype)
        finish = Finish(self.attend, job.duties, form, job.inputs.given, job.apart)
        rows = finish.backward(kept, dout, dlse, dinputs)
        found = list(backward(job, (given.q, given.k, given.v), dout, rows, dinputs))
        sum_up(self.transport, list(dinputs.values()))
        vectors = [found.pop(0).to(form.dtype) for _ in range(3)]  # the memory of each is free before the next
        return [*vectors, *dinputs.values()]

    def _job(self, given: Given, form: Form, extents: Mapping[str, Extents], keep: bool) -> Job:
        """A call. Outputs of branches whose weights are detached are only for gradients apart: else they are merged."""
        spec, known, n = self.attend.spec, self.attend._facts, given.n
        sizes = spec.sizes(n, n, form.heads, form.batch, form.kv_heads)
        branches = self.attend.branches if spec.mixture else (self.attend,)
        return Job(
            self.transport,
            self._duties_of(n, extents),
            form,
            branches,
            bool(known.shared or (known.separate and keep)),
            given.scale,
            WholeInputs.of(spec, given.inputs, sizes, form.device),
        )

    def _form(self, given: Given) -> Form:
        """The sizes of a call. Raises CallError where its tensors are not shards, or not of what was planned."""
        q, k, v, inputs, _, n = given
        name = self.name
        length = self.schedule(n).shards.rows
        for label, t in (("q", q), ("k", k), ("v", v)):
            if t.dim() == 4 and t.shape[2] != length:
                raise CallError(
                    f"{name}: {label} has {t.shape[2]} rows, which is no shard: each of {self.transport.ranks} ranks "
                    f"has {length} of a sequence of {n}. Give what far.shard({label}, dim=2) returns"
                )
        check_call(name, self.attend._target, self.attend._kinds, q, k, v)
        found = Form(q.shape[0], q.shape[1], k.shape[1], q.shape[3], v.shape[3], q.dtype, q.device, length)
        self.asked.check(name, q, k, v)
        check(self.attend.spec, None, inputs, q.device)
        return found

    def _agree(self, given: Given, form: Form) -> None:
        """At the first call of its kind: all ranks are about to do the same. Raises CallError that names those not."""
        of_inputs = tuple((name, tuple(t.shape), str(t.dtype), t.requires_grad) for name, t in given.inputs.items())
        call = (tuple(form[:5]), str(form.dtype), of_inputs, given.scale, given.n)
        kind = call, self.attend.program.encoded, self.asked
        agreed = _AGREED.setdefault(self.transport, set())
        if kind in agreed and not always():
            return
        whole = f"{json.dumps(kind)}\0{fingerprint()}\0{self.schedule(given.n).digest}"
        digest = torch.frombuffer(bytearray(sha256(whole.encode()).digest()), dtype=torch.uint8).to(form.device)
        told = of_all(self.transport, digest)
        common = max(told, key=lambda t: sum(torch.equal(t, other) for other in told))
        if differ := [rank for rank, t in enumerate(told) if not torch.equal(t, common)]:
            who = ", ".join(map(str, differ))
            raise CallError(
                f"{self.name}: the ranks are not about to do the same: pattern, plan, shapes, dtypes, inputs (or which "
                f"of them want gradients) or scale of rank {who} differ from those of the others. Here (rank "
                f"{self.transport.rank}): n = {given.n}, "
                f"{', '.join(f'{name} {tuple(t.shape)}' for name, t in zip('qkv', given[:3], strict=True))}, "
                f"{form.dtype}, inputs {', '.join(given.inputs) or 'none'}, {self.schedule(given.n).shards}"
            )
        whole_numbers = {name: t for name, t in given.inputs.items() if not t.is_floating_point()}
        if whole_numbers:
            require_alike(self.name, self.transport, whole_numbers, form.device)
        agreed.add(kind)


_AGREED: WeakKeyDictionary[Transport, set[tuple[Any, ...]]] = WeakKeyDictionary()
"""What ranks know to do alike, for good: what they tell each other must not depend on which objects live where."""
_MOST_DOCUMENTS = 64
"""Of so many calls' documents it is remembered what a rank has to do: those of the layers of a model, and some more."""
