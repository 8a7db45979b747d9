"""Which patterns' calls take a state and hand one on, and why the others do not. (Asking loads no torch.)"""

from __future__ import annotations

import functools

from attnspec.analysis.carried import Carried, carried
from attnspec.relation.documents import collected
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.errors import CallError
from attnspec.runtime.core.program import Program, needed, relation
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.prepare.turning import keys_turn_once
from attnspec.spec import contents, rewrite
from attnspec.spec import expr as e
from attnspec.spec.feature import is_exponential, parts
from attnspec.spec.real import RealRead
from attnspec.spec.spec import Spec
from attnspec.spec.weights import STEP

ONLY_KEYS = "softmax keeps keys and values, not a state: that is what attnspec.Cache is for"
"""Why softmax alone hands on no state."""


def why_not(spec: Spec, largest: bool = False) -> str:
    """Why a pattern's calls hand on no state, as far as its lines say; nothing where they may.

    ``largest``: they are told the largest entry of all keys.
    """
    weights = spec.weights
    if not weights.linear:
        return ONLY_KEYS
    if spec.mixture:
        return (
            "its branches, summed up in one kernel, would have a state each: take attend.branches, and put together "
            "what they give"
        )
    if weights.each and weights.by_channel:
        return "`divide each` beside a decay by channel goes on from no state"
    if spec.sink is not None:
        return "a sink goes on from no state"
    if not largest and any(found.kernel == "softmax" and found.stable == "all" for found in weights.favors):
        return (
            "with `stable = all` the features of favor are relative to the largest key of each call: "
            "`stable = running` and `stable = none` have a state"
        )
    exponential = weights.each and any(map(is_exponential, parts(weights.k))) if weights.k is not None else False
    if weights.running and (weights.each or weights.delta is not None):
        return f"a running maximum beside `{'divide each' if weights.each else 'delta'}` goes on from no state"
    if exponential and not weights.by_logarithms and weights.delta is None:
        return "with `divide each` exponentials beside other features go on from no state"
    if _turn_otherwise(spec):
        return "vectors turn by more than their own positions, so that keys of one call do not fit the next"
    lengths = {"n", "n_q"}
    for word, var, line in (("decay", STEP, weights.decay), ("delta", e.Var("k"), weights.delta)):
        if line is not None and _moves(line, var):
            return f"`{word} {line}` is not the same when positions are counted from a cut on"
    if any(contents.free(line) & lengths for line in weights.expressions):
        return "a line reads the length of the call"
    return ""


def _moves(node: e.Node, position: e.Var) -> bool:
    """Whether an expression reads a position, but for the entries of inputs that belong to it."""
    work: list[e.Node] = [node]
    while work:
        part = work.pop()
        if part == position:
            return True
        reads = isinstance(part, (RealRead, e.Read, e.Flag))
        work += [child for child in part.children() if not (reads and child == position)]
    return False


def why_softmax_does_not_restart(spec: Spec) -> str:
    """Why a softmax is not the same when positions are counted from a cut on, as far as its lines say."""
    if _turn_otherwise(spec):
        return "vectors turn by more than their own positions"
    if contents.free(spec.score) & {"n", "n_q"}:
        return "its score reads the length of the call"
    ahead, decay = e.Var("moved by"), spec.weights.decay
    places: dict[e.Node, e.Node] = {e.Var("q"): e.Add((e.Var("q"), ahead)), e.Var("k"): e.Add((e.Var("k"), ahead))}
    own = {node: node.map(lambda child: e.Int(0) if child in places else child) for node in _reads(spec.score)}
    if ahead.name in contents.free(collected(rewrite.replace(rewrite.replace(spec.score, own), places))):
        return "its score depends on more than how far a key is from a query"
    if decay is not None and _moves(decay, STEP):
        return f"`decay {decay}` is not the same when positions are counted from a cut on"
    if spec.sink is not None and (_moves(spec.sink, e.Var("q")) or contents.free(spec.sink) & {"n", "n_q"}):
        return "its sink depends on positions"
    return ""


def _turn_otherwise(spec: Spec) -> bool:
    """Whether vectors turn by more than their own positions."""
    return not keys_turn_once(spec) or any(rotation.q != e.Var("q") for rotation in spec.rotations)


def _reads(node: e.Node) -> list[e.Node]:
    return [part for part in contents.walk(node) if isinstance(part, (RealRead, e.Read, e.Flag))]


@functools.lru_cache(maxsize=64)
def require_state(
    program: Program, heads: int, kv_heads: int, batch: int, waiting: bool = False, largest: bool = False
) -> Carried:
    """How sequences of a program go on from a state. Raises CallError where they do not, with the reason.

    ``waiting``: the last keys may be kept beside it. ``largest``: calls are told the largest entry of all keys.
    """
    spec, of, sizes = spec_of(program), needed(program, heads, kv_heads, batch), Sizes(1, 1, heads, kv_heads, batch)
    waiting = waiting and spec.weights.delta is None and spec.align == "end"
    found = why_not(spec, largest) or carried(relation(program, of), sizes, waiting)
    if isinstance(found, Carried) and spec.weights.running and (found.alike or found.packed):
        found = "a running maximum is that of all documents"
    if isinstance(found, Carried):
        return found
    raise CallError(f"{spec.name}: a call of this pattern takes and gives no state: {found}")
