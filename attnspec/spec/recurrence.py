"""How segments of a sequence follow one another: what a model carries from one to the next.

>>> from attnspec.check.check import check_text
>>> spec = check_text('''attention rmt(slots = 10, segment = 512) {
...     axis read[slots]
...     axis token[n]
...     axis written[slots]
...     token -> read: true
...     token -> token: causal
...     written -> token: true
...     recur token by segment
...     carry written -> read, written
... }''')
>>> print(spec.recurrence)
recur token by 512
carry written -> read, written
>>> spec.recurrence.starts
('written',)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Recur:
    """``recur axis by size``: the sequence on an axis comes in segments; ``ragged`` says where the short one stands."""

    axis: str
    size: int
    ragged: str = "last"

    def __str__(self) -> str:
        return f"recur {self.axis} by {self.size}{' ragged first' if self.ragged == 'first' else ''}"


@dataclass(frozen=True)
class Carry:
    """``carry source -> targets last E by layer detached``: what stands at the targets in the next segment.

    Of the recurring axis that is its input vectors, of another the last hidden states of the model there, after its
    final norm. ``by_layer``: in each layer, what the layer makes its keys and values of at ``source``; the targets are
    then axes of keys. ``last`` is how many positions are kept, of several segments where one has fewer; None: those of
    one segment. ``detached``: no gradient flows through it. A target that is no axis is a store, which a recall reads.

    Of the recurring axis, by layer, and in a store there is nothing before the first segment: the targets then have
    fewer positions, the last ones of their axis. Otherwise a learned parameter stands there first.
    """

    source: str
    targets: tuple[str, ...]
    last: int | None = None
    by_layer: bool = False
    detached: bool = False

    def __str__(self) -> str:
        last = "" if self.last is None else f" last {self.last}"
        by_layer, detached = " by layer" if self.by_layer else "", " detached" if self.detached else ""
        return f"carry {self.source} -> {', '.join(self.targets)}{last}{by_layer}{detached}"


@dataclass(frozen=True)
class Recall:
    """``recall targets from store by summary(part = E, dim = E)``: what a segment asks a store, before it is run.

    The model runs once with a learned prompt at the targets and the tokens that are the first ``part`` of a whole
    segment, without what is carried from tokens; its last hidden states at the last target ask the store (queries and
    keys by learned maps to ``dim`` numbers, the vectors of the store as values, scale ``dim ** -0.5``), and the answer
    stands at all targets. Of an empty store nothing is asked: there a learned parameter stands.
    """

    targets: tuple[str, ...]
    store: str
    part: float
    dim: int

    def tokens(self, size: int) -> int:
        """How many tokens the summary reads where segments have so many; all of one that has fewer."""
        return round(size * self.part)

    def __str__(self) -> str:
        asked = f"summary(part = {self.part!r}, dim = {self.dim})"
        return f"recall {', '.join(self.targets)} from {self.store} by {asked}"


@dataclass(frozen=True)
class Recurrence:
    """The lines of a spec about segments. ``horizon``: what is carried is detached at every boundary of so many."""

    recur: Recur
    carries: tuple[Carry, ...] = ()
    recall: Recall | None = None
    horizon: int | None = None

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """The lines, as the language writes them."""
        yield str(self.recur)
        yield from map(str, self.carries)
        if self.recall is not None:
            yield str(self.recall)
        if self.horizon is not None:
            yield f"horizon {self.horizon}"

    def carried_to(self, axis: str) -> Carry | None:
        """The line that says what stands at an axis; None where no carry does."""
        return next((carry for carry in self.carries if axis in carry.targets), None)

    def grows(self, carry: Carry) -> bool:
        """Whether there is nothing before the first segment: of tokens, by layer, and in a store."""
        return carry.source == self.recur.axis or carry.by_layer or self.store(carry) is not None

    def store(self, carry: Carry) -> str | None:
        """The store among the targets of a carry."""
        return self.recall.store if self.recall is not None and self.recall.store in carry.targets else None

    @property
    def starts(self) -> tuple[str, ...]:
        """The axes whose vectors before the first segment are a learned parameter of their name."""
        return tuple(dict.fromkeys(carry.source for carry in self.carries if not self.grows(carry)))

    def require_segment(self, length: int) -> None:
        """Raises ValueError where so many tokens are more than one segment."""
        axis, most = self.recur.axis, self.recur.size
        if length > most:
            raise ValueError(
                f"one call is one segment, of at most {most:,} positions on the axis `{axis}`, not {length:,}: "
                "`attnspec.recurrent(model, spec)` runs a model over a whole sequence, segment by segment"
            )

    def foreseen(self, n: int, before: int = 0) -> Iterator[range]:
        """The tokens, of n that follow ``before`` segments, that a summary has read before they are to be predicted.

        A recall asks by the first tokens of a segment, and the answer stands before them: each but the first of the
        segment is then predicted by one that may know something of it, unless the store is empty.

        >>> recall = Recall(("recalled",), "memory", 0.5, 8)
        >>> store = Carry("written", ("memory",), last=3)
        >>> list(Recurrence(Recur("token", 4), (store,), recall).foreseen(10))
        [range(5, 6), range(9, 10)]
        """
        if self.recall is None or not any(self.store(carry) and carry.last != 0 for carry in self.carries):
            return
        read, start = self.recall.tokens(self.recur.size), 0
        for number, length in enumerate(self.segments(n), before):
            if number:
                yield range(start + 1, start + min(read, length))
            start += length

    def segments(self, n: int) -> tuple[int, ...]:
        """The lengths of the segments of n tokens.

        >>> Recurrence(Recur("token", 4, "first")).segments(10)
        (2, 4, 4)
        """
        whole, rest = divmod(n, self.recur.size)
        short = (rest,) if rest else ()
        return (
            short + (self.recur.size,) * whole if self.recur.ragged == "first" else (self.recur.size,) * whole + short
        )
