"""What is left of a sequence in place of its keys, where weights are products of features: a state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.caches.rows import Rows
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import Program
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import EMPTY, Part
from attnspec.runtime.prepare.inputs import check_offsets
from attnspec.runtime.states.allowed import require_state
from attnspec.runtime.states.call import Asked, going_on, piece
from attnspec.runtime.states.documents import Documents
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.parts import Input

_LENGTHS = (e.Var("n"), e.Var("n_q"))


class Stream:
    """The state of what was before the last cut, and the keys and values of the ``waiting`` tokens after it.

    Tokens that have attended become part of the state when the next ones are appended, as far as the pattern lets a
    sequence be cut.
    """

    def __init__(self, program: Program, sizes: Sizes) -> None:
        """For heads and a batch of ``sizes``. Raises CallError where a pattern's calls hand on no state."""
        self.heads, self.tokens = range(sizes.kv_heads), 0
        self._program, self._spec = program, spec_of(program)
        self._going = require_state(program, sizes.heads, sizes.kv_heads, sizes.batch, True)
        weights, by_row = self._spec.weights, e.Var("n_q")
        self._pads = weights.each or weights.running or any(by_row in given.sizes for given in self._spec.inputs)
        self._documents = {name for atom in self._going.alike for name in contents.varies(atom)}
        for declared in self._spec.inputs:
            self._check_declared(declared)
        self._state: Tensor | None = None
        self._waiting: tuple[Tensor, Tensor] | None = None
        self._next: tuple[int, Tensor] | None = None

    def _check_declared(self, declared: Input) -> None:
        read = [size for size in declared.sizes if contents.free(size) & {"n", "n_q"}]
        odd = any(size not in _LENGTHS for size in read)
        by = declared.sizes[0] == e.Var("batch") if declared.sizes else False
        if declared.name in self._documents:
            odd = odd or len(declared.sizes) > 1 + by
        elif declared.form == "offsets":
            odd = True
        if odd:
            raise CallError(
                f"{self._spec.name}: a cache of states takes no `{declared}`: inputs by position have one entry for "
                "each of the n positions, and documents are `sorted` numbers or `offsets`, int[n] or int[batch, n]"
            )

    @property
    def _first(self) -> int:
        """The first position whose key is not in the state."""
        return self.tokens - (0 if self._waiting is None else self._waiting[0].shape[2])

    @property
    def first_query(self) -> int:
        """The first position whose query can attend: those before it may see keys in the state apart."""
        return self._first + (self._going.lag if self._first else 0)

    @property
    def positions(self) -> tuple[range, ...]:
        """Where the keys stand that are there."""
        return () if self._first == self.tokens else (range(self._first, self.tokens),)

    @property
    def bytes(self) -> int:
        """The memory that is held."""
        held = [*([] if self._state is None else [self._state]), *(self._waiting or ())]
        return sum(t.numel() * t.element_size() for t in held)

    def __str__(self) -> str:
        keys = self._going.lag + self._going.cut - 1
        if all(way.key is None for way in self._going.ways):
            return f"up to {keys:,} keys"
        return f"a state and up to {keys:,} keys" if keys else "a state"

    def append(self, k: Tensor, v: Tensor) -> None:
        """Keep the next keys and values (batch, kv_heads, tokens, dim); those that have attended go into the state."""
        if self._next is not None:
            merged, self._state = self._next
            assert self._waiting is not None
            old_k, old_v = self._waiting
            self._waiting, self._next = (old_k[:, :, merged:], old_v[:, :, merged:]), None
        if self._waiting is None or not self._waiting[0].shape[2]:
            self._waiting = k.clone(), v.clone()
        else:
            old_k, old_v = self._waiting
            self._waiting = torch.cat([old_k, k], 2), torch.cat([old_v, v], 2)
        self.tokens += k.shape[2]

    def attend(
        self, rows: Rows, q: Tensor, part: Part, scale: float | None, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Output and, where totals divide, their logarithms, of queries of the last tokens."""
        assert self._waiting is not None
        (k, v), start = self._waiting, self._first
        count = k.shape[2]
        with torch.no_grad():
            given, state = self._own(inputs, start, count)
            packed = self._packed(given, start)
            if packed is not None and state is not None:
                state = packed.from_first(state)
            if self._pads or not self._going.lag:
                q = torch.nn.functional.pad(q, (0, 0, count - q.shape[2], 0))
            merged = max(0, count // self._going.cut * self._going.cut - self._going.lag)
            whole = merged == count
            asked = Asked(self._program.encoded, q, k, v, scale, given, state, start, whole, True)
            found = going_on(asked)
            after = found.state
            if merged and not whole:
                k, v = (t[:, :, :merged] for t in (k, v))
                cut, q = self._cut(given, merged, count), q.new_zeros((*q.shape[:2], merged, q.shape[3]))
                after = piece(asked._replace(q=q, k=k, v=v, inputs=cut, return_state=True)).after().to(after.dtype)
        if merged:
            after = after if packed is None else packed.at_last(after)
            self._next = merged, after
        last = slice(found.out.shape[2] - part.n_q, None)
        lse = found.lse[:, :, last] if found.total is not None else EMPTY
        return found.out[:, :, last], lse

    def attended(self) -> None:
        """The queries of the last tokens have seen what they see."""

    def _own(self, inputs: Mapping[str, Tensor], start: int, count: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """The inputs of the tokens that wait, and the state: none of it where another document begins."""
        given, state = dict(inputs), self._state
        for declared in self._spec.inputs:
            name, t = declared.name, inputs.get(declared.name)
            if not isinstance(t, Tensor) or t.dim() != len(declared.sizes) or declared.form == "offsets":
                continue  # a call says what is wrong with it
            for axis, size in enumerate(declared.sizes):
                long = t.shape[axis]
                if size not in _LENGTHS or (long == count and not (start and name in self._documents)):
                    continue
                if long != self.tokens:
                    raise CallError(
                        f"{self._spec.name}: input `{name}` has {long:,} entries by position; there are "
                        f"{self.tokens:,} tokens, {count:,} of which are not in the state yet"
                    )
                if count and start and state is not None and name in self._documents:
                    same = t.select(axis, start) == t.select(axis, start - 1)
                    state = state * same.reshape(-1, 1, 1, 1)
                given[name] = given[name].narrow(axis, start, count)
        return given, state

    def _packed(self, given: dict[str, Tensor], start: int) -> Documents | None:
        """Documents by offsets of the tokens that wait: these take the place of those of the whole sequence."""
        name = self._going.packed
        offsets = None if name is None else given.get(name)
        if name is None or not isinstance(offsets, Tensor) or offsets.dtype.is_floating_point or not offsets.numel():
            return None
        check_offsets(f"{self._spec.name}: input `{name}`", offsets, self.tokens)
        found = Documents.last(offsets, start, self.tokens)
        given[name] = found.offsets.reshape(*offsets.shape[:-1], -1)
        return found

    def _cut(self, given: Mapping[str, Tensor], merged: int, count: int) -> dict[str, Tensor]:
        """The inputs of the first of the tokens that wait."""
        found = dict(given)
        for declared in self._spec.inputs:
            for axis, size in enumerate(declared.sizes):
                if size in _LENGTHS and declared.name in found and found[declared.name].shape[axis] == count:
                    found[declared.name] = found[declared.name].narrow(axis, 0, merged)
        return found

    def reset(self) -> None:
        """Forget everything."""
        self._state = self._waiting = self._next = None
        self.tokens = 0

    def reorder(self, indices: Tensor) -> None:
        """Take these entries of the batch in place of those there are."""
        if self._state is not None:
            self._state = self._state.index_select(0, indices)
        if self._waiting is not None:
            k, v = self._waiting
            self._waiting = k.index_select(0, indices), v.index_select(0, indices)
        if self._next is not None:
            self._next = self._next[0], self._next[1].index_select(0, indices)
