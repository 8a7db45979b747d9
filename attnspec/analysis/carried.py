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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.analysis.states import Futures, Remembered, same_document, states
from attnspec.relation.presburger import Pairs, budget
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec import contents, rewrite
from attnspec.spec import expr as e
from attnspec.spec.evaluate import holds
from attnspec.spec.parts import Input
from attnspec.spec.spec import Spec

Truth = NDArray[np.bool_]
"""By batch entry, head and token, or what broadcasts to that."""


@dataclass(frozen=True, eq=False)
class Crossing:
    """What crosses the cuts of some heads (None: of all), of a batch entry (None: of all).

    ``key`` stands for all keys before a cut that are seen after it, and ``query`` is a query that sees them, both None
    where nothing is.
    """

    heads: tuple[int, ...] | None
    b: int | None
    key: int | None
    query: int | None
    futures: Futures


@dataclass(frozen=True, eq=False)
class Carried:
    """How a sequence goes on after a cut: each head from one state, and otherwise as if it began there.

    It may be cut after multiples of ``cut`` tokens. Positions are counted from ``cut`` tokens before the cut on, as
    those of ``ways`` are. ``pred`` is the pattern inside a document, for calls of ``sizes``, ``alike`` what says that
    two positions are in one document: then the state is that of the document of the last token before the cut, and the
    first token after it goes on with that document. ``packed`` is the input of offsets that says it, where one does:
    each document of a call then has a state, goes on from it, and leaves one, whichever it is. ``lag``: rows go on as
    said from so many tokens after a cut on, and what is said of the next cut holds for queries so long after it.
    """

    cut: int
    ways: tuple[Crossing, ...]
    pred: e.Pred
    sizes: Sizes
    alike: tuple[e.Pred, ...]
    packed: str | None = None
    lag: int = 0

    def seen(self, tokens: int, env: Mapping[str, Any]) -> Truth:
        """Which of the tokens after a cut see what was before it. ``env`` has the sizes and inputs of documents."""
        at = np.arange(tokens)
        return self._alike(env, at, 0) & self.crosses(at)

    def kept(self, tokens: int, env: Mapping[str, Any]) -> Truth:
        """Which of the keys of the tokens after a cut are seen after the next one, which comes after them."""
        at = np.arange(tokens)
        return self._alike(env, tokens - 1, at) & self.leaves(tokens, at) if tokens else np.zeros(0, dtype=bool)

    def stays(self, tokens: int, env: Mapping[str, Any]) -> Truth:
        """Whether what was before a cut is seen after the next one too, so many tokens later."""
        same = self._alike(env, tokens - 1, 0) if tokens else np.ones(1, dtype=bool)
        return same & self.lasts(np.array([tokens]))

    def crosses(self, at: Any) -> Truth:
        """Which of the tokens, so many after a cut, see what was before it, inside a document."""
        return self._of_heads(at, lambda way: None if way.key is None else (self.cut + at, way.key))

    def leaves(self, tokens: Any, at: Any) -> Truth:
        """Which of the keys, so many after a cut, are seen after the next one, which comes ``tokens`` later."""
        return self._of_heads(at, lambda way: None if way.query is None else (tokens + way.query, self.cut + at))

    def lasts(self, tokens: Any) -> Truth:
        """Whether what was before a cut is seen after the next one too, inside a document."""
        return self._of_heads(
            tokens, lambda way: None if way.query is None or way.key is None else (tokens + way.query, way.key)
        )

    def itself(self) -> Truth:
        """Whether the first token after a cut sees itself."""
        return self._of_heads(np.zeros(1), lambda way: (self.cut, self.cut))

    def left(self, tokens: int) -> tuple[int, int]:
        """How many states, and how many keys beside them, a head keeps after so many tokens, at most."""
        return max((way.futures.kept(tokens) for way in self.ways), key=sum)

    def _of_heads(self, like: Any, pair: Callable[[Crossing], tuple[Any, Any] | None]) -> Truth:
        """Whether the pattern has the pairs that stand for a crossing, of the shape of ``like``, if not by head."""
        (batch, heads), shape = (self.sizes.batch, self.sizes.heads), like.shape
        by_head = len(self.ways) > 1
        found = np.zeros((batch, heads, shape[-1]) if by_head else shape, dtype=bool)
        for way in self.ways:
            if (of := pair(way)) is None:
                continue
            q, k = np.broadcast_arrays(*of)
            known = {**self.sizes.parameters((way.heads or (0,))[0], way.b or 0), "q": q, "k": k}
            held = np.broadcast_to(holds(self.pred, known), shape)
            if not by_head:
                return held
            held = np.broadcast_to(held, (batch, heads, shape[-1]))
            some = slice(None) if way.heads is None else list(way.heads)
            if way.b is None:
                found[:, some] = held[:, some]
            else:
                found[way.b, some] = held[way.b, some]
        return found

    def _alike(self, env: Mapping[str, Any], q: Any, k: Any) -> Truth:
        pairs = np.broadcast_arrays(np.atleast_1d(q), k)
        known = {**env, "q": pairs[0], "k": pairs[1]}
        found = np.ones(pairs[0].shape, dtype=bool)
        for atom in self.alike:
            found = found & holds(atom, known)
        return found


