"""From a plan to the text of a kernel: one C++ translation unit for one direction, element type and head size."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from math import log2

from attnspec.bounds import fits
from attnspec.codegen import cxx, cxx_real
from attnspec.codegen.inputs import names
from attnspec.codegen.key import NARROW_LENGTH, WIDE_LENGTH, KernelKey
from attnspec.codegen.layout import Columns, Grid, Slots
from attnspec.codegen.plan import Pass, Plan, Sweep
from attnspec.error import SpecError
from attnspec.mistakes_of_relation import too_large_for_kernels

_DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
_BASE = ("vector", "tensor", "input", "real")
_SHARED = ("gemm", "pack", "place", "mask", "tile", "parallel", "tasks")
_LIBRARY = {
    "forward": (*_SHARED, "forward"),
    "backward": (*_SHARED, "backward", "backward_keys", "backward_plan"),
}
_HEADER = "#include <cstdint>\n"


def kernel(plan: Plan, key: KernelKey) -> str:
    """The C++ text. Raises SpecError where a predicate overflows 64-bit positions."""
    spec = plan.relation.spec
    reads = names(spec)
    passes = [_pass(plan, item, number, reads) for number, item in enumerate(plan.passes)]
    title = f"{key.direction} pass, {key.dtype}, head size {key.dim} (values {key.dim_v})"
    comment = "\n".join(f"// {line}".rstrip() for line in f"{spec}\n\n{plan}".splitlines())
    return "\n".join(
        [
            f"// attnspec: {spec.name}, {title}",
            "//",
            comment,
            "",
            _defines(plan, key),
            *map(_read, _BASE),
            "namespace attnspec {\n",
            cxx.HELPERS,
            cxx_real.score(spec.score, reads),
            "}  // namespace attnspec\n",
            *map(_read, _LIBRARY[key.direction]),
            "namespace attnspec {\n",
            *passes,
            _pattern(plan),
            "}  // namespace attnspec\n",
            _read("entry"),
        ]
    )


def is_wide(plan: Plan, key: KernelKey) -> bool:
    """Whether a kernel computes positions, and reads integer inputs, in 64 bits."""
    return key.wide or any(not fits(item.pred, NARROW_LENGTH, 32) for item in plan.passes)


def peak_kernel(dtype: str) -> str:
    """A translation unit that measures the processor: the rate of multiply-adds on registers for an element type."""
    sizes = {**dict.fromkeys(("ATTNSPEC_D", "ATTNSPEC_DV", "ATTNSPEC_BM", "ATTNSPEC_BN"), 64), "ATTNSPEC_CARRY": 0}
    parts = [_read(name) for name in ("vector", "tensor", "gemm", "peak")]
    return "\n".join([_define({"ATTNSPEC_DTYPE": _DTYPES[dtype], **sizes}), *parts])


def _define(values: Mapping[str, int | str]) -> str:
    return _HEADER + "".join(f"#define {name} {value}\n" for name, value in values.items())


def _defines(plan: Plan, key: KernelKey) -> str:
    values: dict[str, int | str] = {
        f"ATTNSPEC_{key.direction.upper()}": 1,
        "ATTNSPEC_DTYPE": _DTYPES[key.dtype],
        "ATTNSPEC_D": key.dim,
        "ATTNSPEC_DV": key.dim_v,
        "ATTNSPEC_BM": max(item.tile.rows for item in plan.passes),
        "ATTNSPEC_BN": max(item.tile.columns for item in plan.passes),
        "ATTNSPEC_CARRY": int(plan.carry),
        "ATTNSPEC_POS": "int64_t" if is_wide(plan, key) else "int32_t",
    }
    return _define(values)


def _read(name: str) -> str:
    return files("attnspec.codegen").joinpath("cpp", f"{name}.hpp").read_text(encoding="utf-8")


def _pass(plan: Plan, item: Pass, number: int, reads: Mapping[str, int]) -> str:
    if not fits(item.pred, WIDE_LENGTH, 64):
        span = plan.relation.spec.span
        raise SpecError([too_large_for_kernels(span, WIDE_LENGTH.bit_length() - 1)])
    arguments = "const Place& at, int64_t h, int64_t b, const Sizes& s, Full&& full, Partial&& partial"
    stride = item.layout.residues
    listed = isinstance(item.layout, (Grid, Slots)), isinstance(item.layout, (Grid, Slots, Columns))
    return f"""\
// {item.title}
struct Pass{number} {{
    static constexpr int NUMBER = {number}, BRANCH = {item.branch}, BM = {item.tile.rows}, BN = {item.tile.columns};
    static constexpr int64_t STRIDE = {stride};
    static constexpr bool LISTED_QUERIES = {_bool(listed[0])}, LISTED_KEYS = {_bool(listed[1])};
    static constexpr float TIMES = {log2(item.times)!r}f;  // log2 of {item.times}
    static ATTNSPEC_INLINE bool allowed(pos q, pos k, pos q_slot, pos k_slot, pos h, pos b, const Sizes& s) {{
        (void)q, (void)k, (void)q_slot, (void)k_slot, (void)h, (void)b, (void)s;
        return {cxx.predicate(item.pred, reads)};
    }}
    template <class Full, class Partial>
    static void forward(int64_t i, {arguments}) {{
        const int64_t c = at.c;
        (void)i, (void)c, (void)h, (void)b, (void)s, (void)full, (void)partial;
{_sweep(item.forward, "i")}
    }}
    template <class Full, class Partial>
    static void backward(int64_t j, {arguments}) {{
        const int64_t c = at.c;
        (void)j, (void)c, (void)h, (void)b, (void)s, (void)full, (void)partial;
{_sweep(item.backward, "j")}
    }}
}};
"""


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _sweep(sweep: Sweep, outer: str) -> str:
    if sweep.full is None or sweep.maybe is None or sweep.partial is None:
        which = "rows" if outer == "i" else "columns"
        return f"        visit_table(s.passes[NUMBER].{which}, {outer}, h, b, s, full, partial);"
    kinds = ((sweep.full, "full"), (sweep.maybe, "partial"), (sweep.partial, "partial"))
    return "\n".join(filter(None, (cxx.statements(loops, visit, 2) for loops, visit in kinds)))


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

    if len(plan.classes) == 1:
        dispatch = f"        (void)h;\n{passes(0)}"
    else:
        heads = plan.relation.heads or 0
        of_head = [next(n for n in numbers if h in (plan.classes[n].heads or ())) for h in range(heads)]
        cases = "\n".join(f"            case {n}:\n{passes(n)}" for n in numbers)
        dispatch = (
            f"        static constexpr uint16_t class_of[] = {{{', '.join(map(str, of_head))}}};\n"
            f"        switch (class_of[h]) {{\n{cases}\n        }}"
        )
    return f"""\
struct Pattern {{
    static constexpr bool align_end = {_bool(plan.relation.spec.align == "end")};
    static constexpr int INPUTS = {len(names(plan.relation.spec))};
    static constexpr int PASSES = {max(len(item.passes) for item in plan.classes)};
    static constexpr bool REPEATS = {_bool(plan.relation.spec.order is not None)};  // a key may have several slots
    // Calls f with a pass of a head, if it has that many: its loops and its predicate are then known at compile time.
    template <class F> static inline void visit(int64_t h, int number, F&& f) {{
{dispatch}
    }}
}};
"""
