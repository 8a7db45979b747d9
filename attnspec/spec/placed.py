r"""A pattern of a sequence, where that lies among other things: padding, other documents, keys that came before.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention sinks { attend k < 4  attend q - k < 8  within causal }")
>>> print(placed(spec, frozenset({"padded"})))
attention sinks {
    input real_start: int[batch]
    input real_stop: int[batch]
    attend k - real_start[b] < 4
    attend (q - real_start[b]) - (k - real_start[b]) < 8
    within k - real_start[b] <= q - real_start[b]
    within real_start[b] <= k and k < real_stop[b]
}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attnspec.spec import expr as e
from attnspec.spec import make
from attnspec.spec.parts import Branch, Clause, Input, Rotation, Setting
from attnspec.spec.real import RealExpr
from attnspec.spec.rewrite import replace as rewritten
from attnspec.spec.spec import Spec
from attnspec.spec.weights import STEP, Weights

START, STOP, QUERY, KEY = PLACES = ("real_start", "real_stop", "query_start", "key_start")
"""Inputs, ``int[batch]``: the first real key and one past the last; the positions of the first query and key."""
REAL, DOCUMENT = "real", "document"
_B, _N, _Q, _K = (e.Var(name) for name in ("b", "n", "q", "k"))


def placed(spec: Spec, ways: frozenset[str]) -> Spec:
    """The same pattern over sequences that lie in the tensors of a call in some ways.

    - ``padded``: real keys go from `real_start` to before `real_stop`. Positions count from the first of them.
    - ``holes``: of those only the ones that `real`, ``bool[batch, n]``, holds are seen.
    - ``offset``: the first query and the first key stand at the positions `query_start` and `key_start`.
    - ``packed``: documents, numbered by `document`, ``int[batch, n] sorted``, see themselves alone; positions begin
      anew in each.
    - ``apart``: the same, but positions go on through all documents.

    Masks, scores and rotations read such positions, and the length of the sequence or the document. Without ``offset``
    query rows stand at the last keys, whatever the `align` line says.
    """
    inputs, within = [*spec.inputs], list[Clause]()
    q: e.IntExpr = _Q
    k: e.IntExpr = _K
    t: e.IntExpr = STEP
    length: e.IntExpr = _N
    padded, offset, packed = (way in ways for way in ("padded", "offset", "packed"))
    read = {name: e.Read(name, (_B,)) for name in PLACES}
    inputs += [Input(name, "int", (e.Var("batch"),)) for name in (*PLACES[: 2 * padded], *PLACES[2 : 2 + 2 * offset])]
    if offset:
        q, k, t = (make.add([at, read[name]]) for at, name in ((_Q, QUERY), (_K, KEY), (STEP, KEY)))
        length = make.add([read[QUERY], e.Var("n_q")])
    if padded:
        within.append(Clause(e.And((e.Cmp("<=", read[START], k), e.Cmp("<", k, read[STOP]))), spec.span))
        q, k, t = (_minus(at, read[START]) for at in (q, k, t))
        length = _minus(make.minimum((length, read[STOP])), read[START])
    if "holes" in ways:
        inputs.append(Input(REAL, "bool", (e.Var("batch"), _N)))
        within.append(Clause(e.Flag(REAL, (_B, _K)), spec.span))
    if packed or "apart" in ways:
        inputs.append(Input(DOCUMENT, "int", (e.Var("batch"), _N), "sorted"))
        within.append(Clause(e.Cmp("==", *(e.Read(DOCUMENT, (_B, at)) for at in (_Q, _K))), spec.span))
    not_later = e.Cmp("<=", k, q)
    if packed:
        q, k, t = (_minus(at, e.Read(f"{DOCUMENT}.first", (_B, at))) for at in (_Q, _K, STEP))
        first, last = (e.Read(f"{DOCUMENT}.{end}", (_B, _Q)) for end in ("first", "last"))
        length = _minus(make.add([last, e.Int(1)]), first)
    table: dict[e.Node, e.Node] = {at: to for at, to in ((_Q, q), (_K, k), (STEP, t), (_N, length)) if at != to}
    if packed:  # within a document as in the whole, which is known to look at the past alone
        table[e.Cmp("<=", _K, _Q)] = not_later
    made = _moved(spec, table)
    return replace(made, inputs=tuple(inputs), within=(*made.within, *within), align="start" if offset else "end")


def _minus(a: e.IntExpr, b: e.IntExpr) -> e.IntExpr:
    return make.add([a, make.negative(b)])


def _moved(spec: Spec, table: Mapping[e.Node, e.Node]) -> Spec:
    """The pattern with other expressions in the place of positions and the length."""

    def real(node: RealExpr) -> RealExpr:
        return rewritten(node, table)

    def optional(node: RealExpr | None) -> RealExpr | None:
        return None if node is None else real(node)

    def clauses(found: tuple[Clause, ...]) -> tuple[Clause, ...]:
        return tuple(Clause(rewritten(clause.pred, table), clause.span) for clause in found)

    def option(value: Setting) -> Setting:
        return real(value) if isinstance(value, RealExpr) else value

    def rotation(found: Rotation) -> Rotation:
        options = tuple((name, option(value)) for name, value in found.options)
        return Rotation(found.kind, options, rewritten(found.q, table), rewritten(found.k, table))

    def weights(found: Weights) -> Weights:
        lines = {name: optional(getattr(found, name)) for name in ("q", "k", "divide", "decay", "delta")}
        return replace(found, **lines)  # type: ignore[arg-type]

    def branch(found: Branch) -> Branch:
        return replace(
            found,
            attend=clauses(found.attend),
            within=clauses(found.within),
            share=optional(found.share),
            score=real(found.score),
            rotations=tuple(map(rotation, found.rotations)),
            weights=weights(found.weights),
        )

    return replace(
        spec,
        attend=clauses(spec.attend),
        within=clauses(spec.within),
        mixture=tuple(map(branch, spec.mixture)),
        score=real(spec.score),
        sink=optional(spec.sink),
        rotations=tuple(map(rotation, spec.rotations)),
        weights=weights(spec.weights),
    )
