"""Mixtures in pieces: each branch of products of features goes on from a state of its own, softmax begins anew.

A branch of softmax keeps keys, not a state: such a mixture can be cut only where no later query sees a key of that
branch, as after whole segments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from math import lcm
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnspec.analysis.carried import Carried, carried
from attnspec.relation.lower import lower
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import Program, needed, relation
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import sizes_of
from attnspec.runtime.cpp.merge import mixed
from attnspec.runtime.expressions.real import real, tables
from attnspec.runtime.linear.favor import by_branch
from attnspec.runtime.linear.features import axes
from attnspec.runtime.prepare.inputs import prepare
from attnspec.runtime.states.allowed import ONLY_KEYS, require_state, why_not, why_softmax_does_not_restart
from attnspec.runtime.states.call import begins
from attnspec.spec import contents, rewrite
from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr, RealRead
from attnspec.spec.spec import Spec

_ROW = e.Var("row of the call")


class AskedMixed(NamedTuple):
    """A call of a mixture with all that states add to it. ``states`` are those of the branches, or None: no tokens."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: Any
    inputs: Mapping[str, Tensor]
    states: Any
    q_start: int | None
    return_state: bool


class MixedResults(NamedTuple):
    """The output, the log-sum-exp (NaN where shares are given), and the states of the branches, None for softmax."""

    out: Tensor
    lse: Tensor
    states: tuple[Tensor | None, ...]


def attended_in_branches(spec: Spec, branches: Sequence[Callable[..., Any]], asked: AskedMixed) -> MixedResults:
    """A call of a mixture that takes or gives states. Raises CallError where it cannot."""
    q, k, v, scale, inputs, *_, return_state = asked
    states, start = _checked(spec, asked.states), _start(spec, branches, asked)
    nothing = torch.full(q.shape[:3], torch.nan, dtype=_numbers(q), device=q.device)
    specs: list[Spec] = [branch.spec for branch in branches]  # type: ignore[attr-defined]
    given, own_inputs = by_branch(specs, inputs)
    parts, after = [], []
    for branch, own, its, state in zip(branches, specs, own_inputs, states, strict=True):
        call = {"scale": scale, "inputs": its, "return_lse": not spec.shared}
        if own.weights.linear:
            call |= {"state": state, "q_start": start, "return_state": return_state}
        found = branch(q, k, v, **call)
        found = found if isinstance(found, tuple | list) else (found,)
        parts.append((found[0], nothing if spec.shared else found[1]))
        after.append(found[-1] if return_state and own.weights.linear else None)
    shares = [by_row(spec, one.share, q, k, given, start) for one in spec.mixture if one.share is not None]
    sink = None if shares or spec.sink is None else by_row(spec, spec.sink, q, k, given, start)
    return MixedResults(*mixed(parts, shares, sink, spec.detached), tuple(after))


def _checked(spec: Spec, states: object) -> Sequence[Any]:
    count = len(spec.mixture)
    if states is None:
        return [None] * count
    if not isinstance(states, tuple | list) or len(states) != count:
        raise CallError(
            f"{spec.name}: state must be a tuple of the states of the {count} branches, as return_state=True gives it"
        )
    for number, (state, one) in enumerate(zip(states, spec.alone, strict=True)):
        if state is not None and not one.weights.linear:
            raise CallError(f"{spec.name}: branch {number} is softmax, which takes no state: None stands for it")
    return states


def _start(spec: Spec, branches: Sequence[Any], asked: AskedMixed) -> int:
    """After how many tokens of the sequence the call begins; all branches can be cut there, and where it ends."""
    (batch, heads, n, _), kv_heads = asked.q.shape, asked.k.shape[1]
    if not any(one.weights.linear for one in spec.alone):
        raise CallError(f"{spec.name}: a call of this pattern takes and gives no state: {ONLY_KEYS}")
    going = []
    for number, branch in enumerate(branches):
        try:
            found = require_state if branch.spec.weights.linear else _require_restart
            going.append((branch.spec, found(branch.program, heads, kv_heads, batch)))
        except CallError as error:
            raise CallError(f"{error.args[0]} (branch {number} of the mixture)") from None
    resumes = asked.states is not None
    if asked.q_start is None and resumes and _reads_positions(spec):
        raise CallError(
            f"{spec.name}: q_start must say after how many tokens of the sequence a call with a state begins: shares "
            "depend on positions"
        )
    return max(begins(one, found, n, resumes, asked.q_start, asked.return_state) for one, found in going)


