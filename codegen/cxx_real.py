"""Score expressions as C++ on vectors: what a kernel calls for W pairs at once, with the derivatives (DESIGN 2.9).

>>> from attnspec.expr import Add, Mul, Int, Var
>>> from attnspec.real import Cast, Product, RealRead, Score, Total
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

import math
from collections.abc import Mapping

from attnspec import expr as e
from attnspec import real as r
from attnspec.codegen.cxx import NO_NAMES
from attnspec.codegen.cxx_lanes import Lanes
from attnspec.derive import Leaf, derivatives

_POSITIONS = frozenset({"q", "k"})
_ARGUMENTS = "Q q_at, K k_at, pos h, pos b, const Sizes& z"
_UNUSED = "(void)h, (void)b, (void)z;"
_PLACES = "const auto q = positions(q_at);\n        const auto k = positions(k_at);\n        (void)q, (void)k, "


def score(real: r.RealExpr, names: Mapping[str, int] = NO_NAMES) -> str:
    """The text of ``struct Score``. ``names`` gives the place of each input that is read in ``Sizes::inputs``."""
    if e.free(real) & e.SLOTS:
        raise ValueError("a score cannot depend on `q.slot` or `k.slot`")
    slopes = derivatives(real)
    entries = [leaf for leaf in slopes if isinstance(leaf, r.RealRead)]
    sums = {leaf: number for number, leaf in enumerate(entry for entry in entries if not _moves(entry))}
    return f"""\
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
{_backward(slopes, entries, sums, names)}
    }}
    static void flush(const vfloat* sum, pos h, pos b, const Sizes& z, const Gradients& d) {{
        (void)sum, (void)d, {_UNUSED}
{_flush(sums, names)}
    }}
}};
"""


def _value(real: r.RealExpr, names: Mapping[str, int]) -> str:
    body = Lanes(names)
    result = body.real(real)
    return _lines([*body.lines, f"return lanes({result});"])


def _backward(
    slopes: Mapping[Leaf, r.RealExpr],
    entries: list[r.RealRead],
    sums: Mapping[r.RealRead, int],
    names: Mapping[str, int],
) -> str:
    body = Lanes(names)
    slope = slopes.get(r.Score())
    result = "vfloat{}" if slope is None else _scaled(body, slope)
    outputs: list[str] = []
    for entry in entries:
        to = f"d.of[{names[entry.name]}]"
        indices, ok = body.indices(entry.indices)
        amount = _scaled(body, slopes[entry])
        if ok is not None:
            amount = f"choose({ok}, {amount}, 0.f)"
        if entry in sums:
            outputs.append(f"if ({to}.data) sum[{sums[entry]}] += {amount};")
        else:
            outputs.append(f"if ({to}.data) add({', '.join([to, body.input(entry.name), amount, *indices])});")
    wanted = ["if (d.of) {", *(f"    {line}" for line in outputs), "}"] if outputs else []
    return _lines([*body.lines, *wanted, f"return {result};"])


def _flush(sums: Mapping[r.RealRead, int], names: Mapping[str, int]) -> str:
    body = Lanes(names)
    outputs: list[str] = []
    for entry, number in sums.items():
        to = f"d.of[{names[entry.name]}]"
        indices, ok = body.indices(entry.indices)
        condition = f"{to}.data" if ok is None else f"{to}.data && {ok}"
        outputs.append(f"if ({condition}) add({', '.join([to, body.input(entry.name), f'sum[{number}]', *indices])});")
    return _lines([*body.lines, *outputs])


def _lines(lines: list[str]) -> str:
    return "\n".join(f"        {line}" for line in lines)


def _moves(entry: r.RealRead) -> bool:
    """Whether the place of an entry differs between the pairs of one head and batch entry."""
    return bool(e.free(entry) & _POSITIONS)


def _finite(real: r.RealExpr) -> bool:
    """Whether a real surely is finite, so that 0 times it is 0."""
    match real:
        case r.Real(value):
            return math.isfinite(value)
        case r.Cast():
            return True
        case r.Total() | r.Product():
            return all(_finite(child) for child in real.children() if isinstance(child, r.RealExpr))
    return False


def _scaled(body: Lanes, slope: r.RealExpr) -> str:
    """The incoming gradient times a derivative; 0 where the gradient is 0."""
    if slope == r.Real(1.0):
        return "g"
    factor = body.real(slope)
    return body.named(f"g * {factor}" if _finite(slope) else f"guarded(g, {factor})")
