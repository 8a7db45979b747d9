"""From plans to the text of a Python module with Triton kernels: it imports torch and triton, and nothing else.

The module has ``forward`` and ``backward`` (see ``library/host.py``), which allocate, launch the kernels of all passes
and return tensors. Each of its three kinds of kernels has a plan of its own, since each has a tile size of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from attnspec.codegen.expressions import arguments
from attnspec.codegen.expressions.reads import names, require_softmax
from attnspec.codegen.plan import lengths
from attnspec.codegen.plan.plan import Plan
from attnspec.codegen.plan.tiling import ragged
from attnspec.codegen.triton import decide as triton_decide
from attnspec.codegen.triton import functions as triton_values
from attnspec.codegen.triton import launch as triton_launch
from attnspec.codegen.triton.context import FORWARD, KEYS, QUERIES, Context, Kind
from attnspec.codegen.triton.fold import folded
from attnspec.codegen.triton.functions import Function
from attnspec.codegen.triton.held import PART, whole
from attnspec.codegen.triton.kernel import kernel
from attnspec.codegen.triton.launch import Launch
from attnspec.codegen.triton.schedule import Schedule
from attnspec.codegen.triton.softmax import sums as triton_sums
from attnspec.codegen.triton.syntax import MOST_RUNS, LongList
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.relations import long_list
from attnspec.relation.relation import scalar_reads
from attnspec.spec import expr as e

_LIBRARY = ("tiles", "values")
UNIT = 1.4426950408889634
"""What differences of scores are multiplied with to be exponents of 2, where score lines want them in natural units."""
_IMPORTS = ("import torch", "import triton", "import triton.language as tl")
_MARK = "# ---- text of generated kernels from here on ----\n"


@dataclass(frozen=True, eq=False)
class Plans:
    """The plans of the three kinds of kernels."""

    forward: Plan
    queries: Plan
    keys: Plan

    @property
    def all(self) -> tuple[Plan, Plan, Plan]:
        """All three."""
        return self.forward, self.queries, self.keys

    def of(self, kind: Kind) -> Plan:
        """The plan of a kind."""
        return {FORWARD: self.forward, QUERIES: self.queries, KEYS: self.keys}[kind]


@dataclass(frozen=True)
class TritonKey:
    """What a module is specialised for: head sizes of query and value, positions in 64 bits or not.

    The tensors of a ``part`` hold some of the pattern's queries, keys, heads and batch entries; with ``carry`` results
    and gradients are added to those that a call gives.
    """

    dim: int
    dim_v: int
    wide: bool = False
    part: bool = False
    carry: bool = False
    heads: int = 1
    paged: bool = False


def is_wide(plans: Plans, key: TritonKey) -> bool:
    """Whether kernels compute positions, and read integer inputs, in 64 bits."""
    return key.wide or lengths.is_wide(plans.all)


def module(plans: Plans, key: TritonKey, schedule: Schedule, main: str = "") -> str:
    """The Python text of the kernels of a pattern.

    ``main`` are the constants of an example, for a file that runs by itself. Raises SpecError where a predicate
    overflows 64-bit positions, or has a list that is too long.
    """
    lengths.longest(plans.all)  # or there is none
    spec = plans.forward.relation.spec
    try:
        context, kernels, launches = _kernels(plans, key)
    except LongList:
        raise SpecError([long_list(spec.span, MOST_RUNS)]) from None
    head = arguments.comment(spec)
    comment = "\n".join(f"# {line}".rstrip() for line in f"{head}\n\n{plans.forward}".splitlines())
    title = f'"""attnspec: {spec.name}, head size {key.dim} (values {key.dim_v}).\n\n{schedule}\n"""'
    standard = ("base64", "functools", "os", "sys", "zlib") if main else ("functools",)
    imports = "\n".join([*(f"import {name}" for name in standard), "", *_IMPORTS])
    return (
        "\n\n".join(
            [
                title,
                comment,
                imports,
                folded(_constants(context, plans, launches)),
                *(f"\n{text.rstrip()}" for text in map(_read, _LIBRARY)),
                *(f"\n{folded(function.text.rstrip())}" for function in _functions(context)),
                *(f"\n{folded(text)}" for text in kernels),
                *(f"\n{folded(text)}" for text in triton_sums.kernels(context)),
                f"\n{_read('host')}",
                f"\n{folded(triton_launch.launches(launches, schedule, context))}",
                *([f"\n{main}", f"\n{_read('main')}"] if main else []),
            ]
        ).rstrip("\n")
        + "\n"
    )


def given(plans: Plans, key: TritonKey) -> list[str]:
    """What kernels read beside q, k and v, by name."""
    return triton_launch.given_names(_kernels(plans, key)[2])


def _kernels(plans: Plans, key: TritonKey) -> tuple[Context, list[str], list[Launch]]:
    spec = plans.forward.relation.spec
    require_softmax(spec)
    sweeps = {
        kind: [ragged(pass_, spec.align, transposed=kind is KEYS) for pass_ in plans.of(kind).passes]
        for kind in ((FORWARD,) if key.paged else (FORWARD, QUERIES, KEYS))
    }
    context = _context(plans, key, any(sweep.tabled for sweep in sweeps[FORWARD]))
    kernels: list[str] = []
    launches: list[Launch] = []
    for kind, found in sweeps.items():
        made = plans.of(kind)
        heads = [pass_.heads for pass_ in made.classes for _ in pass_.passes]
        for number, (pass_, sweep, which) in enumerate(zip(made.passes, found, heads, strict=True)):
            text = kernel(kind, pass_, number, sweep, context, which)
            kernels.append(text.text)
            launches.append(Launch(kind, pass_, number, which, text.parameters))
    return context, kernels, launches


def _context(plans: Plans, key: TritonKey, tabled: bool) -> Context:
    spec = plans.forward.relation.spec
    assert not spec.composed, "the branches have kernels of their own"
    reads = names(spec)
    passes = [pass_ for kind in (FORWARD, QUERIES, KEYS) for pass_ in plans.of(kind).passes]
    carry = key.carry or plans.forward.carry or plans.queries.carry
    return Context(
        key.dim,
        key.dim_v,
        "tl.int64" if is_wide(plans, key) else "tl.int32",
        PART if key.part else whole(spec.align, key.paged),
        spec.score,
        triton_values.value(spec.score),
        triton_values.gradient(spec.score),
        {
            name: triton_values.integer(read, f"scalar_{name}")
            for read, name in scalar_reads(spec).items()
            if read.name in reads
        },
        carry=carry,
        adds=key.carry or len(plans.keys.passes) > 1 or any(pass_.layout.scattered for pass_ in plans.keys.passes),
        separate=spec.detached,
        shares=not carry and not spec.detached and not tabled,
        heads=key.heads,
        predicates=tuple(dict.fromkeys(pred for pass_ in passes for pred in triton_decide.predicates(pass_))),
        rows=tuple(dict.fromkeys(row for pass_ in passes for row in triton_decide.rows(pass_))),
        ends=tuple(dict.fromkeys(end for pass_ in passes for end in triton_decide.ends(pass_))),
    )


def _functions(context: Context) -> Iterator[Function]:
    """The generated functions that kernels call."""
    yield from context.scalars.values()
    yield from map(context.row, context.rows)
    yield from map(context.end, context.ends)
    yield from (context.allowed(pred) for pred in context.predicates if pred != e.Bool(True))
    if context.scored:
        yield from (context.value, context.gradient.function, *(entry.place for entry in context.gradient.entries))


def _constants(context: Context, plans: Plans, launches: list[Launch]) -> str:
    spec = plans.forward.relation.spec
    given = triton_launch.given_names(launches)
    return "\n".join(
        [
            f"CARRY = {context.carry}  # passes add to results that are there already",
            f"ADDS = {context.adds}  # passes add to gradients of keys",
            f"BRANCHES = {len(spec.branches) if context.separate else 0}  # softmaxes whose outputs are kept apart",
            f"REPEATS = {spec.order is not None}  # a key may have several slots",
            f"UNIT: tl.constexpr = tl.constexpr({UNIT if context.scored else 1.0!r})  # log2(e) for natural scores",
            f"SHARES = {context.shares}  # the keys of a query tile may be cut into parts that run side by side",
            f"HEADS = {context.heads}  # that share their keys may share a tile of queries",
            f"LARGEST_ROW = {_largest_row(plans)}  # distance of two rows up to which a tile's offsets fit 32 bits",
            f"GIVEN = {tuple(given)!r}  # what kernels read beside q, k and v",
        ]
    )


def _largest_row(plans: Plans) -> int:
    passes = [pass_ for kind in (FORWARD, QUERIES, KEYS) for pass_ in plans.of(kind).passes]
    return (1 << 30) // max(pass_.layout.residues * max(pass_.tile.rows, pass_.tile.columns) for pass_ in passes)


def _read(name: str) -> str:
    text = files("attnspec.codegen.triton").joinpath("library", f"{name}.py").read_text(encoding="utf-8")
    return text.split(_MARK, 1)[1].strip("\n")
