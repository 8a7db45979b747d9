"""From plans to the text of a Python module with Triton kernels: it imports torch and triton, and nothing else.

The module has ``forward`` and ``backward`` (see ``triton/host.py``), which allocate, launch the kernels of all passes and
return tensors. Each of its three kinds of kernels has a plan of its own, since each has a tile size of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from attnspec.bounds import fits
from attnspec.codegen import triton_decide, triton_launch, triton_sums, triton_values
from attnspec.codegen.inputs import names
from attnspec.codegen.key import NARROW_LENGTH
from attnspec.codegen.layout import Columns, Slots
from attnspec.codegen.plan import Plan
from attnspec.codegen.ragged import ragged
from attnspec.codegen.triton_launch import Launch
from attnspec.codegen.triton_pass import FORWARD, KEYS, QUERIES, Context, Kind, allowed, kernel
from attnspec.codegen.triton_schedule import Schedule
from attnspec.codegen.triton_values import Function
from attnspec.relation import scalar_reads

_LIBRARY = ("tiles", "values")
_MARK = "# ---- text of generated kernels from here on ----\n"


@dataclass(frozen=True, eq=False)
class Plans:
    """The plans of the three kinds of kernels."""

    forward: Plan
    queries: Plan
    keys: Plan

    def of(self, kind: Kind) -> Plan:
        """The plan of a kind."""
        return {FORWARD: self.forward, QUERIES: self.queries, KEYS: self.keys}[kind]


@dataclass(frozen=True)
class TritonKey:
    """What a module is specialised for: head sizes of query and value, positions in 64 bits or not."""

    dim: int
    dim_v: int
    wide: bool = False


def is_wide(plans: Plans, key: TritonKey) -> bool:
    """Whether kernels compute positions, and read integer inputs, in 64 bits."""
    passes = [item for kind in (FORWARD, QUERIES, KEYS) for item in plans.of(kind).passes]
    return key.wide or any(not fits(item.pred, NARROW_LENGTH, 32) for item in passes)


def module(plans: Plans, key: TritonKey, schedule: Schedule) -> str:
    """The Python text of the kernels of a pattern."""
    spec = plans.forward.relation.spec
    own = _context(plans, key)
    parts: list[str] = []
    launches: list[Launch] = []
    for kind in (FORWARD, QUERIES, KEYS):
        made = plans.of(kind)
        number = 0
        for item in made.classes:
            for one in item.passes:
                sweep = ragged(one, spec.align, transposed=kind is KEYS)
                made_kernel = kernel(kind, one, number, sweep, own, item.heads)
                parts.append(made_kernel.text)
                launches.append(Launch(kind, one, number, sweep.tabled, item.heads, made_kernel.parameters))
                number += 1
    functions = _functions(plans, own)
    comment = "\n".join(f"# {line}".rstrip() for line in f"{spec}\n\n{plans.forward}".splitlines())
    return "\n\n".join(
        [
            f'"""attnspec: {spec.name}, head size {key.dim} (values {key.dim_v}). {schedule}"""',
            comment,
            "import functools\n\nimport torch\nimport triton\nimport triton.language as tl",
            *(_read(name) for name in _LIBRARY),
            *(f"\n{text}" for text in functions),
            *(f"\n{text}" for text in parts),
            _constants(plans, launches),
            *(f"\n{text}" for text in triton_sums.kernels(own)),
            _read("host"),
            triton_launch.launches(launches, schedule, own),
        ]
    )


def _context(plans: Plans, key: TritonKey) -> Context:
    spec = plans.forward.relation.spec
    reads = names(spec)
    return Context(
        key.dim,
        key.dim_v,
        "tl.int64" if is_wide(plans, key) else "tl.int32",
        spec.align,
        spec.score,
        triton_values.value(spec.score),
        triton_values.gradient(spec.score),
        {
            name: triton_values.integer(read, f"scalar_{name}")
            for read, name in scalar_reads(spec).items()
            if read.name in reads
        },
        plans.forward.carry or plans.queries.carry,
        _adds(plans),
        spec.detached,
    )


def _adds(plans: Plans) -> bool:
    passes = plans.keys.passes
    return len(passes) > 1 or any(isinstance(item.layout, (Columns, Slots)) for item in passes)


def _functions(plans: Plans, own: Context) -> Iterator[str]:
    """The generated functions that kernels call, each once."""
    found: dict[str, Function] = {}
    if own.scored:
        found |= {f.name: f for f in (own.value, own.gradient.function, *(x.place for x in own.gradient.entries))}
    found |= {f.name: f for f in own.scalars.values()}
    for kind in (FORWARD, QUERIES, KEYS):
        for number, item in enumerate(plans.of(kind).passes):
            for function in (allowed(item, number), *triton_decide.functions(item)):
                found.setdefault(function.name, function)
    return iter(f.text for f in found.values())


def _constants(plans: Plans, launches: list[Launch]) -> str:
    spec = plans.forward.relation.spec
    carry = plans.forward.carry or plans.queries.carry
    branches = len(spec.branches) if spec.detached else 0
    shares = not carry and not branches and not any(one.tabled for one in launches if one.kind is FORWARD)
    return "\n".join(
        [
            f"CARRY = {carry}  # passes add to results that are there already",
            f"ADDS = {_adds(plans)}  # passes add to gradients of keys",
            f"LARGEST_ROW = {_largest_row(plans)}  # the distance of two rows up to which a tile's offsets fit 32 bits",
            f"BRANCHES = {branches}  # softmaxes whose outputs are kept apart",
            f"REPEATS = {spec.order is not None}  # a key may have several slots",
            f"SHARES = {shares}  # the keys of a query tile may be cut into parts that run side by side",
            f"GIVEN = {tuple(triton_launch.given_names(launches))!r}  # what the kernels read beside q, k and v",
        ]
    )


def _largest_row(plans: Plans) -> int:
    passes = [item for kind in (FORWARD, QUERIES, KEYS) for item in plans.of(kind).passes]
    return (1 << 30) // max(item.layout.residues * max(item.tile.rows, item.tile.columns) for item in passes)


def _read(name: str) -> str:
    text = files("attnspec.codegen").joinpath("triton", f"{name}.py").read_text(encoding="utf-8")
    return text.split(_MARK, 1)[1].strip("\n")
