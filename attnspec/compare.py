"""Are two patterns equal? Does one contain the other? If not, where do they first differ? For every length at once."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.presburger import Pairs, budget
from attnspec.relation import Relation


@dataclass(frozen=True)
class Witness:
    """A pair that one pattern allows and the other does not, in a call of the named sizes.

    ``row`` is the query row (from 0), ``k`` the key; ``allowed_by`` is ``"first"`` or ``"second"``.
    """

    row: int
    k: int
    h: int
    b: int
    n: int
    n_q: int
    heads: int
    batch: int
    allowed_by: str


@dataclass(frozen=True)
class Comparison:
    """How two patterns relate: is the first within the second, and the other way round, with a witness if not."""

    first_only: Witness | None
    second_only: Witness | None

    @property
    def equal(self) -> bool:
        """Whether both allow the same pairs in every call."""
        return self.first_only is None and self.second_only is None


def compare(first: Relation, second: Relation) -> Comparison:
    """Compare two relations over all calls (all heads that both are defined for).

    Raises TooHard where the solver's budget does not suffice.
    """
    if first.heads is not None and second.heads is not None and first.heads != second.heads:
        raise ValueError(f"the first pattern is defined for {first.heads} heads, the second for {second.heads}")
    heads = first.heads if first.heads is not None else second.heads
    pairs = [(None, heads)] if heads is None else [(h, heads) for h in range(heads)]
    # Sizes that either was built for hold for both: elsewhere its set means nothing.
    known = dict(first.known) | dict(second.known)
    if any(known[name] != value for name, value in (*first.known, *second.known)):
        raise ValueError(f"the patterns were lowered for different sizes: {first.known} and {second.known}")
    witnesses: dict[str, Witness | None] = {"first": None, "second": None}
    for h, count in pairs:
        a, b = (_rows(relation, h, count, known) for relation in (first, second))
        for name, mine, other in (("first", a, b), ("second", b, a)):
            if witnesses[name] is None:
                with budget(mine, other):
                    found = mine.difference(other).sample()
                witnesses[name] = None if found is None else _witness(found, name)
    return Comparison(witnesses["first"], witnesses["second"])


def _rows(relation: Relation, h: int | None, heads: int | None, known: dict[str, int]) -> Pairs:
    """The pairs (row, key) of every call; of head ``h`` where one is named."""
    first = "n - n_q" if relation.spec.align == "end" else "0"
    calls = (
        f"n >= 1 and n_q >= 1 and batch >= 1 and 0 <= b < batch and kv_heads >= 1 and 0 <= h < heads "
        f"and {first} <= x < {first} + n_q and 0 <= y < n"
    )
    if h is not None:
        calls += f" and h = {h} and heads = {heads}"
    for name, value in known.items():
        calls += f" and {name} = {value}"
    pairs = relation.of_head(h or 0).pairs
    with budget(pairs):
        return pairs.intersection(Pairs.read(calls)).shift_rows(first)


def _witness(point: dict[str, int], name: str) -> Witness:
    sizes = {key: point[key] for key in ("h", "b", "n", "n_q", "heads", "batch")}
    return Witness(row=point["x"], k=point["y"], allowed_by=name, **sizes)
