"""What one state carries from the tokens before a cut of a sequence to those after it, where a pattern lets one do.

>>> from attnspec.check.check import check_text
>>> from attnspec.relation.lower import lower
>>> chunks = carried(lower(check_text("attention a { attend causal and k // 4 >= q // 4 - 1 }")), Sizes(1, 1))
>>> chunks.cut, chunks.seen(8, {}).astype(int).tolist(), chunks.kept(8, {}).astype(int).tolist()
(4, [1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1])
>>> print(carried(lower(check_text("attention a { attend window(64) }")), Sizes(1, 1)))
after 4,096 tokens 0 states and 63 keys are to be kept
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.analysis.states import Futures, same_document, states
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec import contents, rewrite
from attnspec.spec import expr as e
from attnspec.spec.evaluate import holds
from attnspec.spec.spec import Spec

Truth = NDArray[np.bool_]
"""By batch entry, head and token, or what broadcasts to that."""


@dataclass(frozen=True, eq=False)
class Carried:
    """How a sequence goes on after a cut: from one state, and otherwise as if it began there.

    It may be cut after multiples of ``cut`` tokens. Positions are counted from ``cut`` tokens before the cut on:
    ``key`` stands for all keys before it that are seen after it, and ``query`` is a query that sees them, both None
    where nothing is. ``pred`` is the pattern inside a document, for calls of ``sizes``, ``alike`` what says that two
    positions are in one document: then the state is that of the document of the last token before the cut, and the
    first token after it goes on with that document.
    """

    cut: int
    key: int | None
    query: int | None
    pred: e.Pred
    sizes: Sizes
    alike: tuple[e.Pred, ...]
    futures: Futures

    def seen(self, tokens: int, env: Mapping[str, Any]) -> Truth:
        """Which of the tokens after a cut see what was before it. ``env`` has the sizes and inputs of documents."""
        if self.key is None:
            return np.zeros(tokens, dtype=bool)
        at = np.arange(tokens)
        return self._alike(env, at, 0) & self._holds(self.cut + at, self.key)

    def kept(self, tokens: int, env: Mapping[str, Any]) -> Truth:
        """Which of the keys of the tokens after a cut are seen after the next one, which comes after them."""
        if self.query is None or not tokens:
            return np.zeros(tokens, dtype=bool)
        at = np.arange(tokens)
        return self._alike(env, tokens - 1, at) & self._holds(tokens + self.query, self.cut + at)

    def stays(self, tokens: int, env: Mapping[str, Any]) -> Truth:
        """Whether what was before a cut is seen after the next one too, so many tokens later."""
        if self.query is None or self.key is None:
            return np.zeros(1, dtype=bool)
        same = self._alike(env, tokens - 1, 0) if tokens else np.ones(1, dtype=bool)
        return same & self._holds(tokens + self.query, self.key)

    @cached_property
    def itself(self) -> bool:
        """Whether the first token after a cut sees itself."""
        return bool(self._holds(self.cut, self.cut)[0])

    def _holds(self, q: Any, k: Any) -> Truth:
        """Whether the pattern has pairs, of which one side is an array or both are numbers."""
        pairs = np.broadcast_arrays(np.atleast_1d(q), k)
        known = {**self.sizes.parameters(0, 0), "q": pairs[0], "k": pairs[1]}
        return np.broadcast_to(holds(self.pred, known), pairs[0].shape)

    def _alike(self, env: Mapping[str, Any], q: Any, k: Any) -> Truth:
        pairs = np.broadcast_arrays(np.atleast_1d(q), k)
        known = {**env, "q": pairs[0], "k": pairs[1]}
        found = np.ones(pairs[0].shape, dtype=bool)
        for atom in self.alike:
            found = found & holds(atom, known)
        return found


def carried(relation: Relation, sizes: Sizes) -> Carried | str:
    """How sequences of a pattern go on, or in a few words why not from one state.

    Of ``sizes`` only heads and batch matter. Raises as :func:`attnspec.analysis.states.states` does.
    """
    spec = relation.spec
    if spec.mixture:
        return "branches of a mixture have states of their own: take attend.branches"
    found = states(relation, sizes)
    if len(found) != 1:
        return "heads, or batch entries, see different keys, so that there is not one state of all"
    futures = found[0].futures
    alike, pred = _inside_documents(spec)
    if names := sorted(contents.varies(pred) - e.POSITIONS, key=lambda name: (name in e.SIZES, name)):
        return f"the pattern depends on `{names[0]}`, which is not the same before and after a cut"
    if futures.cut is None:
        return _why(futures)
    cut, sees = futures.cut, futures.sees
    with budget(sees, patient=True):
        ahead = sees.intersection(Pairs.read(f"floor(x / {cut}) < floor(y / {cut})")).first()
        first = futures.first.intersection(Pairs.read(f"x = {cut}")).first()
        key = None if first is None else first[1]
        later = None if key is None else sees.intersection(Pairs.read(f"x >= {cut} and y = {key}")).first()
    if ahead is not None:
        return f"query {ahead[0]} sees key {ahead[1]}, and the tokens before a cut see none after it"
    return Carried(cut, key, None if later is None else later[0], pred, sizes, alike, futures)


def by_head(spec: Spec) -> bool:
    """Whether what is kept of a key differs among the query heads that share it."""
    weights = spec.weights
    lines = [weights.k, weights.decay, weights.delta, *([weights.divide] if weights.delta is not None else [])]
    read = (line for line in (*lines, spec.branches[0].pred) if line is not None)
    return any("h" in contents.free(line) for line in read)


def _inside_documents(spec: Spec) -> tuple[tuple[e.Pred, ...], e.Pred]:
    """What says that two positions are in one document, and the pattern where they are."""
    pred, whole = spec.branches[0].pred, {declared.name for declared in spec.inputs if declared.form != "plain"}
    found = (
        atom
        for atom in contents.walk(pred)
        if same_document(atom) and contents.varies(atom) - e.POSITIONS - e.SIZES <= whole
    )
    atoms = tuple(atom for atom in dict.fromkeys(found) if isinstance(atom, e.Pred))
    return atoms, rewrite.replace(pred, {atom: e.Bool(True) for atom in atoms})


def _why(futures: Futures) -> str:
    """Why one state is not enough, or what follows a cut is not as it would be at the beginning."""
    if futures.single is not None:
        return "the first positions of the sequence are not seen as those after a cut would be"
    tokens = next((t for t in range(4096, 0, -1) if sum(futures.kept(t)) > 1), 1)
    many, keys = futures.kept(tokens)
    kept = f"{many:,} state{'s' * (many != 1)}{f' and {keys:,} keys' if keys else ''}"
    return f"after {tokens:,} tokens {kept} are to be kept"