def carried(relation: Relation, sizes: Sizes, waiting: bool = False) -> Carried | str:
    """How sequences of a pattern go on, or in a few words why not from one state for each head.

    ``waiting``: the last keys may be kept beside it, as many as ``lag`` says. Of ``sizes`` only heads and batch matter.
    Raises as :func:`attnspec.analysis.states.states` does.

    >>> from attnspec.check.check import check_text
    >>> from attnspec.relation.lower import lower
    >>> far = carried(lower(check_text("attention a { attend k <= q - 64 }")), Sizes(1, 1), True)
    >>> far.cut, far.lag, far.lasts(np.array([5])).tolist()
    (1, 63, [True])
    """
    spec = relation.spec
    if spec.mixture:
        return "branches of a mixture have states of their own: take attend.branches"
    found = states(relation, sizes)
    alike, pred = _inside_documents(spec)
    if names := sorted(contents.varies(pred) - e.POSITIONS, key=lambda name: (name in e.SIZES, name)):
        return f"the pattern depends on `{names[0]}`, which is not the same before and after a cut"
    periods, ways = [], []
    for item in found:
        period = (item.futures.cut, 0) if item.futures.cut is not None else item.futures.waits if waiting else None
        if period is None:
            return _of(item, found) + _why(item.futures)
        periods.append(period)
    cut = lcm(*(each for each, _ in periods))
    lag = -(-max(last for _, last in periods) // cut) * cut
    for item in found:
        sees = item.futures.sees
        with budget(sees, patient=True):
            ahead = sees.intersection(Pairs.read(f"floor(x / {cut}) < floor(y / {cut})")).first()
            first = item.futures.first.intersection(Pairs.read(f"x = {cut + lag} and y < {cut}")).first()
            key = None if first is None else first[1]
            later = None if key is None else sees.intersection(Pairs.read(f"x >= {cut + lag} and y = {key}")).first()
        if ahead is not None:
            return _of(item, found) + (
                f"query {ahead[0]} sees key {ahead[1]}, and the tokens before a cut see none after it"
            )
        ways.append(Crossing(item.heads, item.b, key, None if later is None else later[0], item.futures))
    read = {name for atom in alike for name in contents.varies(atom)}
    packed = [declared for declared in spec.inputs if declared.form == "offsets" and declared.name in read]
    if packed and (why := _why_not_packed(spec, packed[0], alike, cut + lag)):
        return why
    return Carried(cut, tuple(ways), pred, sizes, alike, packed[0].name if packed else None, lag)


def _why_not_packed(spec: Spec, by: Input, alike: tuple[e.Pred, ...], cut: int) -> str:
    """Why documents by offsets do not go on from states of their own; nothing where they do."""
    if len(alike) > 1 or by.sizes[:-1] not in ((), (e.Var("batch"),)):
        return "documents by offsets have a state each only where one input says what they are, by batch entry at most"
    if cut > 1:
        return (
            f"documents by offsets go on wherever they begin, and this pattern only after multiples of {cut:,} tokens"
        )
    if spec.rotations:
        return (
            "vectors turn by their positions in the call, which are not those in their documents: turn them before the "
            "call, and leave the line out"
        )
    return ""


def _of(item: Remembered, all_of_them: Sequence[Remembered]) -> str:
    """Whose pattern it is, where heads or batch entries are told apart."""
    if len(all_of_them) == 1:
        return ""
    entry = "" if item.b is None else f", batch entry {item.b}"
    return f"head {item.heads[0] if item.heads else 0}{entry}: "


def by_head(spec: Spec) -> bool:
    """Whether what is kept of a key differs among the query heads that share it."""
    weights = spec.weights
    lines = [weights.k, weights.decay, weights.delta, *([weights.divide] if weights.delta is not None else [])]
    read = (line for line in (*lines, spec.branches[0].pred) if line is not None)
    return weights.running or any("h" in contents.free(line) for line in read)


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
