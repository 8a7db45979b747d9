"""What is learned beside the model: vectors where nothing is carried, and what a recall asks with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnspec.runtime.recurrent.recall import Recalled
from attnspec.spec.recurrence import Recurrence


class Parameters(nn.Module):
    """The learned parameters of a spec, drawn like embeddings.

    ``initial`` holds what stands before the first segment by the axis that is carried from (of several lines each has
    as many of its last rows as it keeps), and while a store is empty by the axis that it is filled from; ``learned``
    what stands in every segment at an axis that nothing is carried to; ``recall`` the prompt and the maps of a recall.
    """

    def __init__(self, recurrence: Recurrence, sizes: dict[str, int], rows: tuple[str, ...], like: Tensor) -> None:
        super().__init__()
        draw, self.width, self.element = _drawn(like), like.shape[-1], like.element_size()
        recall = recurrence.recall
        self.initial, self.learned = nn.ParameterDict(), nn.ParameterDict()
        starting = [carry for carry in recurrence.carries if not recurrence.grows(carry)]
        for source in recurrence.starts:
            self.initial[source] = draw(max(sizes[carry.targets[0]] for carry in starting if carry.source == source))
        for carry in recurrence.carries:
            if recall is not None and recurrence.store(carry):
                self.store = carry.source if carry.source not in self.initial else recall.store
                self.initial[self.store] = draw(sizes[recall.targets[0]])
        for axis in rows:
            given = axis == recurrence.recur.axis or recurrence.carried_to(axis) is not None
            if not given and (recall is None or axis not in recall.targets):
                self.learned[axis] = draw(sizes[axis])
        self.recall = None if recall is None else Recalled(draw(sizes[recall.targets[0]]), recall.dim)

    def before(self, source: str, rows: int) -> Tensor:
        """The last rows of what stands before the first segment where something is carried from an axis."""
        found: Tensor = self.initial[source]
        return found[found.shape[0] - rows :]


def _drawn(like: Tensor) -> Callable[[int], Tensor]:
    """Vectors, a number of them, of as large numbers as a table of embeddings (or some of them) has."""
    deviation = float(like.detach().float().std()) if like.numel() > 1 and like.device.type != "meta" else 1.0

    def drawn(rows: int) -> Tensor:
        return torch.randn(rows, like.shape[-1], dtype=like.dtype, device=like.device) * deviation

    return drawn
