"""What the lines about segments may say beside each other and beside the axes of an attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnspec.check.expressions.elaborator import Elaborator
from attnspec.errors.catalogue import did_you_mean
from attnspec.errors.clauses import segments_mistake, unknown_carried
from attnspec.errors.diagnostic import Diagnostic
from attnspec.errors.names import defined_twice
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.parts import Axis

Declared = Sequence[tuple[Axis, Span]]
Carries = list[tuple[t.Carry, int | None]]
Recalls = list[tuple[t.Recall, tuple[float, int] | None]]


class Beside:
    """One check of the lines; ``fine`` says whether anything was wrong so far."""

    def __init__(
        self,
        el: Elaborator,
        axes: Mapping[str, tuple[Axis, Span]],
        recur: t.Recur,
        carries: Carries,
        recalls: Recalls,
    ) -> None:
        self.el, self.axes, self.recur = el, axes, recur
        self.carries, self.recalls = carries, recalls
        self.fine = True

    def check(self, size: int | None) -> None:
        """Names first, then sizes: ``size`` is the length of a segment, if it is known."""
        self._recurring()
        for carry, _ in self.carries:
            self._carry(carry)
        for recall, _ in self.recalls:
            self._recall(recall)
        self._given()
        if not self.fine:
            return
        sizes: dict[str, int | None] = {self.recur.axis.name: size}
        for name, (axis, _) in self.axes.items():
            sizes.setdefault(name, axis.size.value if isinstance(axis.size, e.Int) else None)
        for carry, last in self.carries:
            self._fits(carry, last, sizes)
        for recall, _ in self.recalls:
            self._alike(recall, sizes)

    def once(self, recurs: Sequence[t.Recur], horizons: Sequence[t.Horizon]) -> None:
        """Lines that stand at most once, and a horizon that cuts nothing."""
        for second in recurs[1:]:
            one = (recurs[0].span, "this one does")
            self._wrong(segments_mistake(second.span, "one axis comes in segments", "the second one", one))
        for span in [node.span for node, _ in self.recalls[1:]]:
            self._wrong(defined_twice(span, "`recall`", self.recalls[0][0].span))
        for second_horizon in horizons[1:]:
            self._wrong(defined_twice(second_horizon.span, "`horizon`", horizons[0].span))
        for horizon in horizons[:1]:
            if not self.carries:
                title = "`horizon` has no meaning without `carry`"
                help = "it says how far back gradients flow through what is carried"
                self._wrong(segments_mistake(horizon.span, title, "nothing is carried", help=help))
            elif all(node.detached for node, _ in self.carries):
                title, detached = "`horizon` has no meaning beside `detached`", (self.carries[0][0].span, "detached")
                help = "no gradient flows through what is carried: take one of the two away"
                self._wrong(segments_mistake(horizon.span, title, "cuts nothing", detached, help=help))

    def _wrong(self, diagnostic: Diagnostic) -> None:
        self.el.wrong(diagnostic)
        self.fine = False

    def _recurring(self) -> None:
        """The axis that comes in segments: it, and it alone, has the length of the sequence."""
        node, name = self.recur, self.recur.axis.name
        if name not in self.axes:
            self._wrong(unknown_carried(node.axis.span, name, list(self.axes)))
            return
        recurring, declared = self.axes[name]
        if not (recurring.queries and recurring.keys):
            only = "keys" if recurring.keys else "queries"
            title = f"what comes in segments is run through the model: `{name}` has {only} only"
            help = f"take `{only}` away from the axis"
            self._wrong(segments_mistake(node.axis.span, title, f"{only} only", (declared, "declared here"), help=help))
        for axis, span in self.axes.values():
            reads = contents.free(axis.size)
            if axis is recurring and axis.size != e.Var("m") and "?" not in reads:
                title = f"`{name}` comes in segments: it has as many positions as there are tokens"
                help, label = f"write `axis {name}[n]`", (span, "not of size n")
                self._wrong(segments_mistake(node.axis.span, title, "comes in segments", label, help=help))
            elif axis is not recurring and "m" in reads:
                title, label = "beside segments, other axes have a fixed size", (node.span, "comes in segments")
                help = "let it depend on parameters alone"
                self._wrong(segments_mistake(span, title, "grows with `n`", label, help=help))

    def _carry(self, node: t.Carry) -> None:
        """The names of one carry."""
        source, stores = self.axes.get(node.source.name), {recall.store.name for recall, _ in self.recalls}
        if source is None:
            self._wrong(unknown_carried(node.source.span, node.source.name, list(self.axes)))
        elif not source[0].queries:
            title = f"nothing comes out of `{node.source.name}`: it has keys only"
            help = "carry from an axis that is run through the model"
            self._wrong(segments_mistake(node.source.span, title, "has no queries", (source[1], "keys"), help=help))
        for target in node.targets:
            if target.name in self.axes:
                self._target(target, node.by_layer)
            elif target.name not in stores:
                help = "a name that is no axis is a store, which a `recall ... from` asks"
                self._wrong(unknown_carried(target.span, target.name, list(self.axes), help))
            elif node.by_layer:
                title, help = "a store holds vectors of the model, not of its layers", "take `by layer` away"
                self._wrong(segments_mistake(target.span, title, "a store", help=help))
            elif len(node.targets) > 1:
                title, help = "a store stands alone behind its arrow", "write a `carry` line of its own"
                self._wrong(segments_mistake(target.span, title, "a store", help=help))

    def _target(self, target: t.Name, by_layer: bool = False) -> None:
        """An axis that is carried, or recalled, to."""
        axis, declared = self.axes[target.name]
        label = (declared, "declared here")
        if target.name == self.recur.axis.name:
            title, help = f"`{target.name}` gets its vectors from the sequence", "take another axis"
            self._wrong(segments_mistake(target.span, title, "comes in segments", help=help))
        elif by_layer and axis.queries:
            title, help = "what is carried by layer are keys", f"declare `axis {target.name}[...] keys`"
            self._wrong(segments_mistake(target.span, title, "has queries too", label, help=help))
        elif not by_layer and not axis.queries:
            title = f"`{target.name}` has keys only: no vectors go through the model there"
            help = "carry to it `by layer`, or take `keys` away from the axis"
            self._wrong(segments_mistake(target.span, title, "keys only", label, help=help))

    def _recall(self, node: t.Recall) -> None:
        """The names of a recall."""
        for target in node.targets:
            if target.name in self.axes:
                self._target(target)
            else:
                self._wrong(unknown_carried(target.span, target.name, list(self.axes)))
        store = node.store
        if store.name in self.axes:
            title, label = f"`{store.name}` is an axis, not a store", (self.axes[store.name][1], "declared here")
            help = "a store has a name that no axis has, and is filled by a `carry` line"
            self._wrong(segments_mistake(store.span, title, "an axis", label, help=help))
            return
        filled = [x.name for carry, _ in self.carries for x in carry.targets if x.name not in self.axes]
        if store.name not in filled:
            source = next((name for name in reversed(list(self.axes)) if name != self.recur.axis.name), "written")
            help = did_you_mean(store.name, filled) or f"`carry {source} -> {store.name} last 300`"
            title = f"nothing is carried to the store `{store.name}`"
            self._wrong(segments_mistake(store.span, title, "always empty", help=help))

    def _given(self) -> None:
        """Each axis gets its vectors, or its keys, from one line; axes of keys from some line."""
        seen: dict[str, Span] = {}
        for targets in [n.targets for n, _ in self.carries] + [n.targets for n, _ in self.recalls]:
            for target in targets:
                if target.name in seen:
                    title, label = f"`{target.name}` gets its vectors twice", (seen[target.name], "here already")
                    self._wrong(segments_mistake(target.span, title, "and here", label))
                seen.setdefault(target.name, target.span)
        for name, (axis, span) in self.axes.items():
            if not axis.queries and name not in seen:
                help = f"`carry {self.recur.axis.name} -> {name} last {axis.size} by layer`"
                title = f"nothing is carried to `{name}`, which has keys only"
                self._wrong(segments_mistake(span, title, "keys of what?", help=help))

    def _fits(self, node: t.Carry, last: int | None, sizes: Mapping[str, int | None]) -> None:
        """As many positions are carried as a target has."""
        made = sizes[node.source.name]
        carried = made if node.last is None else last
        if carried and made == 0:
            title, label = (
                f"nothing comes out of `{node.source.name}`",
                (self.axes[node.source.name][1], "declared here"),
            )
            self._wrong(segments_mistake(node.source.span, title, "has no positions", label))
            return
        for target in node.targets:
            wanted = sizes.get(target.name)
            if wanted is not None and carried is not None and wanted != carried:
                title = f"{carried} positions are carried to `{target.name}`, which has {wanted}"
                help, label = f"write `last {wanted}`, or change the axis", (self.axes[target.name][1], f"has {wanted}")
                self._wrong(segments_mistake(target.span, title, "the sizes must be equal", label, help=help))

    def _alike(self, node: t.Recall, sizes: Mapping[str, int | None]) -> None:
        """All targets of a recall get the same vectors."""
        first, has = node.targets[0], sizes[node.targets[0].name]
        for target in node.targets:
            size = sizes[target.name]
            if size == 0:
                title = f"nothing is recalled to `{target.name}`: it has no positions"
                self._wrong(segments_mistake(target.span, title, "of size 0"))
            elif None not in (size, has) and size != has:
                title = f"one answer stands everywhere: `{target.name}` and `{first.name}` have the same size"
                self._wrong(segments_mistake(target.span, title, f"has {size}", (first.span, f"has {has}")))
