"""A call of packed documents, each of which goes on from a state of its own, and leaves one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.analysis.carried import Carried
from attnspec.runtime.states.documents import Documents
from attnspec.runtime.states.piece import Piece


@dataclass(frozen=True, eq=False)
class PackedPiece(Piece):
    """The same as a piece, but that states are (batch * documents, ..), and ``stays`` too.

    Sums of steps inside a document are differences of those of the call, in float64.
    """

    documents: Documents

    def _read(self, groups: Tensor, state: Tensor) -> Tensor:
        return self.documents.products(groups, state)

    def _last(self, state: Tensor) -> Tensor:
        last = state[..., -1].reshape(-1, self.documents.count, *state.shape[1:3]).transpose(1, 2)
        return self.documents.by_token(last, self.documents.number)

    def _summed(self, b: Tensor, v: Tensor) -> Tensor:
        return self.documents.sums(b, v)

    def _logs_since(self, steps: Tensor) -> Tensor:
        sums, of = _up_to(steps), self.documents
        return sums[:, :, 1:] - of.by_token(sums, of.begins)

    def _logs_behind(self, steps: Tensor) -> Tensor:
        sums, of = _up_to(steps), self.documents
        return of.by_token(sums, of.ends) - sums[:, :, 1:]

    def _logs_over(self, steps: Tensor) -> Tensor:
        sums, of = _up_to(steps), self.documents
        over = of.by_token(sums, of.offsets[:, 1:]) - of.by_token(sums, of.offsets[:, :-1])
        return over.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def _up_to(steps: Tensor) -> Tensor:
    """The sums of the first 0, 1, ... n steps."""
    none = steps.new_zeros((*steps.shape[:2], 1, *steps.shape[3:]))
    return torch.cat([none, steps.cumsum(2)], 2)


def packed_masks(going: Carried, documents: Documents, batch: int) -> tuple[Tensor | None, ...]:
    """As masks of a piece are: of rows and keys by their places in documents, and of the states of these."""
    at, ends = documents.at[:, None].cpu().numpy(), (documents.ends - documents.begins)[:, None].cpu().numpy()
    lasts = torch.from_numpy(going.lasts(documents.lengths[:, None].cpu().numpy()).copy())
    stays = lasts.expand(batch, -1, -1).transpose(1, 2).flatten(0, 1)[..., None]
    masks = torch.from_numpy(going.crosses(at).copy()), torch.from_numpy(going.leaves(ends, at).copy()), stays
    return tuple(None if bool(mask.all()) else mask for mask in masks)
