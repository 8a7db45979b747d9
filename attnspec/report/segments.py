"""What ``attnspec inspect`` says of a pattern of segments: of each, of the whole sequence, and of what lies between."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from attnspec.analysis.causal import why_not_causal
from attnspec.analysis.segment_reach import SegmentReach, segment_reach
from attnspec.analysis.segments import Kept, Segmented, segmented
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec


@dataclass(frozen=True)
class Following:
    """How segments follow one another over a whole sequence; of one layer, for vectors of ``width`` numbers.

    ``own`` is why a model must take its attention from the pattern: empty where each segment is plain causal.
    """

    spec: Spec
    whole: Segmented
    reach: SegmentReach
    own: str
    dim: int
    width: int
    kv_width: int
    batch: int
    itemsize: int

    def operations(self, pairs: int) -> int:
        """Those of the forward pass over some pairs, in a layer."""
        return 4 * self.dim * pairs

    def bytes(self, kept: Kept) -> int:
        """What a carry keeps: vectors of the model, or keys and values of one layer."""
        width = 2 * self.kv_width if kept.carry.by_layer else self.width
        return self.batch * kept.positions * width * self.itemsize

    @property
    def foreseen(self) -> int:
        """How many tokens a summary has read before they are predicted: all that it reads but a first one."""
        recurrence = self.spec.recurrence
        assert recurrence is not None
        if recurrence.recall is None:
            return 0
        read = recurrence.recall.tokens(recurrence.recur.size)
        return sum(run.times * max(min(read, run.tokens) - 1, 0) for run in self.whole.runs if run.summary)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        whole = self.whole
        return {
            "n": whole.n,
            "segments": whole.segments,
            "exact": whole.exact,
            "positions": whole.positions,
            "foreseen": self.foreseen,
            "pairs": whole.pairs,
            "flops": self.operations(whole.pairs),
            "runs": [
                {**asdict(run), "present": dict(run.present), "flops": self.operations(run.pairs)} for run in whole.runs
            ],
            "kept": [
                {
                    "carry": str(kept.carry),
                    "positions": kept.positions,
                    "by_layer": kept.carry.by_layer,
                    "detached": kept.carry.detached,
                    "bytes": self.bytes(kept),
                }
                for kept in whole.kept
            ],
            "reach": {
                "information": asdict(self.reach.information),
                "gradients": asdict(self.reach.gradients),
            },
            "plain_causal": not self.own,
            "why_not_causal": self.own,
        }


def following(relation: Relation, n: int, sizes: Sizes, dim: int, itemsize: int) -> Following:
    """Ask everything of a pattern of segments. Raises what :func:`segmented` and :func:`segment_reach` do."""
    whole, reach = segmented(relation, n, sizes), segment_reach(relation)
    widths = (sizes.heads * dim, sizes.kv_heads * dim)
    return Following(relation.spec, whole, reach, why_not_causal(relation), dim, *widths, sizes.batch, itemsize)
