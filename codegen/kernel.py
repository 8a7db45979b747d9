"""From a plan to the text of a kernel: one C++ translation unit for one direction, element type and head size."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from attnspec import expr as e
from attnspec.bind import bind
from attnspec.bounds import fits
from attnspec.codegen import cxx
from attnspec.codegen.key import NARROW_LENGTH, WIDE_LENGTH, KernelKey
from attnspec.codegen.plan import ClassPlan, Plan, Sweep
from attnspec.error import SpecError
from attnspec.mistakes_of_relation import too_large_for_kernels

_DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
_SHARED = ("vector", "tensor", "gemm", "pack", "mask", "tile", "parallel")
_LIBRARY = {
    "forward": (*_SHARED, "forward"),
    "backward": (*_SHARED, "backward", "backward_keys", "backward_plan"),
}
_HEADER = "#include <cstdint>\n"


def kernel(plan: Plan, key: KernelKey) -> str:
    """The C++ text. Raises SpecError where a predicate overflows 64-bit positions."""
    classes = [_class(plan, item, number, key) for number, item in enumerate(plan.classes)]
    wide = key.wide or any(not fits(_pred(plan, item), NARROW_LENGTH, 32) for item in plan.classes)
    title = f"{key.direction} pass, {key.dtype}, head size {key.dim} (values {key.dim_v})"
    comment = "\n".join(f"// {line}".rstrip() for line in f"{plan.relation.spec}\n\n{plan}".splitlines())
    library = [_read(name) for name in _LIBRARY[key.direction]]
    return "\n".join(
        [
            f"// attnspec: {plan.relation.spec.name}, {title}",
            "//",
            comment,
            "",
            _defines(plan, key, wide),
            *library,
            "namespace attnspec {\n",
            cxx.HELPERS,
            *classes,
            _pattern(plan),
            "}  // namespace attnspec\n",
            _read("entry"),
        ]
    )


def peak_kernel(dtype: str) -> str:
    """A translation unit that measures the processor: the rate of multiply-adds on registers for an element type."""
    sizes = dict.fromkeys(("ATTNSPEC_D", "ATTNSPEC_DV", "ATTNSPEC_BM", "ATTNSPEC_BN"), 64)
    parts = [_read(name) for name in ("vector", "tensor", "gemm", "peak")]
    return "\n".join([_define({"ATTNSPEC_DTYPE": _DTYPES[dtype], **sizes}), *parts])


def _define(values: Mapping[str, int | str]) -> str:
    return _HEADER + "".join(f"#define {name} {value}\n" for name, value in values.items())


def _defines(plan: Plan, key: KernelKey, wide: bool) -> str:
    values: dict[str, int | str] = {
        f"ATTNSPEC_{key.direction.upper()}": 1,
        "ATTNSPEC_DTYPE": _DTYPES[key.dtype],
        "ATTNSPEC_D": key.dim,
        "ATTNSPEC_DV": key.dim_v,
        "ATTNSPEC_BM": plan.tile.rows,
        "ATTNSPEC_BN": plan.tile.columns,
        "ATTNSPEC_POS": "int64_t" if wide else "int32_t",
    }
    return _define(values)


def _read(name: str) -> str:
    return files("attnspec.codegen").joinpath("cpp", f"{name}.hpp").read_text(encoding="utf-8")


def _pred(plan: Plan, item: ClassPlan) -> e.Pred:
    """The pattern with what is known of a class of heads put in."""
    spec = plan.relation.spec
    values = dict(plan.relation.known)
    if item.heads is not None:
        values["h"] = item.heads[0]
    return bind(spec.pred, values)


def _class(plan: Plan, item: ClassPlan, number: int, key: KernelKey) -> str:
    pred = _pred(plan, item)
    if not fits(pred, WIDE_LENGTH, 64):
        span = plan.relation.spec.span
        raise SpecError([too_large_for_kernels(span, WIDE_LENGTH.bit_length() - 1)])
    arguments = "int64_t h, int64_t b, const Sizes& s, Full&& full, Partial&& partial"
    return f"""\
struct Class{number} {{
    static inline bool allowed(pos q, pos k, pos h, pos b, const Sizes& s) {{
        (void)q, (void)k, (void)h, (void)b, (void)s;
        return {cxx.predicate(pred)};
    }}
    template <class Full, class Partial>
    static void forward(int64_t i, {arguments}) {{
        (void)i, (void)h, (void)b, (void)s, (void)full, (void)partial;
{_sweep(item.forward, "i")}
    }}
    template <class Full, class Partial>
    static void backward(int64_t j, {arguments}) {{
        (void)j, (void)h, (void)b, (void)s, (void)full, (void)partial;
{_sweep(item.backward, "j")}
    }}
}};
"""


def _sweep(sweep: Sweep, outer: str) -> str:
    if sweep.full is None or sweep.partial is None:
        return f"        visit_table(s.{'rows' if outer == 'i' else 'columns'}, {outer}, h, b, s, full, partial);"
    return "\n".join(filter(None, (cxx.statements(sweep.full, "full", 2), cxx.statements(sweep.partial, "partial", 2))))


def _pattern(plan: Plan) -> str:
    """The dispatch over classes of heads; inner loops are instantiated for each class."""
    numbers = range(len(plan.classes))
    if len(plan.classes) == 1:
        dispatch = "        (void)h;\n        return f(Class0{});"
    else:
        heads = plan.relation.heads or 0
        of_head = [next(n for n in numbers if h in (plan.classes[n].heads or ())) for h in range(heads)]
        cases = "\n".join(f"            case {n}: return f(Class{n}{{}});" for n in numbers[:-1])
        dispatch = (
            f"        static constexpr uint16_t class_of[] = {{{', '.join(map(str, of_head))}}};\n"
            f"        switch (class_of[h]) {{\n{cases}\n"
            f"            default: return f(Class{numbers[-1]}{{}});\n        }}"
        )
    align = "true" if plan.relation.spec.align == "end" else "false"
    return f"""\
struct Pattern {{
    static constexpr bool align_end = {align};
    // Calls f with the class of a head: its loops and its predicate are then known at compile time.
    template <class F> static inline auto visit(int64_t h, F&& f) {{
{dispatch}
    }}
    template <class Full, class Partial>
    static void forward(int64_t i, int64_t h, int64_t b, const Sizes& s, Full&& full, Partial&& partial) {{
        visit(h, [&](auto c) {{ decltype(c)::forward(i, h, b, s, full, partial); }});
    }}
    template <class Full, class Partial>
    static void backward(int64_t j, int64_t h, int64_t b, const Sizes& s, Full&& full, Partial&& partial) {{
        visit(h, [&](auto c) {{ decltype(c)::backward(j, h, b, s, full, partial); }});
    }}
}};
"""
