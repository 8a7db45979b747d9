"""A pattern as the runtime carries it: the user's text with its parameters, as one string, and what follows from it.

The string is what the custom operator takes, so that an exported graph contains all that is needed to run it.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnspec.runtime.core.store import Cache

if TYPE_CHECKING:
    from attnspec.codegen.plan.plan import Plan
    from attnspec.relation.relation import Relation
    from attnspec.spec.real import Reals
    from attnspec.spec.spec import Spec

Needed = tuple[tuple[str, int], ...]
"""The sizes that a program's relation depends on (of heads, kv_heads, batch), by name."""


@dataclass(frozen=True)
class Program:
    """A source text, the name of the attention in it, its parameters, and the tile, layout and target asked for."""

    text: str
    filename: str
    name: str | None
    params: str  # JSON, sorted
    tile: tuple[int, int] | None
    layout: str
    target: str

    @classmethod
    def of(
        cls,
        text: str,
        filename: str,
        name: str | None,
        params: Mapping[str, Any],
        tile: tuple[int, int] | None = None,
        layout: str = "auto",
        target: str = "auto",
    ) -> Program:
        """The program of a source text."""
        return cls(text, filename, name, json.dumps(dict(params), sort_keys=True, default=_plain), tile, layout, target)

    def __hash__(self) -> int:
        return hash(self.encoded)  # a string keeps its hash

    @cached_property
    def encoded(self) -> str:
        """The program as one string."""
        return json.dumps([self.text, self.filename, self.name, self.params, self.tile, self.layout, self.target])

    @cached_property
    def digest(self) -> str:
        """The hash of the program and of this package's own files: a changed compiler is another compiler."""
        return sha256(f"{self.encoded}\0{fingerprint()}".encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Numbers of other libraries as Python's own, arrays as lists."""
    if getattr(value, "requires_grad", False):
        raise TypeError("a parameter has no gradient: what is learned is an input, as in `input cap: float`")
    if hasattr(value, "tolist"):
        return value.tolist()
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"a parameter is a number, a boolean or a list of them, not {value!r} ({type(value).__name__})"
        ) from None


@functools.lru_cache(maxsize=256)
def decode(encoded: str) -> Program:
    """The program of an encoded string."""
    text, filename, name, params, tile, layout, target = json.loads(encoded)
    return Program(text, filename, name, params, None if tile is None else (tile[0], tile[1]), layout, target)


_PARTS = ("attnspec", "attnspec.codegen", "attnspec.runtime")  # in a checkout the last two are links: not followed


@functools.cache
def fingerprint() -> str:
    """A hash over names, sizes and times of this package's files."""
    parts = []
    for name in _PARTS:
        folder = Path(str(files(name)))
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".lark", ".attn", ".hpp"):
                status = path.stat()
                parts.append(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}")
    return sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Facts:
    """What a call needs to know of a checked pattern.

    ``needs`` are the sizes (heads, kv_heads, batch) for which kernels are specialised, ``align`` is where query row 0
    stands. ``separate`` is the number of branches that are kept apart because the weights of their mixture are
    detached, else 0. ``composed`` mixtures are computed branch by branch, ``shared`` ones by given shares, without a
    log-sum-exp. ``linear``: weights are products of features; ``decays``: those of softmax decay; ``divides``: their
    sums are divided. ``bare`` patterns have nothing around or beside q, k and v: no inputs, axes, order, rotations,
    sink or scale. ``lists`` says that a list of reals is read by head, ``alike`` that no heads are told apart.
    ``arguments`` are the arguments of kernels that follow from real parameters, by name; ``kernel`` is a hash of all
    else that a kernel depends on, their shapes too.
    """

    name: str
    align: str
    needs: tuple[str, ...]
    separate: int
    composed: bool
    shared: bool
    linear: bool
    decays: bool
    divides: bool
    bare: bool
    lists: bool
    alike: bool
    arguments: tuple[tuple[str, Reals], ...]
    kernel: str


@functools.lru_cache(maxsize=256)
def facts(program: Program) -> Facts:
    """The facts of a program: from a note on disk, else by checking the text. Raises SpecError if it is wrong."""
    cache = Cache.default()
    key = f"facts-{program.digest}"
    note = cache.note(key)
    if note is None or note.keys() != Facts.__dataclass_fields__.keys():
        from attnspec.codegen.expressions.arguments import arguments, beyond_kernels, computed
        from attnspec.codegen.expressions.reads import has_kernels, names, scores_decay
        from attnspec.errors.diagnostic import SpecError
        from attnspec.errors.relations import no_kernels, real_too_large
        from attnspec.relation.lower import sizes_needed
        from attnspec.spec.heads import alike, lists_by_head

        checked = spec(program)
        if program.target != "dense" and not has_kernels(checked, program.target == "triton"):
            raise SpecError([no_kernels(checked.span, checked.said_weights, target=program.target)])
        if program.target != "dense" and (value := beyond_kernels(checked)) is not None:
            raise SpecError([real_too_large(checked.span, value)])
        made = (str(program.tile), program.layout)
        around = (checked.inputs, checked.axes, checked.order, checked.rotations, checked.sink, checked.normalized)
        composed = checked.composed
        note = {
            "name": checked.name,
            "align": checked.align,
            "needs": sorted(sizes_needed(checked)),
            "separate": len(checked.branches) if checked.detached else 0,
            "composed": composed,
            "shared": checked.shared,
            "linear": checked.weights.linear and not composed,
            "decays": scores_decay(checked),
            "divides": checked.weights.divide is not None and not checked.weights.each,
            "bare": not (names(checked) or any(around) or composed) and checked.scale is None and checked.softmax_only,
            "alike": alike(checked),
            "lists": any(True for _ in lists_by_head(checked)),
            "arguments": [[one.name, one.value] for one in arguments(checked.score).all],
            "kernel": sha256("\0".join([computed(checked), *made, fingerprint()]).encode()).hexdigest(),
        }
        cache.set_note(key, note)
    needs, given = tuple(note["needs"]), tuple((name, _nested(value)) for name, value in note["arguments"])
    return Facts(**{**note, "needs": needs, "arguments": given})


def _nested(value: Any) -> Reals:
    """Lists of a note as tuples."""
    return tuple(map(_nested, value)) if isinstance(value, list | tuple) else float(value)


@functools.lru_cache(maxsize=64)
def spec(program: Program) -> Spec:
    """The checked pattern. Raises SpecError."""
    from attnspec.check.check import check_text

    return check_text(program.text, program.name, json.loads(program.params), program.filename)


@functools.lru_cache(maxsize=64)
def relation(program: Program, sizes: Needed) -> Relation:
    """The relation of a program; ``sizes`` are those it needs, by name."""
    from attnspec.relation.lower import lower

    return lower(spec(program), **dict(sizes))


@functools.lru_cache(maxsize=64)
def plan(program: Program, sizes: Needed) -> Plan:
    """The plan of a program; ``sizes`` are those it needs, by name."""
    from attnspec.codegen.plan.choose import plan as choose
    from attnspec.codegen.tiles import Tile

    return choose(relation(program, sizes), Tile(*program.tile) if program.tile else None, program.layout)


def needed(program: Program, heads: int, kv_heads: int, batch: int) -> Needed:
    """The sizes that a program's relation depends on, by name."""
    given = {"heads": heads, "kv_heads": kv_heads, "batch": batch}
    return tuple((name, given[name]) for name in facts(program).needs)
