"""A pass as a C++ struct: its predicate, its loops over tiles, and what it asks of the inputs before visiting one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log2

from attnspec.codegen.cpp import lanes as cxx_lanes
from attnspec.codegen.cpp import scalars as cxx
from attnspec.codegen.cpp.loops import statements
from attnspec.codegen.cpp.unit import boolean
from attnspec.codegen.plan.corners import Limit
from attnspec.codegen.plan.plan import Pass, Sweep
from attnspec.codegen.plan.spans import ALWAYS
from attnspec.spec import contents
from attnspec.spec import expr as e

# The same for W pairs at once: compilers do not see vectors through the guards around what is read.
_LANES = """\
    template <class Q, class K, class QS, class KS>
    static ATTNSPEC_INLINE vint allowed_lanes(Q q, K k, QS q_slot, KS k_slot, pos h, pos b, const Sizes& s) {{
        (void)q, (void)k, (void)q_slot, (void)k_slot, (void)h, (void)b, (void)s;
        {}
    }}
"""
_CORNERS = (
    "const int64_t {side}_first_ = {name}_extent.first, {side}_last_ = {name}_extent.last; "
    "(void){side}_first_, (void){side}_last_;"
)
_TWICE = "for (const auto& [lo, hi] : window.apart(one, other)) {"
_ARGUMENTS = "const Place& at, int64_t h, int64_t b, const Sizes& s, Full&& full, Partial&& partial"


def pass_struct(
    pass_: Pass, number: int, reads: Mapping[str, int], scalars: Mapping[e.Read, str], runs: bool = False
) -> str:
    """``struct Pass<number>``. ``reads`` are the places of inputs, ``scalars`` the reads that loops know by name.

    With ``runs`` it visits full tiles that follow one another at once, and says how often pairs count.
    """
    queries_listed, keys_listed = pass_.layout.listed
    rest = pass_.tests.rest(pass_.pred)
    inputs = any(isinstance(node, (e.Read, e.Flag, e.Among)) for node in contents.walk(rest))
    lanes = _LANES.format("\n        ".join(cxx_lanes.mask(rest, reads))) if inputs else ""
    count = f"    static constexpr float COUNT = {pass_.times};\n" if runs else ""
    return f"""\
