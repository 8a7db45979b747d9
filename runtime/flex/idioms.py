"""What people write with tables for want of a word, in the words of the language: then tiles follow from it.

``starts[doc[q]]`` is ``first(doc, q)``, if that is what the tables hold; beside ``doc[q] == doc[k]`` what hangs on one
of them is that of the other; and a few marked positions are compared one by one. Each is asked of the data before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from attnspec.runtime.flex.facts import Rises, Tensors
from attnspec.runtime.flex.tables import Call, Tables
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec.rewrite import N, replace

_MARKS = (4, 16)
"""So many marked positions are compared one by one."""
_LONG = 256
"""Tables that are shorter are read as they are."""


@dataclass(frozen=True)
class Edges:
    """Whether ``edges[doc[i] + shift]`` is where the run of ``doc[i]`` begins; with a ``shift`` of 1, the next one."""

    edges: str
    doc: str
    shift: int

    def of(self, tensors: Tensors) -> bool:
        """The answer, as tensors are now."""
        doc, edges = tensors[self.doc].long(), tensors[self.edges]
        at = doc + self.shift
        if not doc.numel() or int(at.min()) < 0 or int(at.max()) >= len(edges):
            return False
        n = doc.shape[-1]
        turns, places = doc[..., 1:] != doc[..., :-1], torch.arange(n, device=doc.device)
        if self.shift:
            ends = torch.where(torch.nn.functional.pad(turns, (0, 1), value=True), places + 1, n)
            wanted = ends.flip(-1).cummin(-1).values.flip(-1)
        else:
            starts = torch.where(torch.nn.functional.pad(turns, (1, 0), value=True), places, 0)
            wanted = starts.cummax(-1).values
        return torch.equal(edges[at].long(), wanted)


@dataclass(frozen=True)
class Few:
    """Whether at most so many entries along the last dimension are true."""

    name: str
    most: int

    def of(self, tensors: Tensors) -> bool:
        """The answer, as tensors are now."""
        t = tensors[self.name]
        return bool((t.sum(-1) <= self.most).all())


@dataclass(frozen=True)
class Marked:
    """The places along the last dimension of entries that are true, so many, -1 where there are fewer."""

    name: str
    most: int

    def of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The places, as the tensor is now."""
        t = tensors[self.name]
        places = torch.where(t, torch.arange(t.shape[-1], dtype=torch.int32, device=t.device), -1)
        return places.topk(self.most).values.contiguous()


def rewritten(mask: e.Pred, tables: Tables, call: Call) -> e.Pred:
    """A mask in other words. What it takes for granted is asked of ``tables``, which may get new ones."""
    return _marks(_edges(_alike(mask), tables, call), tables)


def _alike(node: N) -> N:
    """Where ``doc[q] == doc[k]`` must hold too, ``f(doc[k])`` is ``f(doc[q])``; equal terms then cancel."""
    node = node.map(_alike)
    if not isinstance(node, e.And):
        return node
    parts = list(node.args)
    for equal in node.args:
        match equal:
            case e.Cmp(
                "==", e.Read(name, (*a, e.Var("q" | "k"))) as left, e.Read(other, (*b, e.Var("q" | "k"))) as right
            ):
                if name == other and a == b and left != right:
                    query, key = (left, right) if left.indices[-1] == e.Var("q") else (right, left)
                    parts = [part if part is equal else _instead(part, key, query) for part in parts]
    return cast(N, make.conjunction(parts))


def _instead(part: e.Pred, key: e.Read, query: e.Read) -> e.Pred:
    within: dict[e.Node, e.Node] = {
        read: replace(read, {key: query})
        for read in contents.walk(part)
        if isinstance(read, (e.Read, e.Flag)) and any(key in contents.walk(index) for index in read.indices)
    }
    return _shorter(replace(part, within)) if within else part


def _shorter(node: N) -> N:
    """The same where terms that cancel are left out."""
    node = node.map(_shorter)
    if isinstance(node, e.Add) and _cancels(factors := _factors(node)):
        return cast(N, _total(factors))
    if isinstance(node, e.Cmp) and _cancels(factors := _factors(e.Add((node.left, make.negative(node.right))))):
        left = {term: factor for term, factor in factors.items() if factor > 0}
        right = {term: -factor for term, factor in factors.items() if factor < 0}
        return cast(N, make.compare(node.op, _total(left), _total(right)))
    return node


def _factors(node: e.IntExpr) -> dict[e.IntExpr, int]:
    """The terms of a sum with their factors, 0 for what cancels; constants are a multiple of 1."""
    found: dict[e.IntExpr, int] = {}
    work = [(node, 1)]
    while work:
        term, factor = work.pop()
        match term:
            case e.Add(terms):
                work += [(x, factor) for x in reversed(terms)]
            case e.Mul(e.Int(value), x) | e.Mul(x, e.Int(value)):
                work.append((x, factor * value))
            case e.Int(value):
                found[e.Int(1)] = found.get(e.Int(1), 0) + factor * value
            case _:
                found[term] = found.get(term, 0) + factor
    return found


def _cancels(factors: Mapping[e.IntExpr, int]) -> bool:
    return any(not factor and term != e.Int(1) for term, factor in factors.items())


def _total(factors: Mapping[e.IntExpr, int]) -> e.IntExpr:
    return make.add(make.multiply(e.Int(factor), term) for term, factor in factors.items() if factor)


def _edges(mask: e.Pred, tables: Tables, call: Call) -> e.Pred:
    found: dict[e.Node, e.Node] = {}
    for node in contents.walk(mask):
        match node:
            case e.Read(edges, (e.Read(doc, at),)):
                shift = 0
            case e.Read(edges, (e.Add((e.Read(doc, at), e.Int(1))),)):
                shift = 1
            case _:
                continue
        if not {edges, doc} <= tables.found.keys() or at[-1] not in (e.Var("q"), e.Var("k")):
            continue
        if tables.found[doc].tensor.shape[-1] != call.n or tables.found[edges].kind != "int":
            continue
        if tables.ask(Rises(doc)) and tables.ask(Edges(edges, doc, shift)):
            run = e.Read(f"{doc}.last" if shift else f"{doc}.first", at)
            found[node] = make.add([run, e.Int(1)]) if shift else run
    return replace(mask, found)


def _marks(mask: e.Pred, tables: Tables) -> e.Pred:
    found: dict[e.Node, e.Node] = {}
    for flag in contents.walk(mask):
        if not isinstance(flag, e.Flag) or not flag.indices or flag.name not in tables.found or flag in found:
            continue
        t, (*others, place) = tables.found[flag.name].tensor, flag.indices
        if not tables.facts.again or t.shape[-1] < _LONG or not {*others} <= {e.Var("b"), e.Var("h")}:
            continue
        most = next((most for most in _MARKS if tables.ask(Few(flag.name, most))), None)
        if most is not None:
            name = tables.derive(Marked(flag.name, most))
            marks = (e.Read(name, (*others, e.Int(i))) for i in range(most))
            found[flag] = make.disjunction([e.Cmp("==", place, mark) for mark in marks])
    return replace(mask, found)