@functools.lru_cache(maxsize=64)
def _require_restart(program: Program, heads: int, kv_heads: int, batch: int) -> Carried:
    """Where a sequence of a softmax can be cut so that it begins anew. Raises CallError where it cannot."""
    spec, of = spec_of(program), needed(program, heads, kv_heads, batch)
    found = restarts(relation(program, of), Sizes(1, 1, heads, kv_heads, batch))
    if isinstance(found, Carried):
        return found
    raise CallError(f"{spec.name}: a call of this pattern takes and gives no state: {found}")


def restarts(of: Relation, sizes: Sizes) -> Carried | str:
    """Where a sequence of a softmax can be cut so that it begins anew, or why it cannot."""
    found = why_softmax_does_not_restart(of.spec) or carried(of, sizes)
    if isinstance(found, Carried) and any(way.key is not None for way in found.ways):
        return "keys of its softmax are seen after every cut: attnspec.Cache keeps them"
    return found


def cut_of_mixture(spec: Spec, sizes: Sizes) -> int | str:
    """After multiples of how many tokens calls of a mixture hand on states, or why they do not.

    >>> import attnspec
    >>> cut_of_mixture(attnspec.read("infini"), Sizes(1, 1, 8, 8))
    2048
    """
    if not any(one.weights.linear for one in spec.alone):
        return ONLY_KEYS
    cut = 1
    for number, one in enumerate(spec.parts):
        of = lower(one, sizes.heads, sizes.kv_heads, sizes.batch)
        found = (why_not(one) or carried(of, sizes)) if one.weights.linear else restarts(of, sizes)
        if not isinstance(found, Carried):
            return f"{found} (branch {number} of the mixture)"
        cut = lcm(cut, found.cut)
    return cut


def _reads_positions(spec: Spec) -> bool:
    lines = [one.share for one in spec.mixture if one.share is not None]
    return any("q" in contents.free(_of_rows(spec, line)) for line in lines)


def by_row(spec: Spec, line: RealExpr, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor], start: int) -> Tensor:
    """A number for each row of the call, (batch, heads, n or 1), which begins after ``start`` tokens."""
    sizes = sizes_of(spec, q, k)
    dtype = _numbers(q)
    found = prepare(spec, sizes, inputs, real=dtype, device=q.device)
    rows = np.arange(sizes.n)
    env = {**axes(sizes, 3), **tables(found), "q": start + rows, _ROW.name: rows}
    value = real(_of_rows(spec, line), env, found, dtype=dtype, device=q.device)
    return value.expand(sizes.batch, sizes.heads, value.shape[-1] if value.dim() else 1)


def _numbers(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


@functools.lru_cache(maxsize=64)
def _of_rows(spec: Spec, line: RealExpr) -> RealExpr:
    """A line in which inputs are read by the row of the call. Raises CallError where it reads other tokens' entries."""
    if contents.free(line) & {"n", "n_q"}:
        raise CallError(
            f"{spec.name}: a call of this pattern takes and gives no state: a share reads the call's length"
        )
    reads = [node for node in contents.walk(line) if isinstance(node, (RealRead, e.Read, e.Flag))]
    own: dict[e.Node, e.Node] = {node: node.map(lambda child: _ROW if child == e.Var("q") else child) for node in reads}
    found = rewrite.replace(line, own)
    for node in contents.walk(found):
        if isinstance(node, (RealRead, e.Read, e.Flag)) and "q" in contents.free(node):
            raise CallError(
                f"{spec.name}: a call of this pattern takes and gives no state: `{node}` reads another token's entry"
            )
    return found
