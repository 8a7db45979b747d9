"""Score expressions as C++ on vectors: what a kernel calls for W pairs at once, with the derivatives.

>>> from attnspec.spec.expr import Add, Mul, Int, Var
>>> from attnspec.spec.real import Cast, Product, RealRead, Score, Total
>>> steps = Cast(Add((Var("k"), Mul(Int(-1), Var("q")))))
>>> text = score(Total((Score(), Product(RealRead("slope", (Var("h"),)), steps))), {"slope": 0})
>>> print(text[text.index("const auto t0") : text.index("return")])
const auto t0 = read<float>(z.inputs[0], h);
        const auto t1 = k - q;
        const auto t2 = real(t1);
        const auto t3 = t0 * t2;
        const auto t4 = s + t3;
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnspec.codegen.cpp.lanes import cxx_syntax, member
from attnspec.codegen.cpp.scalars import NO_NAMES
from attnspec.codegen.expressions.arguments import Argument, arguments
from attnspec.codegen.expressions.slopes import Entry, Slopes, contribution, scaled, slopes
from attnspec.codegen.expressions.statements import Statements
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import real as r

_ARGUMENTS = "Q q_at, K k_at, pos h, pos b, const Scored& z"
_UNUSED = "(void)h, (void)b, (void)z;"
_PLACES = "const auto q = positions(q_at);\n        const auto k = positions(k_at);\n        (void)q, (void)k, "


def score(real: r.RealExpr, names: Mapping[str, int] = NO_NAMES) -> str:
    """The text of ``struct Score``. ``names`` gives the place of each input that is read in ``Sizes::inputs``."""
    if contents.free(real) & e.SLOTS:
        raise ValueError("a score cannot depend on `q.slot` or `k.slot`")
    by = slopes(real)
    found = arguments(real)
    real = found.lifted
    sums = [entry for entry in by.entries if not entry.moves]
    return f"""\
{_scored(found.all, names)}
// The score of a pair: {real}
struct Score {{
    static constexpr bool IDENTITY = {"true" if real == r.Score() else "false"};
    static constexpr int SUMS = {len(sums)};
    template <class Q, class K>
    static ATTNSPEC_INLINE vfloat value(vfloat s, {_ARGUMENTS}) {{
        {_PLACES}{_UNUSED}
{_value(real, names)}
    }}
    template <class Q, class K>
    static ATTNSPEC_INLINE vfloat backward(vfloat g, vfloat s, {_ARGUMENTS}, const Gradients& d, vfloat* sum) {{
        {_PLACES}(void)s, (void)d, (void)sum, {_UNUSED}
{_backward(by, sums, names)}
    }}
    static void flush(const vfloat* sum, pos h, pos b, const Scored& z, const Gradients& d) {{
        (void)sum, (void)d, {_UNUSED}
{_flush(sums, names)}
    }}
}};
"""


def entrywise(namespace: str, real: r.RealExpr) -> str:
    """The text of ``features`` of numbers ``s``, and of what gradients of features become: a function of them alone."""
    return f"""\
// {real}, and its gradient
namespace {namespace} {{
    static ATTNSPEC_INLINE vfloat features(vfloat s) {{
{_value(real, NO_NAMES)}
    }}
    static ATTNSPEC_INLINE vfloat gradient(vfloat g, vfloat s) {{
        (void)s;
{_backward(slopes(real), [], NO_NAMES)}
    }}
}}
"""


def _scored(found: Sequence[Argument], names: Mapping[str, int]) -> str:
    """The text of ``struct Scored``: what a score reads, with the reals in it, which loops keep in registers."""
    reals = [one.name for one in found if not one.shape]
    members = [f"    float {member(name)};" for name in reals]
    loads = [f"{member(name)} = read<float>(s.inputs[{names[name]}]);" for name in reals]
    made = "    Scored(const Sizes& s) : Sizes(s) {" + "".join(f"\n        {load}" for load in loads)
    return "\n".join(["struct Scored : Sizes {", *members, f"{made}\n    }}" if loads else f"{made}}}", "};"])


def _value(real: r.RealExpr, names: Mapping[str, int]) -> str:
    body = Statements(cxx_syntax(names))
    result = body.real(real)
    return _lines([*body.lines, f"return lanes({result});"])


def _backward(by: Slopes, sums: list[Entry], names: Mapping[str, int]) -> str:
    body = Statements(cxx_syntax(names))
    result = "vfloat{}" if by.score is None else scaled(body, by.score)
    outputs: list[str] = []
    for entry in by.entries:
        to = f"d.of[{names[entry.name]}]"
        indices, amount = contribution(body, entry)
        if entry in sums:
            outputs.append(f"if ({to}.data) sum[{sums.index(entry)}] += {amount};")
        else:
            outputs.append(f"if ({to}.data) {_add(entry, amount, indices, names)}")
    wanted = ["if (d.of) {", *(f"    {line}" for line in outputs), "}"] if outputs else []
    return _lines([*body.lines, *wanted, f"return {result};"])


def _flush(sums: list[Entry], names: Mapping[str, int]) -> str:
    body = Statements(cxx_syntax(names))
    outputs: list[str] = []
    for number, entry in enumerate(sums):
        to = f"d.of[{names[entry.name]}]"
        indices, ok = body.indices(entry.indices)
        condition = f"{to}.data" if ok is None else f"{to}.data && {ok}"
        outputs.append(f"if ({condition}) {_add(entry, f'sum[{number}]', indices, names)}")
    return _lines([*body.lines, *outputs])


def _add(entry: Entry, amount: str, indices: list[str], names: Mapping[str, int]) -> str:
    place = names[entry.name]
    return f"add({', '.join([f'd.of[{place}]', f'z.inputs[{place}]', amount, *indices])});"


def _lines(lines: list[str]) -> str:
    return "\n".join(f"        {line}" for line in lines)
