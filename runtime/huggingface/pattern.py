"""A pattern that takes the place of a model's mask: what a layer calls, however the sequences of a batch lie."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from attnspec.analysis.growth import grows
from attnspec.analysis.past import ahead
from attnspec.analysis.retention import Retention, retention
from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.core.arguments import CallError
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.parts import Input
from attnspec.spec.placed import placed
from attnspec.spec.real import Apply, Parameter, Product, Quotient, RealRead, Score
from attnspec.spec.rewrite import replace as rewritten
from attnspec.spec.spec import Spec

Source = str | os.PathLike[str] | Spec | Attention
"""What a pattern is given as: a shipped name, a path, text, or what comes of one."""
SINKS = "model_sinks"
_CAP = "model_cap"


@dataclass(frozen=True)
class Pattern:
    """The text of a checked pattern. ``restart``: positions begin anew in each document of a packed sequence."""

    text: str
    restart: bool = True
    said: str = field(default="", compare=False)
    tile: tuple[int, int] | None = None
    layout: str = "auto"
    target: str = "auto"

    @classmethod
    def of(cls, source: Source, params: Mapping[str, Any], restart: bool) -> Pattern:
        """Of what a user gives. Raises CallError for what cannot stand in a model, SpecError for a wrong pattern."""
        if isinstance(source, Spec | Attention):
            if params:
                named = ", ".join(params)
                raise CallError(f"attnspec.transformers: {named} given for a pattern that has its parameters already")
            program = source.program if isinstance(source, Attention) else None
            spec = source.spec if isinstance(source, Attention) else source
            made = (program.tile, program.layout, program.target) if program else ()
        else:
            spec, made = compile(source, params=params).spec, ()
        _check(spec)
        values = ", ".join(f"{name}={value!r}" for name, value in spec.params)
        return cls(str(spec), restart, f"{spec.name}({values})" if values else spec.name, *made)

    @property
    def spec(self) -> Spec:
        """The pattern by itself, as in one sequence."""
        return self.attention().spec

    def attention(
        self,
        ways: frozenset[str] = frozenset(),
        cap: float | None = None,
        sinks: bool = False,
        of_branches: float | None = None,
    ) -> Attention:
        """What a layer calls where sequences lie in these ways (:func:`attnspec.spec.placed.placed`).

        ``cap`` and ``sinks`` are the model's: a cap of its scores, and logits that stand beside them. All attentions of
        different caps share their kernels. ``of_branches`` is the scale of branches of softmax that say none.
        """
        return _attention(self, ways, cap, sinks, of_branches)

    def kept(self, heads: int, kv_heads: int, batch: int = 1) -> Retention:
        """What all its heads together keep of the keys of a sequence that goes on."""
        return _kept(self, heads, kv_heads, batch)

    def why_not_past(self, heads: int, kv_heads: int) -> str:
        """What is wrong with it in a decoder: what a query sees is later, or changes with what is; empty if nothing."""
        return _ahead(self, heads, kv_heads)

    def __str__(self) -> str:
        return self.said


@functools.lru_cache(maxsize=256)
def _attention(
    pattern: Pattern, ways: frozenset[str], cap: float | None, sinks: bool, of_branches: float | None
) -> Attention:
    made = {"tile": pattern.tile, "layout": pattern.layout, "target": pattern.target}
    if not (ways or cap is not None or sinks or of_branches is not None):
        return compile(pattern.text, **made)  # type: ignore[arg-type]
    spec = pattern.spec
    if (cap is not None or sinks) and any(weights.linear for weights in spec.weighings):
        what = "a cap of its scores" if cap is not None else "sinks"
        raise CallError(f"{spec.name}: the model has {what}, and weights that are products of features have no scores")
    if of_branches is not None:
        told = tuple(
            branch if branch.weights.linear or branch.scale is not None else replace(branch, scale=of_branches)
            for branch in spec.mixture
        )
        spec = replace(spec, mixture=told)
    if cap is not None:
        limit = Parameter(_CAP, float(cap))
        capped = Product(limit, Apply("tanh", Quotient(Score(), limit)))
        spec = replace(spec, score=rewritten(spec.score, {Score(): capped}))
    if sinks:
        if spec.sink is not None:
            raise CallError(
                f"{spec.name}: the pattern has a `sink` line, and the model learns sinks of its own: leave the line out"
            )
        sizes = (e.Var("heads"),)
        sink = RealRead(SINKS, (e.Var("h"),))
        spec = replace(spec, sink=sink, inputs=(*spec.inputs, Input(SINKS, "float", sizes)))
    return compile(str(placed(spec, ways) if ways else spec), **made)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=256)
def _kept(pattern: Pattern, heads: int, kv_heads: int, batch: int) -> Retention:
    relation = pattern.attention().relation_for(heads=heads, kv_heads=kv_heads, batch=batch)
    found = retention(relation, Sizes(1, 1, heads, kv_heads, batch))
    return functools.reduce(Retention.joined, (item.retention for item in found))


@functools.lru_cache(maxsize=256)
def _ahead(pattern: Pattern, heads: int, kv_heads: int) -> str:
    relation, name = pattern.attention().relation_for(heads=heads, kv_heads=kv_heads, batch=1), pattern.spec.name
    if found := ahead(relation):
        return (
            f"{name}: query {found.q} may see key {found.k} (n = {found.n}), and the model is a decoder, "
            "which is to predict what comes after: add `within causal` to the pattern, or set is_causal=False in the "
            "model's config"
        )
    if changes := grows(relation):
        return (
            f"{name}: {changes}: the model is a decoder, in which n grows at each step, so that it would not "
            "generate as it was trained. Write q + 1 in the place of n (a query as the last token), or a parameter"
        )
    return ""


def _check(spec: Spec) -> None:
    """Raises CallError for what has no meaning in the place of a mask."""
    name = spec.name
    if spec.recurrence is not None:
        raise CallError(
            f"{name}: a pattern of segments goes around a model, not into it: attnspec.recurrent(model, ...)"
        )
    if spec.axes:
        raise CallError(f"{name}: a model has one sequence, and the pattern has axes: write it over q and k")
    if spec.order is not None:
        raise CallError(
            f"{name}: a computed order sorts padding and what comes later among all else: take another pattern"
        )
    given = [declared for declared in spec.inputs if declared.random is None]
    if given:
        documents = any(declared.form != "plain" for declared in given)
        hint = (
            "documents are known by position_ids that begin anew: register the pattern of one document"
            if documents
            else "nobody gives it inside a model: make it a parameter"
        )
        raise CallError(f"{name}: the pattern reads `{given[0]}`; {hint}")
    read = {found for root in spec.roots for found in contents.free(root)}
    for size, why in (
        ("n_q", "how many queries a call has"),
        ("b", "the batch entry"),
        ("batch", "how many there are"),
    ):
        if size in read:
            raise CallError(f"{name}: the pattern reads `{size}`, {why}: batches and calls of a model are as they come")
