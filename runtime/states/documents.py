"""Packed documents, each with a state of its own: where they lie in a call, and sums document by document.

>>> found = Documents.of(torch.tensor([0, 2, 2, 5]), 5)
>>> found.number.tolist(), found.at.tolist(), found.lengths.tolist()
([[0, 0, 2, 2, 2]], [[0, 1, 0, 1, 2]], [[2, 0, 3]])
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnspec.runtime.prepare.runs import numbers


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents by the offsets at which they begin, (entries, documents + 1): one entry if those of the batch agree.

    States lie document by document: ``(batch * documents, heads, ..)``. ``number`` is that of each token's document,
    (entries, n).
    """

    offsets: Tensor
    number: Tensor

    @classmethod
    def of(cls, offsets: Tensor, n: int) -> Documents:
        """From an input, (documents + 1) or (batch, documents + 1), that was seen to fit n tokens."""
        offsets = offsets.long().reshape(-1, offsets.shape[-1])
        return cls(offsets, numbers(offsets, n, torch.int64))

    @classmethod
    def last(cls, offsets: Tensor, start: int, end: int) -> Documents:
        """Those of the last tokens of a longer sequence. The first is empty where one begins with these.

        >>> Documents.last(torch.tensor([[0, 2, 7, 7], [0, 5, 6, 7]]), 5, 7).offsets.tolist()
        [[0, 2, 2, 2], [0, 0, 1, 2]]
        """
        held: list[list[int]] = offsets.reshape(-1, offsets.shape[-1]).tolist()
        inside = [sorted({at - start for at in row if start <= at < end}) for row in held]
        most = max(map(len, inside))
        ends = [[0, *row, *[end - start] * (most + 1 - len(row))] for row in inside]
        return cls.of(torch.tensor(ends, device=offsets.device), end - start)

    def from_first(self, states: Tensor) -> Tensor:
        """The states of all, where those of the first of each entry are given, and no other goes on."""
        batch = states.shape[0]
        whole = states.new_zeros((batch, self.count, *states.shape[1:]))
        whole[:, 0] = states
        return whole.flatten(0, 1)

    def at_last(self, states: Tensor) -> Tensor:
        """Those of the documents that the last tokens are in, (batch, ..)."""
        by = states.reshape(-1, self.count, *states.shape[1:])
        return by[torch.arange(len(by), device=by.device), self.number[:, -1]]

    @property
    def count(self) -> int:
        """How many documents an entry has, empty ones among them."""
        return self.offsets.shape[1] - 1

    @cached_property
    def lengths(self) -> Tensor:
        """How many tokens each has, (entries, documents)."""
        return self.offsets.diff(dim=1)

    @cached_property
    def begins(self) -> Tensor:
        """Where the document of each token begins, (entries, n)."""
        return self.offsets[:, :-1].gather(1, self.number)

    @cached_property
    def ends(self) -> Tensor:
        """Where the document of each token ends, (entries, n)."""
        return self.offsets[:, 1:].gather(1, self.number)

    @cached_property
    def at(self) -> Tensor:
        """The place of each token in its document, (entries, n)."""
        return torch.arange(self.number.shape[1], device=self.number.device) - self.begins

    @cached_property
    def _even(self) -> int:
        """How many tokens every document has; 0 where they differ."""
        lengths = self.lengths.reshape(-1)
        return int(lengths[0]) if len(lengths) and bool((lengths == lengths[0]).all()) else 0

    def by_token(self, x: Tensor, index: Tensor) -> Tensor:
        """What stands at an index (entries, n) of the third dimension, (batch, heads, n, ..)."""
        if len(index) == 1:
            return x.index_select(2, index[0])
        return x[torch.arange(x.shape[0], device=x.device)[:, None], :, index].transpose(1, 2)

    def products(self, rows: Tensor, states: Tensor) -> Tensor:
        """Rows (batch, heads of keys, group, n, features) times the states of their documents."""
        batch = rows.shape[0]
        by = states.reshape(batch, self.count, *states.shape[1:]).transpose(1, 2)
        if self._even:
            apart = rows.reshape(*rows.shape[:3], self.count, self._even, rows.shape[4])
            found: Tensor = apart @ by[:, :, None]
            return found.flatten(3, 4)
        return self._joined(
            rows.new_zeros((*rows.shape[:3], 0, states.shape[-1])),
            3,
            lambda entry, d, here: rows[entry, :, :, here] @ by[entry, :, d, None],
        )

    def sums(self, b: Tensor, v: Tensor) -> Tensor:
        """The states ``sum b v^T`` of features (batch, heads, n, features) and values (batch, heads, n, values)."""
        batch, heads = b.shape[:2]
        if self._even:
            b, v = (x.reshape(batch, heads, self.count, self._even, x.shape[3]) for x in (b, v))
            return (b.mT @ v).transpose(1, 2).flatten(0, 1)
        none = b.new_zeros((batch, heads, b.shape[3], v.shape[3]))
        entries = []
        for entry, spans in self._spans(batch):
            found = [none[entry]] * self.count
            for d, here in spans:
                found[d] = b[entry, :, here].mT @ v[entry, :, here]
            entries.append(torch.stack(found, 1))
        return torch.cat(entries).flatten(0, 1)

    def _joined(self, none: Tensor, axis: int, make: Callable[[slice, int, slice], Tensor]) -> Tensor:
        entries = []
        for entry, spans in self._spans(none.shape[0]):
            entries.append(torch.cat([none[entry], *(make(entry, d, here) for d, here in spans)], axis))
        return torch.cat(entries)

    def _spans(self, batch: int) -> Iterator[tuple[slice, list[tuple[int, slice]]]]:
        """Entries of the batch that have the same documents, and where these lie that are not empty."""
        held: list[list[int]] = self.offsets.tolist()
        for number, offsets in enumerate(held):
            entry = slice(None) if len(held) == 1 else slice(number, number + 1)
            spans = enumerate(itertools.pairwise(offsets))
            yield entry, [(d, slice(start, end)) for d, (start, end) in spans if start < end]
