// The loops over passes, heads and pieces of the sequence.

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

// Calls f(sweep, query head) for the sweeps of one task: of a unit, which is a query head (`apart`) or a key head, and a
// residue. `step` heads go together.
template <class Pattern, class F>
static void each_sweep(const LinearProblem& p, Space& w, int number, int64_t b, int64_t unit, int64_t c, bool apart, int64_t step,
                       F&& f) {
    const Sizes& s = p.sizes;
    const int64_t group = s.query_heads / s.key_heads, first = apart ? unit : unit * group, end = first + (apart ? 1 : group);
    for (int64_t h = first; h < end; h += step)
        Pattern::visit(s.h_start + h, number, [&](auto pass) {
            using Pass = decltype(pass);
            if (c >= Pass::STRIDE) return;
            const Place at = place<Pass>(s, c, s.h_start + h, s.b_start + b);
            const Team queries = {h, step}, key = {h / group, 1};
            Sweep<Pass> sweep(p, s, w, at, b, KEYS ? key : queries, KEYS ? queries : key);
            f(sweep, h);
        });
}

// Pass after pass; in each a task is a residue of a head, or of the heads that share their keys. Where there are fewer of
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
        const int64_t all_residues = most_residues<Pattern>(s, number), residues = mixed ? 1 : all_residues;
        const int64_t units = apart ? s.query_heads : s.key_heads;
        const int64_t step = alike ? s.query_heads / s.key_heads : 1, tasks = s.entries * units * residues;
        int64_t segments = Pattern::REPEATS || mixed || p.threads <= 1 ? 1 : (2 * p.threads - 1) / tasks;
        const int64_t most = (KEYS ? s.keys / BN : s.rows / BM) / residues / 8;  // shorter ones do not pay
        segments = segments > most ? most : segments;
        segments = segments < 1 ? 1 : segments;
        const auto sweeps = [&](int64_t task, Space& w, auto&& f) {
            const int64_t unit = task / residues % units, b = task / residues / units;
            for (int64_t c = mixed ? 0 : task % residues; c < (mixed ? all_residues : task % residues + 1); ++c)
                each_sweep<Pattern>(p, w, number, b, unit, c, apart, step, f);
        };
        bool complete = true;
        Parts parts = {nullptr, nullptr, 0, 1, 0};
        const auto own = [&](auto& sweep, int64_t b, int64_t h, int64_t c) {
            const Span all = sweep.tiles_there();
            const int64_t at = ((b * s.query_heads + h) * residues + c) * parts.count;
            sweep.parts = {parts.sums + at * STATE, parts.frames + at, all.begin,
                           (all.end - all.begin + parts.count - 1) / parts.count, parts.count};
        };
        if (segments > 1) {
            int64_t first = 0, all = 1;  // tiles that a segment has to begin with, and all of them
            if (!for_tasks<Space>(1, 1, [&](int64_t, Space& w) {
                    sweeps(0, w, [&](auto& sweep, int64_t) {
                        const Span there = sweep.tiles_there();
                        all = there.end - there.begin;
                        for (int64_t i = 0; i < segments; ++i) first += sweep.tiles_at(i, segments);
                    });
                }))
                return 1;
            if (2 * first > all) {
                parts.count = 4 * segments;
                const int64_t room = s.entries * s.query_heads * residues * parts.count;
                parts.sums = allocate<double>(room * STATE), parts.frames = allocate<double>(room);
                complete = parts.sums && parts.frames &&
                           for_tasks<Space>(tasks * parts.count, p.threads, [&](int64_t task, Space& w) {
                               const int64_t i = task % parts.count, of = task / parts.count;
                               sweeps(of, w, [&](auto& sweep, int64_t h) {
                                   own(sweep, of / residues / units, h, of % residues);
                                   sweep.sum_part(i);
                               });
                           });
            }
        }
        const bool started = complete && for_tasks<Space>(tasks * segments, p.threads, [&](int64_t task, Space& w) {
            const int64_t of = task / segments;
            sweeps(of, w, [&](auto& sweep, int64_t h) {
                if (parts.count) own(sweep, of / residues / units, h, of % residues);
                if (!sweep.run(task % segments, segments)) __atomic_store_n(&complete, false, __ATOMIC_RELAXED);
            });
        });
        free(parts.sums), free(parts.frames);
        if (!started || !complete) return 1;
    }
    return 0;
}

}  // namespace attnspec
