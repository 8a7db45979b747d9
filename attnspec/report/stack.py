"""What ``attnspec inspect A B --stack`` says: how far information travels through layers of different patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attnspec.analysis.reach import Reach, reach
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec
from attnspec.spec.units import share

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Stack:
    """The patterns of a round of layers, the first next to the input, and how far influence spreads in rounds of it."""

    patterns: tuple[Spec, ...]
    n: int
    reach: Reach

    @property
    def rounds(self) -> int | None:
        """The rounds, the last one perhaps not whole, until every position can influence every later one."""
        layers = self.reach.layers
        return None if layers is None else -(-layers // len(self.patterns))

    def name(self, layer: int) -> str:
        """The name of the pattern of a layer, counted from 1."""
        return self.patterns[(layer - 1) % len(self.patterns)].name

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        patterns = [{"name": p.name, "params": dict(p.params)} for p in self.patterns]
        return {"patterns": patterns, "n": self.n, "rounds": self.rounds, "reach": asdict(self.reach)}


def stack(layers: Sequence[tuple[Spec, Sizes]]) -> Stack:
    """Ask how far influence spreads. Raises SpecError where it takes inputs to know, or where there are axes."""
    lowered = [(lower(spec, sizes.heads, sizes.kv_heads, sizes.batch), sizes) for spec, sizes in layers]
    return Stack(tuple(spec for spec, _ in layers), layers[0][1].n, reach(*lowered))


def show(found: Stack, console: Console) -> None:
    """Print it."""
    names = ", ".join(p.name for p in found.patterns)
    console.print(f"a stack of {names}, again and again, the first next to the input; n = {found.n:,}")
    r, note = found.reach, ""
    if not r.exact:
        note = f" (at n = {r.n:,}: the sets at full length were too irregular)"
    if r.layers is None:
        console.print(f"no number of rounds lets every position influence every later one{note}")
    else:
        rounds, layers = _number(found.rounds or 0, "round"), _number(r.layers, "layer")
        console.print(f"{rounds} ({layers}) until every position can influence every later one{note}")
    console.print("share of the pairs k <= q reached", style="bold")
    for layer, reached in r.shares:
        console.print(f"  after layer {layer:,} ({found.name(layer)})  {share(reached)}")


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
