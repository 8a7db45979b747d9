"""Mixtures: one softmax per branch."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.check.clauses import scores
from attnspec.check.clauses.attend import Part, branch, let, line, out_of_place
from attnspec.check.expressions import lists
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.patterns import define
from attnspec.check.expressions.scope import UNKNOWN, Entry, ListValue, Scope, as_entry
from attnspec.errors.clauses import MAX_BRANCHES, MAX_TIMES, bad_mixture, no_share, share_beside
from attnspec.errors.source import Span
from attnspec.errors.values import not_known
from attnspec.language import tree as t
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.parts import Clause


def mix(el: Elaborator, node: t.Mix, scope: Scope, seen: dict[str, Span]) -> list[Part]:
    """The branches of a mixture."""
    branches = _written(el, node, scope, dict(seen)) if node.domain is None else _listed(el, node, scope, seen)
    if len(branches) > MAX_BRANCHES:
        label = f"the limit is {MAX_BRANCHES}"
        el.wrong(bad_mixture(node.heading, "a mixture with too many branches", label))
    shared = next((part.place for part in branches if part.share is not None), None)
    without = next((part.place for part in branches if part.share is None), None)
    if shared is not None and without is not None:
        el.wrong(no_share(without, shared))
    if shared is not None and node.detached:
        el.wrong(share_beside(node.heading, "`weights detached`", "there are no such weights", shared))
    return branches


def _written(el: Elaborator, node: t.Mix, scope: Scope, seen: dict[str, Span]) -> list[Part]:
    """``mix { branch { ... } branch times 2 { ... } branch for i in 0..4 { ... } }``."""
    common: list[Clause] = []
    branches: list[Part] = []
    for part in node.clauses:
        match part:
            case t.Branch():
                branches += _listed(el, part, scope, seen)
            case t.Within():
                common.append(line(el, part, scope))
            case t.Let():
                scope = let(el, part, scope, seen)
            case _:
                out_of_place(el, part, "belongs to no branch", "expected `branch`, `let` or `within`")
    if not branches and not el.report.mistakes:
        el.wrong(bad_mixture(node.heading, "a mixture without branches", "nothing to mix"))
    for made in branches:
        made.within += common
    return branches


def _times(el: Elaborator, node: t.Branch, scope: Scope) -> int:
    if node.times is None:
        return 1
    times = el.constant(node.times, scope, "how often a branch counts")
    if times is not None and not 1 <= times <= MAX_TIMES:
        title = "a branch counts at least once" if times < 1 else "a branch counts too often"
        el.wrong(bad_mixture(node.times.span, title, f"this is {times}"))
    return times or 1


def _part(el: Elaborator, node: t.Mix | t.Branch, scope: Scope, seen: dict[str, Span]) -> Part:
    """One branch, where the names that it is listed with are known."""
    part = Part(node.heading)
    if isinstance(node, t.Branch):
        part.times = _times(el, node, scope)
        if node.share is not None:
            part.share = scores.share(el, node.share, scope)
            if node.times is not None:
                el.wrong(share_beside(node.times.span, "`times`", "it would say the same again", node.share.span))
    branch(el, node.clauses, scope, seen, part)
    return part


def _listed(el: Elaborator, node: t.Mix | t.Branch, scope: Scope, seen: dict[str, Span]) -> list[Part]:
    """``mix (w, r) in [(2048, 1), (4096, 2)] { ... }``; one branch where there is nothing to run over."""
    if node.domain is None:
        return [_part(el, node, scope, dict(seen))]
    names = dict(seen)
    for name in node.names:
        define(name, f"`{name.name}`", names, el.report)
    branches = []
    unknown = True
    for count, entries in enumerate(_entries(el, node, node.domain, scope)):
        if count > MAX_BRANCHES:
            break  # too many; said by the caller
        unknown = False
        branches.append(_part(el, node, scope.bind(entries), dict(names)))
    if unknown:  # the names and types inside can be checked all the same
        _part(el, node, scope.bind({name.name: UNKNOWN for name in node.names}), dict(names))
    return branches


def _entries(el: Elaborator, node: t.Mix | t.Branch, tree: t.Domain, scope: Scope) -> Iterator[dict[str, Entry]]:
    """What the names are bound to in each branch."""
    over = lists.domain(el, tree, scope)
    if over is None:
        return
    values = list(over.items) if isinstance(over, ListValue) else lists.over_values(over)
    if values is None or (isinstance(over, ListValue) and over.indices):
        unknown = over if isinstance(over, e.Node) else over.indices[0]
        el.wrong(not_known(tree.span, "what a mixture runs over", contents.names(unknown)))
        return
    if not values:
        el.wrong(bad_mixture(tree.span, "a mixture without branches", "nothing to run over"))
        return
    wanted = len(node.names)
    for value in values:
        if wanted == 1:
            yield {node.names[0].name: as_entry(value)}
            continue
        if isinstance(value, int) or len(value) != wanted:
            got = "an integer" if isinstance(value, int) else f"{len(value)} value{'' if len(value) == 1 else 's'}"
            listed = ", ".join(name.name for name in node.names)
            title = f"each entry must have {wanted} values, one for each name"
            help = f"write `({', '.join(str(i + 1) for i in range(wanted))})` for `({listed})`"
            el.wrong(bad_mixture(tree.span, title, f"has an entry with {got}", help))
            return
        yield {name.name: as_entry(item) for name, item in zip(node.names, value, strict=True)}
