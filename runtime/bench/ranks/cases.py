"""The calls that ``attnspec bench --ranks`` measures, and what they are to keep to.

>>> [f"{case}" for case in CASES][:2]
['causal, 4 heads of 2 key heads, zigzag shards', 'causal, 4 heads of 2 key heads, contiguous shards']
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

MOST_MEMORY = 1.2
"""Times the bytes of a rank's own tensors and of what it receives."""
BALANCED, BALANCED_CPU = 1.01, 1.05
"""The largest over the mean of pairs, and of the processor's time, over ranks."""


@dataclass(frozen=True)
class Case:
    """A pattern over shards of one kind, float32, and its bars.

    ``sent`` is the largest share of what an all-gather of the keys sends, ``faster`` how many times as fast as that the
    call must be, ``balanced`` whether ranks must compute alike. A causal call must not be slower than PyTorch's
    ``context_parallel`` either.
    """

    spec: str
    params: Mapping[str, object] = field(default_factory=dict)
    n: int = 16384
    shard: str = "contiguous"
    sent: float | None = None
    faster: float | None = None
    balanced: bool = False
    heads: int = 4
    kv_heads: int = 2
    dim: int = 64

    @property
    def causal(self) -> bool:
        """Whether it is what PyTorch's ``context_parallel`` computes; all-gather and ring then deal out by zigzag."""
        return self.spec == "causal"

    def smaller(self, ranks: int) -> Case:
        """The same of a sixteenth of the length, which still can be cut."""
        return replace(self, n=max(1, self.n // 16 // (2 * ranks)) * 2 * ranks)

    def cut(self, ranks: int) -> Case:
        """The same of a length that can be cut into chunks alike: two a rank."""
        return replace(self, n=self.n // (2 * ranks) * 2 * ranks)

    def __str__(self) -> str:
        params = (f"{name}={value}" for name, value in self.params.items())
        heads = f"{self.heads} heads" + (f" of {self.kv_heads} key heads" if self.kv_heads != self.heads else "")
        return f"{' '.join([self.spec, *params])}, {heads}, {self.shard} shards"


CASES = (
    Case("causal", shard="zigzag", balanced=True),
    Case("causal", balanced=True),
    Case("window", {"width": 1024}, 65536, sent=0.02, faster=2.0, kv_heads=4),
    Case("window", {"width": 1024}, 65536, sent=0.02),
    Case("longformer", {"width": 1024, "globals": 16}, 65536, sent=0.03),
    Case("dilated", {"width": 512, "rate": 8}, 65536, "residue", sent=0.0),
    Case("longnet", n=65536, sent=1 / 8),
)
