"""From a plan to the text of a kernel: one C++ translation unit for one direction, element type and head size."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.cpp import scalars as cxx
from attnspec.codegen.cpp import score as cxx_real
from attnspec.codegen.cpp.passes import pass_struct
from attnspec.codegen.cpp.unit import DTYPES, LOGS, KernelKey, LinearKey, boolean, define, read, without_plan
from attnspec.codegen.expressions.arguments import comment
from attnspec.codegen.expressions.entrywise import entrywise
from attnspec.codegen.expressions.reads import names, places, require_softmax
from attnspec.codegen.plan import lengths
from attnspec.codegen.plan.plan import Plan
from attnspec.relation.relation import scalar_reads
from attnspec.spec.real import Score
from attnspec.spec.spec import Spec

_BASE = ("vector", "tensor", "input", "real")
_SHARED = ("gemm", "pack", "place", "decide", "mask", "tile", "parallel", "tasks")
_LINEAR = (
    *_SHARED[:-1],
    "linear/ahead",
    "linear/products",
    "linear/tile",
    "linear/runs",
    "linear/tile_walk",
    "linear/steps",
)
_CHANNEL = ("linear/crossing", "linear/channel", "linear/channel_pairs", "linear/channel_sweep")
_LIBRARY = {
    "forward": (*_SHARED, "turn", "softmax/forward"),
    "decode": (*_SHARED, "turn", "softmax/rows", "softmax/decode", "softmax/decode_plan"),
    "backward": (*_SHARED, "softmax/backward", "softmax/backward_keys", "softmax/backward_plan"),
    "linear": (*_LINEAR, *_CHANNEL, "linear/sweep", "linear/segments"),
    "logs": (*_LINEAR, "linear/log_tile", "linear/log_sweep", "linear/segments"),
    "delta": (*_LINEAR, *_CHANNEL, "linear/sweep", "linear/segments", "linear/delta"),
}


def kernel(plan: Plan, key: KernelKey | LinearKey) -> str:
    """The C++ text. Raises SpecError where a predicate overflows 64-bit positions."""
    if isinstance(key, KernelKey):
        require_softmax(plan.relation.spec)
    lengths.longest([plan])  # or there is none
    spec = plan.relation.spec
    assert not spec.composed, "the branches have kernels of their own"
    reads = places(spec)
    scalars = scalar_reads(spec)
    linear = isinstance(key, LinearKey)
    passes = [pass_struct(pass_, number, reads, scalars, linear) for number, pass_ in enumerate(plan.passes)]
    head = "\n".join(f"// {line}".rstrip() for line in f"{comment(spec)}\n\n{plan}".splitlines())
    return "\n".join(
        [
            f"// attnspec: {spec.name}, {key}",
            "//",
            head,
            "",
            _defines(plan, key),
            *map(read, _BASE),
            "namespace attnspec {\n",
            cxx.HELPERS,
            cxx_real.score(spec.score, reads),
            *(_features(spec) if isinstance(key, LinearKey) else ()),
            "}  // namespace attnspec\n",
            *map(read, _LIBRARY["logs" if isinstance(key, LinearKey) and key.logs else key.direction]),
            "namespace attnspec {\n",
            *passes,
            _pattern(plan),
            "}  // namespace attnspec\n",
            read("entry"),
        ]
    )


def _features(spec: Spec) -> Iterator[str]:
    """What features kernels can work out themselves."""
    for side, feature in (("q", spec.weights.q), ("k", spec.weights.k)):
        own = None if feature is None else entrywise(feature)
        yield cxx_real.entrywise(f"of_{side}", Score() if own is None else own)


def is_wide(plan: Plan, key: KernelKey | LinearKey) -> bool:
    """Whether a kernel computes positions, and reads integer inputs, in 64 bits."""
    return key.wide or lengths.is_wide([plan])


def peak_kernel(dtype: str) -> str:
    """A translation unit that measures the processor: the rate of multiply-adds on registers for an element type."""
    return without_plan(dtype, "vector", "tensor", "gemm", "peak")


def _defines(plan: Plan, key: KernelKey | LinearKey) -> str:
    values: dict[str, int | str] = {
        f"ATTNSPEC_{key.direction.upper()}": 1,
        "ATTNSPEC_DTYPE": DTYPES["float32" if isinstance(key, LinearKey) else key.dtype],
        "ATTNSPEC_D": key.dim,
        "ATTNSPEC_DV": key.dim_v,
        "ATTNSPEC_BM": max(pass_.tile.rows for pass_ in plan.passes),
        "ATTNSPEC_BN": max(pass_.tile.columns for pass_ in plan.passes),
        "ATTNSPEC_CARRY": int(plan.carry or key.carry),
        "ATTNSPEC_TIMES": int(any(item.times > 1 for item in plan.passes)),
        "ATTNSPEC_POS": "int64_t" if is_wide(plan, key) else "int32_t",
    }
    if isinstance(key, LinearKey):
        names = (f"ATTNSPEC_{name}" for name in ("X", "Y", "Z", "OUT", "SOURCE", "OUTCOME"))
        types = {name: DTYPES[dtype] for name, dtype in zip(names, key.types, strict=True)}
        types["ATTNSPEC_OUT"] *= not values["ATTNSPEC_CARRY"]  # what passes add to is float32
        names = (f"ATTNSPEC_{name}_MAP" for name in ("X", "Y", "Z", "OUT"))
        maps = {name: " qk".index(side or " ") for name, side in zip(names, key.maps, strict=True)}
        places = {f"ATTNSPEC_{what}": " xyz".index(of or " ") for what, of in (("ONE", key.one), ("UP", key.up))}
        decay = key.decay + " yz".index(key.channels or " ")
        flags = {"KEYS": key.keys, "DECAY": decay, "CROSSING": key.crossing, "LOGS": LOGS.index(key.logs)}
        flags |= {f"{name}_UNIT": unit for name, unit in zip("XY", key.units, strict=True)}
        values |= {**types, **maps, **places, **{f"ATTNSPEC_{name}": int(flag) for name, flag in flags.items()}}
    elif key.turn:
        values |= {"ATTNSPEC_TURN": key.turn, "ATTNSPEC_TURN_PAIRS": int(key.pairs)}
    return define(values)


def _pattern(plan: Plan) -> str:
    """The dispatch over classes of heads and their passes; inner loops are instantiated for each."""
    numbers = range(len(plan.classes))
    start = [sum(len(c.passes) for c in plan.classes[:n]) for n in numbers]

    def passes(n: int) -> str:
        items = "\n".join(
            f"                case {at}: f(Pass{start[n] + at}{{}}); return;"
            for at in range(len(plan.classes[n].passes))
        )
        return f"            switch (number) {{\n{items}\n                default: return;\n            }}"

    of = "(void)h; return 0;"
    if len(plan.classes) == 1:
        dispatch = f"        (void)h;\n{passes(0)}"
    else:
        heads = plan.relation.heads or 0
        of_head = [next(n for n in numbers if h in (plan.classes[n].heads or ())) for h in range(heads)]
        cases = "\n".join(f"            case {n}:\n{passes(n)}" for n in numbers)
        of = f"static constexpr uint16_t of[] = {{{', '.join(map(str, of_head))}}}; return of[h];"
        dispatch = f"        switch (class_of(h)) {{\n{cases}\n        }}"
    return f"""\
struct Pattern {{
    static constexpr int INPUTS = {len(names(plan.relation.spec))};
    static constexpr int PASSES = {max(len(head_class.passes) for head_class in plan.classes)};
    static constexpr bool REPEATS = {boolean(plan.relation.spec.order is not None)};  // a key may have several slots
    static inline int class_of(int64_t h) {{ {of} }}
    // Calls f with a pass of a head, if it has that many: its loops and its predicate are then known at compile time.
    template <class F> static inline void visit(int64_t h, int number, F&& f) {{
{dispatch}
    }}
}};
"""