// {pass_.title}
struct Pass{number} {{
    static constexpr int NUMBER = {number}, BRANCH = {pass_.branch}, BM = {pass_.tile.rows}, BN = {pass_.tile.columns};
    static constexpr int64_t STRIDE = {pass_.layout.residues};
    static constexpr bool LISTED_QUERIES = {boolean(queries_listed)}, LISTED_KEYS = {boolean(keys_listed)};
    static constexpr bool READS = {boolean(inputs)};  // the predicate reads inputs
    static constexpr bool BY_HEAD = {boolean("h" in contents.free(pass_.pred))};  // it tells heads apart
    static constexpr float TIMES = {log2(pass_.times)!r}f;  // log2 of {pass_.times}
{count}    static ATTNSPEC_INLINE bool allowed(pos q, pos k, pos q_slot, pos k_slot, pos h, pos b, const Sizes& s) {{
        (void)q, (void)k, (void)q_slot, (void)k_slot, (void)h, (void)b, (void)s;
        return {cxx.predicate(rest, reads)};
    }}
{lanes}    template <class Full, class Partial>
    static void forward(int64_t i, {_ARGUMENTS}) {{
{_body(pass_, f"Pass{number}", pass_.forward, "i", reads, scalars, runs)}
    }}
    template <class Full, class Partial>
    static void backward(int64_t j, {_ARGUMENTS}) {{
{_body(pass_, f"Pass{number}", pass_.backward, "j", reads, scalars, runs)}
    }}
}};
"""


def _body(
    pass_: Pass,
    struct: str,
    sweep: Sweep,
    outer: str,
    reads: Mapping[str, int],
    scalars: Mapping[e.Read, str],
    runs: bool,
) -> str:
    lines = ["const int64_t c = at.c;"]
    lines += [
        f"const int64_t {name} = {cxx.term(read, reads)};" for read, name in scalars.items() if read.name in reads
    ]
    lines.append(f"const Span within = tiles_of({'at.key_slots, BN' if outer == 'i' else 'at.query_slots, BM'});")
    unused = [
        outer,
        "c",
        "within",
        "h",
        "b",
        "s",
        "full",
        "partial",
        *(n for r, n in scalars.items() if r.name in reads),
    ]
    lines.append(" ".join(f"(void){name}," for name in unused).rstrip(",") + ";")
    lines += _decisions(pass_, struct, outer, reads)
    full, maybe, partial = ("full", "maybe", "some") if pass_.tests.asks else ("full",) + ("partial",) * 2
    text = "\n".join(f"        {line}" for line in lines) + "\n"
    if sweep.full is None or sweep.maybe is None or sweep.partial is None:
        which = "rows" if outer == "i" else "columns"
        return text + f"        visit_table(s.passes[NUMBER].{which}, {outer}, h, b, s, within, {full}, {partial});"
    kinds = ((sweep.full, full), (sweep.maybe, maybe), (sweep.partial, partial))
    spans = bool(pass_.tests.spans("q" if outer == "i" else "k"))
    within = "" if pass_.tests.bounded else "within"  # what inputs leave is within it already
    depth = 3 if spans else 2
    texts = (statements(nest, visit, depth, within, runs and visit == "full") for nest, visit in kinds)
    loops = "\n".join(filter(None, texts))
    return f"{text}        {_TWICE}\n{loops}\n        }}" if spans else text + loops


def _decisions(pass_: Pass, struct: str, outer: str, reads: Mapping[str, int]) -> Iterator[str]:
    """The window of tiles that inputs leave, and what is asked of each tile in it."""
    tests = pass_.tests
    if not tests.asks:
        return
    extents = {
        "i": f"const Extent query_extent = extent_of<{struct}>(at, at.queries, at.query_slots, i, BM);",
        "j": f"const Extent key_extent = extent_of<{struct}>(at, at.keys, at.key_slots, j, BN);",
    }
    here, there, inner, size = ("query", "key", "j", "BN") if outer == "i" else ("key", "query", "i", "BM")
    yield extents[outer]
    yield f"if ({here}_extent.last < {here}_extent.first) return;"
    for n, run in enumerate(tests.runs):
        yield f"const Sorted query_run{n} = {_row(run.query, reads)}, key_run{n} = {_row(run.key, reads)};"
    yield "Window window = {within.begin, within.end - 1};"
    for n, run in enumerate(tests.runs):
        if run.atom in tests.required:
            yield f"narrow<{struct}>(window, at, {here}_run{n}, {here}_extent, {there}_run{n}, {size});"
    corners = {side: _CORNERS.format(side=side, name=name) for side, name in (("q", "query"), ("k", "key"))}
    if tests.corners:
        yield corners[here[0]]
    if tests.alive(here[0]) != ALWAYS:
        yield f"if (!({cxx.predicate(tests.alive(here[0]), reads, wide=True)})) return;"
    yield from (f"limit<{struct}>(window, at, {_ends(one, reads)}, {size});" for one in tests.limits(here[0]))
    for name, span in zip(("one", "other"), tests.spans(here[0]), strict=False):
        yield f"Window {name} = window;"
        yield from (f"limit<{struct}>({name}, at, {_ends(one, reads)}, {size});" for one in span.limits)
        if span.alive != ALWAYS:
            yield f"if (!({cxx.predicate(span.alive, reads, wide=True)})) {name}.hi = {name}.lo - 1;"
    yield "const int64_t lo = window.lo, hi = window.hi;"
    yield "(void)lo, (void)hi;"
    skip = [_block(atom, reads) for atom in tests.blocks if atom in tests.required]
    skip += [f"({cxx.predicate(tests.live, reads, wide=True)})"] if tests.live != ALWAYS else []
    keep = " && ".join(skip) or "true"
    yield f"const auto some = [&](int64_t {inner}) {{"
    yield f"    {extents[inner]}"
    yield f"    (void){there}_extent;"
    yield from [f"    {corners[there[0]]}"] if tests.corners else []
    yield f"    if ({keep}) partial({inner});"
    yield "};"
    holds = [f"one_run(query_run{n}, query_extent, key_run{n}, key_extent)" for n, _ in enumerate(tests.runs)]
    holds += [_block(atom, reads) for atom in tests.blocks if atom not in tests.required]
    holds += [f"({cxx.predicate(tests.every, reads, wide=True)})"] if tests.every != ALWAYS else []
    whole = " && ".join(holds) or "true"
    yield f"const auto maybe = [&](int64_t {inner}) {{"
    yield f"    {extents[inner]}"
    yield f"    (void){there}_extent;"
    yield from [f"    {corners[there[0]]}"] if tests.corners else []
    yield f"    if (!({keep})) return;"
    yield f"    if ({whole if tests.whole else 'false'})"
    yield f"        full({inner});"
    yield "    else"
    yield f"        partial({inner});"
    yield "};"
    yield "(void)some, (void)maybe;"


def _ends(bounds: Limit, reads: Mapping[str, int]) -> str:
    """Two arguments: from where to where places lie."""
    ends = (("INT64_MIN", bounds.low), ("INT64_MAX", bounds.high))
    return ", ".join(far if end is None else f"int64_t({cxx.term(end, reads, wide=True)})" for far, end in ends)


def _row(read: e.Read, reads: Mapping[str, int]) -> str:
    lead = [f"pos({cxx.term(index, reads)})" for index in read.indices[:-1]]
    return f"sorted_row({', '.join([f's.inputs[{reads[read.name]}]', *lead])})"


def _block(atom: e.Pred, reads: Mapping[str, int]) -> str:
    """An atom that has one value in a tile, at the tile's first pair."""
    text = cxx.predicate(atom, reads)
    return f"[&](pos q, pos k) {{ (void)q, (void)k; return {text}; }}((pos)query_extent.first, (pos)key_extent.first)"
