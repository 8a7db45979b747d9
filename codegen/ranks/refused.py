"""Patterns of which no plan for ranks can be made before a call, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attnspec.errors.diagnostic import AttnspecError
from attnspec.relation.count import TooIrregular
from attnspec.relation.presburger import TooHard
from attnspec.relation.relation import Relation, inputs_of
from attnspec.relation.sizes import Sizes
from attnspec.spec import contents
from attnspec.spec import expr as e


class CannotSplit(AttnspecError, ValueError):
    """A pattern that ranks cannot share by a plan that is made before the call; the message says why."""


class HardToSplit(CannotSplit):
    """A pattern that the solver finds too hard to cut at some shards, which at others it may not be."""

    def __init__(self, name: str, shards: str, ranks: int, why: str) -> None:
        super().__init__(f"{name} cannot be shared among {ranks:,} ranks by {shards} shards: {why}")
        self.why = why


@contextmanager
def refusing(name: str, shards: str, ranks: int) -> Iterator[None]:
    """Raise HardToSplit where the solver gives up."""
    try:
        yield
    except (TooHard, TooIrregular) as error:
        raise HardToSplit(name, shards, ranks, str(error)) from None


def require_splittable(relation: Relation, sizes: Sizes) -> None:
    """Raise CannotSplit for orders, tables and lists of blocks, segments, decays beside softmax, queries without keys.

    What remains has pairs that are known, or bounded, from sizes alone.
    """
    if reason := _reason(relation, sizes):
        raise CannotSplit(f"{relation.spec.name} cannot be shared among ranks by a plan: {reason}")


def _reason(relation: Relation, sizes: Sizes) -> str:
    spec = relation.spec
    if spec.order is not None:
        return "it orders all positions by what queries and keys hold, so that any rank may need any key"
    if spec.recurrence is not None:
        return "its segments follow one another, so that each rank would wait for the one before it"
    atoms = [atom for item in relation.classes for atom in item.unknown]
    tables = inputs_of(part for atom in atoms for part in contents.walk(atom) if isinstance(part, (e.Flag, e.Among)))
    if tables:
        said = ", ".join(f"`{name}`" for name in tables)
        return f"which pairs there are {said} says in each call, so that any rank may need any key"
    if any(not (one.linear or one.softmax_only) for one in spec.weighings):
        return (
            "its weights decay beside softmax, and parts of such rows have no kernels (sums over the steps as an input "
            "have: `input c: float[batch, heads, n]  score c[b, h, q] - c[b, h, k] + s`)"
        )
    if sizes.n_q != sizes.n:
        return (
            f"a rank holds queries and keys of the same positions, and here are {sizes.n_q:,} queries, {sizes.n:,} keys"
        )
    return ""
