// The loops over passes, heads and pieces of the sequence.

#include <optional>

namespace attnspec {

// Whether the query heads of each key head are of one class, and so cut keys into the same tiles.
template <class Pattern>
static bool are_cut_alike(const Sizes& s) {
    const int64_t group = s.query_heads / s.key_heads;
    bool alike = true;
    for (int64_t h = 0; h < s.query_heads; ++h)
        alike &= Pattern::class_of(s.h_start + h) == Pattern::class_of(s.h_start + h / group * group);
    return alike;
}

// Whether the query heads of each key head see the same tiles in a pass.
template <class Pattern>
static bool are_alike(const Sizes& s, int number) {
    bool alike = !Pattern::REPEATS && !DECAY && are_cut_alike<Pattern>(s);  // what decays is of one query head
    for (int64_t h = 0; h < s.query_heads; ++h)
        Pattern::visit(s.h_start + h, number, [&](auto pass) { alike &= !decltype(pass)::BY_HEAD; });
    return alike || s.query_heads == s.key_heads;
}

template <class Pattern>
static int64_t most_residues(const Sizes& s, int number) {
    int64_t most = 1;
    for (int64_t h = 0; h < s.query_heads; ++h)
        Pattern::visit(s.h_start + h, number, [&](auto pass) {
            if (decltype(pass)::STRIDE > most) most = decltype(pass)::STRIDE;
        });
    return most;
}

// Rows of a residue lie apart, between those of its neighbours. Where sequences are long such neighbours go over them side by
// side, a stretch of so many tiles at a time: its pages are looked up, and fetched, for all of them at once. (Stretches are long
// enough that what changing the state takes does not count.)
constexpr int64_t SIDE_BY_SIDE = 8, STRETCH = 16;

// Whether all had memory.
template <class S>
static bool run_together(std::optional<S>* sweeps, int64_t count, int64_t segment, int64_t segments) {
    const int64_t size = count > 1 ? STRETCH : std::numeric_limits<int64_t>::max();
    for (int64_t i = 0; i < count; ++i) sweeps[i]->start();
    bool more = true, complete = true;
    for (int64_t at = 0; more; at += size) {
        more = false;
        for (int64_t i = 0; i < count; ++i) {
            const Span own = sweeps[i]->tiles_of_segment(segment, segments);
            if (count > 1) sweeps[i]->resume();
            sweeps[i]->run(S::stretch(own, at, size));
            more |= own.end - own.begin - at > size;
        }
    }
    for (int64_t i = 0; i < count; ++i) {
        sweeps[i]->end(segment == (KEYS ? 0 : segments - 1));
        complete &= sweeps[i]->is_complete();
    }
    return complete;
}

// Calls f(sweeps, count, query head) for the sweeps of one task: of a unit, which is a query head (`apart`) or a key head, and
// some residues, each with a memory of its own. `step` heads go together.
template <class Pattern, class F>
static void each_sweep(const LinearProblem& p, Space& w, Memory* memories, int number, int64_t b, int64_t unit, Span residues,
                       bool apart, int64_t step, F&& f) {
    const Sizes& s = p.sizes;
    const int64_t group = s.query_heads / s.key_heads, first = apart ? unit : unit * group, end = first + (apart ? 1 : group);
    for (int64_t h = first; h < end; h += step)
        Pattern::visit(s.h_start + h, number, [&](auto pass) {
            using Pass = decltype(pass);
            constexpr int64_t most = Pass::STRIDE < SIDE_BY_SIDE ? Pass::STRIDE : SIDE_BY_SIDE;
            std::optional<Sweep<Pass>> sweeps[most];
            Place at[most];
            const Team queries = {h, step}, key = {h / group, 1};
            int64_t count = 0;
            for (int64_t c = residues.begin; c < residues.end && c < Pass::STRIDE; ++c, ++count) {
                at[count] = place<Pass>(s, c, s.h_start + h, s.b_start + b);
                sweeps[count].emplace(p, s, w, memories[count], at[count], b, KEYS ? key : queries, KEYS ? queries : key);
            }
            if (count) f(sweeps, count, h);
        });
}

// Pass after pass; in each a task are some residues of a head, or of the heads that share their keys. Where there are fewer of
// them than threads, a task is a segment of the sequence; its state begins with what lies before, summed up in parts.
template <class Pattern>
static int linear(const LinearProblem& p) {
    const Sizes& s = p.sizes;
    if (s.entries <= 0 || s.query_heads <= 0 || s.key_heads <= 0 || (KEYS ? s.keys : s.rows) <= 0) return 0;
    const int64_t last[] = {s.entries - 1, (KEYS ? s.key_heads : s.query_heads) - 1, (KEYS ? s.keys : s.rows) - 1, ZC - 1};
    int64_t end = 1;
    for (int i = 0; i < 4; ++i) end += last[i] * p.out.stride[i];
    if (!CARRY) expect_writes((void*)p.out.data, sizeof(OutElem) * end);
    if (BY_CHANNEL && !sum_steps(p)) return 1;
    for (int number = 0; number < Pattern::PASSES; ++number) {
        const bool alike = are_alike<Pattern>(s, number), apart = !KEYS && !alike;
        const bool mixed = KEYS && !are_cut_alike<Pattern>(s);  // heads add to the same keys in other tiles: one task for all
        const int64_t residues = most_residues<Pattern>(s, number), units = apart ? s.query_heads : s.key_heads;
        const int64_t step = alike ? s.query_heads / s.key_heads : 1;
        const int64_t tiles = (KEYS ? s.keys / BN : s.rows / BM) / residues;  // of a residue
        int64_t together = p.threads <= 1 ? SIDE_BY_SIDE : s.entries * units * residues / (2 * p.threads);
        if (together > SIDE_BY_SIDE) together = SIDE_BY_SIDE;
        if (together > residues) together = residues;
        if (together < 1 || mixed || tiles <= 2 * STRETCH) together = 1;
        const int64_t groups = mixed ? 1 : (residues + together - 1) / together, tasks = s.entries * units * groups;
        int64_t segments = Pattern::REPEATS || mixed || p.threads <= 1 ? 1 : (2 * p.threads - 1) / tasks;
        const int64_t most = tiles / 8;  // shorter ones do not pay
        segments = segments > most ? most : segments;
        segments = segments < 1 ? 1 : segments;
        bool complete = true;
        const auto sweeps = [&](int64_t task, Space& w, auto&& f) {
            const int64_t unit = task / groups % units, b = task / groups / units, first = task % groups * together;
            Memory* const memories = together > 1 ? allocate<Memory>(together) : &w.memory;
            if (!memories) __atomic_store_n(&complete, false, __ATOMIC_RELAXED);
            for (int64_t c = first; memories && c < (mixed ? residues : first + 1); ++c)
                each_sweep<Pattern>(p, w, memories, number, b, unit, {c, c + together}, apart, step, f);
            if (together > 1) free(memories);
        };
        Parts parts = {nullptr, nullptr, 0, 1, 0};
        const auto own = [&](auto& sweep, int64_t h) {
            const Span there = sweep.tiles_there();
            const int64_t at = ((sweep.b * s.query_heads + h) * residues + sweep.at.c) * parts.count;
            sweep.parts = {parts.sums + at * STATE, parts.frames + at, there.begin,
                           (there.end - there.begin + parts.count - 1) / parts.count, parts.count};
        };
        if (segments > 1) {  // of tasks that have one residue each
            int64_t first = 0, whole = 1;  // tiles that a segment has to begin with, and all of them
            if (!for_tasks<Space>(1, 1, [&](int64_t, Space& w) {
                    sweeps(0, w, [&](auto* sweep, int64_t, int64_t) {
                        const Span there = (*sweep)->tiles_there();
                        whole = there.end - there.begin;
                        for (int64_t i = 0; i < segments; ++i) first += (*sweep)->tiles_at(i, segments);
                    });
                }))
                return 1;
            if (2 * first > whole) {
                parts.count = 4 * segments;
                const int64_t room = s.entries * s.query_heads * residues * parts.count;
                parts.sums = allocate<double>(room * STATE), parts.frames = allocate<double>(room);
                complete = parts.sums && parts.frames &&
                           for_tasks<Space>(tasks * parts.count, p.threads, [&](int64_t task, Space& w) {
                               sweeps(task / parts.count, w, [&](auto* sweep, int64_t, int64_t h) {
                                   own(**sweep, h);
                                   (*sweep)->sum_part(task % parts.count);
                               });
                           });
            }
        }
        const bool started = complete && for_tasks<Space>(tasks * segments, p.threads, [&](int64_t task, Space& w) {
            sweeps(task / segments, w, [&](auto* sweep, int64_t count, int64_t h) {
                for (int64_t i = 0; parts.count && i < count; ++i) own(*sweep[i], h);
                if (!run_together(sweep, count, task % segments, segments)) __atomic_store_n(&complete, false, __ATOMIC_RELAXED);
            });
        });
        free(parts.sums), free(parts.frames);
        if (!started || !complete) return 1;
    }
    return 0;
}

}  // namespace attnspec
