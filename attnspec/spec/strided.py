"""A pattern over every ``step``-th position: what ranks compute that hold such positions, or send them.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention dilated { attend 0 <= q - k < 512 and (q - k) % 16 == 0 }")
>>> print(strided(spec, Stride(8, 3), Stride(8, 3)))
attention dilated {
    align start
    attend 0 <= q - k and q - k < 64 and (q - k) % 2 == 0
}
>>> strided(spec, Stride(8, 3), Stride(8, 4)).attend[0].pred
Bool(value=False)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple, TypeVar

from attnspec.spec import contents, make, rewrite
from attnspec.spec import expr as e
from attnspec.spec.multiples import reduced
from attnspec.spec.parts import ANY_SIZE, Branch, Clause, Input, Rotation, Setting
from attnspec.spec.real import RealExpr, RealRead
from attnspec.spec.spec import Spec

_LENGTHS = ("n", "n_q", "m")
N = TypeVar("N", bound=e.Node)


class Stride(NamedTuple):
    """Entry x stands at position ``step * x + first``."""

    step: int
    first: int


def why_not_strided(spec: Spec) -> str | None:
    """What of a pattern cannot be said over every ``step``-th position, to go into a message; None: it all can."""
    if spec.order is not None:
        return "`order by` sorts all positions"
    if spec.recurrence is not None:
        return "`recur` cuts the sequence into segments"
    if not spec.softmax_only:
        return f"`{spec.said_weights.splitlines()[0]}` sums over all keys before a query"
    return None


def lengths(spec: Spec) -> dict[str, str]:
    """The lengths of the whole that a pattern reads, of n, n_q and m, each with the input that stands for it."""
    free = frozenset[str]().union(*map(contents.free, spec.roots))
    return {name: _fresh(f"whole_{name}", _taken(spec)) for name in _LENGTHS if name in free}


def ends(spec: Spec) -> dict[str, str]:
    """What is read of runs of sorted inputs, ``doc.first`` and ``doc.last``, each with the input that stands for it."""
    reads = (part for node in spec.roots for part in contents.walk(node) if isinstance(part, (e.Read, RealRead)))
    names = {read.name for read in reads if read.name.endswith((".first", ".last"))}
    return {name: _fresh(name.replace(".", "_"), _taken(spec)) for name in sorted(names)}


def firsts(spec: Spec) -> tuple[str, str]:
    """The inputs that stand for where queries and keys begin, in what has another text for every residue."""
    return _fresh("first_q", _taken(spec)), _fresh("first_k", _taken(spec))


def strided(spec: Spec, queries: Stride, keys: Stride) -> Spec:
    """The pattern with query ``q`` at position ``queries.step * q + queries.first``, and keys likewise.

    Inputs come whole, as for the pattern itself, but offsets as the numbers of documents; beside them come those that
    it declares of :func:`lengths`, :func:`firsts` and, of sorted inputs, :func:`ends`. What is said of positions alone
    has numbers for where entries begin, so that the planner sees what is dense; in scores, rotations and reads of
    inputs they are inputs, so that residues share kernels. Raises ValueError with :func:`why_not_strided`.
    """
    if (why := why_not_strided(spec)) is not None:
        raise ValueError(f"`{spec.name}` cannot be computed over every {queries.step}th position: {why}")
    change = _Change(spec, queries, keys)
    made = replace(
        spec,
        attend=tuple(map(change.clause, spec.attend)),
        within=tuple(map(change.clause, spec.within)),
        align="start",
        mixture=tuple(map(change.branch, spec.mixture)),
        axes=(),
        score=change.whole(spec.score),
        sink=None if spec.sink is None else change.whole(spec.sink),
        rotations=tuple(map(change.rotation, spec.rotations)),
    )
    read = {part.name for node in made.roots for part in contents.walk(node) if isinstance(part, e.Read)}
    numbers = [name for name in (*lengths(spec).values(), *firsts(spec)) if name in read]
    return replace(made, inputs=(*_inputs(spec.inputs, ends(spec)), *(Input(name, "int", ()) for name in numbers)))


class _Change:
    """The positions of entries put into expressions."""

    def __init__(self, spec: Spec, queries: Stride, keys: Stride) -> None:
        self._ends = ends(spec)
        self._long = {declared.name for declared in spec.inputs if _long(declared)}
        self._known: dict[e.Node, e.Node] = {e.Var(name): e.Read(given, ()) for name, given in lengths(spec).items()}
        self._sides = {"q": queries, "k": keys}
        self._firsts = [e.Read(name, ()) for name in firsts(spec)]

    def _moved(self, node: N, *first: e.IntExpr) -> N:
        table = dict(self._known)
        for (name, side), at in zip(self._sides.items(), first, strict=True):
            table[e.Var(name)] = make.add([make.multiply(e.Int(side.step), e.Var(name)), at])
        return reduced(_renamed(rewrite.replace(node, table), self._ends))

    def whole(self, node: N) -> N:
        """An expression by numbers where these do not show in it, else by inputs."""
        by_number = [
            self._moved(node, *map(e.Int, first))
            for first in zip(*((of.first, 0, of.step - 1) for of in self._sides.values()), strict=True)
        ]
        return by_number[0] if len(set(by_number)) == 1 else self._moved(node, *self._firsts)

    def pred(self, node: e.Pred) -> e.Pred:
        """A predicate: each comparison for itself."""
        if isinstance(node, (e.Cmp, e.Flag, e.Among)):
            if contents.varies(node) & self._long:
                return self.whole(node)
            return self._moved(node, *(e.Int(of.first) for of in self._sides.values()))
        return reduced(node.map(lambda part: self.pred(part) if isinstance(part, e.Pred) else part))

    def clause(self, of: Clause) -> Clause:
        return Clause(self.pred(of.pred), of.span)

    def rotation(self, of: Rotation) -> Rotation:
        options = tuple((key, self._setting(value)) for key, value in of.options)
        return replace(of, options=options, q=self.whole(of.q), k=self.whole(of.k))

    def _setting(self, of: Setting) -> Setting:
        return self.whole(of) if isinstance(of, RealExpr) else of

    def branch(self, of: Branch) -> Branch:
        return replace(
            of,
            attend=tuple(map(self.clause, of.attend)),
            within=tuple(map(self.clause, of.within)),
            share=None if of.share is None else self.whole(of.share),
            score=self.whole(of.score),
            rotations=tuple(map(self.rotation, of.rotations)),
        )


def _inputs(declared: Iterable[Input], renamed: dict[str, str]) -> Iterator[Input]:
    """Inputs whose lengths are those of the whole: whatever comes."""
    for item in declared:
        sizes = tuple(ANY_SIZE if contents.free(size) & {*_LENGTHS} else size for size in item.sizes)
        form = "plain" if sizes != item.sizes or item.form == "offsets" else item.form
        yield replace(item, sizes=sizes, form=form, random=None)
        for name, new in renamed.items():
            if name.partition(".")[0] == item.name:
                yield Input(new, "int", sizes)


def _renamed(node: N, names: dict[str, str]) -> N:
    if not names:
        return node
    node = node.map(lambda part: _renamed(part, names))
    return replace(node, name=names[node.name]) if isinstance(node, e.Read) and node.name in names else node


def _long(declared: Input) -> bool:
    """Whether an input has entries for positions, or more than one for each head of a batch entry."""
    return bool(set(declared.sizes) - {e.Var("batch"), e.Var("heads")})


def _taken(spec: Spec) -> set[str]:
    """The names that a pattern has given to something."""
    parts = (part for node in spec.roots for part in contents.walk(node))
    bound = {part.var for part in parts if isinstance(part, (e.Any, e.All, e.Sum))}
    return {declared.name for declared in spec.inputs} | {name for name, _ in spec.params} | bound


def _fresh(name: str, taken: Iterable[str]) -> str:
    while name in taken:
        name += "_"
    return name
