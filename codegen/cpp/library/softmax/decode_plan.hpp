// What there is to do for few queries, and who does it.

#include <new>

namespace attnspec {

// Key tiles in the order of the plan's loops: those of a unit of work.
struct Visits {
    static constexpr int64_t KEYS = 1024, CHUNKS = 64;  // the fewest keys of a chunk, the most chunks
    int64_t count = 0, room = 0, *of = nullptr;         // 2 * tile, and 1 more for a partial one
    bool failed = false;

    Visits() = default;
    Visits(const Visits&) = delete;
    Visits& operator=(const Visits&) = delete;
    ~Visits() { free(of); }

    void add(int64_t tile, bool partial) {
        if (tile < 0 || failed) return;
        if (count == room) {
            int64_t* more = (int64_t*)realloc(of, sizeof(int64_t) * (room = 2 * room + 64));
            if (!more) {
                failed = true;
                return;
            }
            of = more;
        }
        of[count++] = 2 * tile + partial;
    }
    // Tiles of a chunk: they may not depend on the number of threads.
    int64_t each(int64_t columns) const {
        const int64_t least = (KEYS + columns - 1) / columns, even = (count + CHUNKS - 1) / CHUNKS;
        return least > even ? least : even;
    }
};

// The query tiles of one pass for all heads.
template <class Pattern>
struct Units {
    const ForwardProblem& p;
    int number;  // of the pass
    int64_t count = 0, room = 0;
    Unit* of = nullptr;

    Units(const ForwardProblem& p, int number) : p(p), number(number) {}
    ~Units() { free(of); }
    Units(const Units&) = delete;
    Units& operator=(const Units&) = delete;

    // False without memory.
    bool find() {
        const int64_t group = p.sizes.query_heads / p.sizes.key_heads;
        bool found = true;
        for (int64_t b = 0; b < p.sizes.entries; ++b) {
            Sizes own;
            const Sizes& s = of_entry(p.sizes, b, own);
            for (int64_t h = 0, heads; h < s.query_heads; h += heads) {
                heads = 1;
                Pattern::visit(s.h_start + h, number, [&](auto pass) {
                    using Pass = decltype(pass);
                    const int64_t queries = s.rows < Pass::BM ? s.rows : Pass::BM;
                    while ((h + heads) % group && (heads + 1) * queries <= MOST && alike<Pass>(s, b, h, h + heads)) ++heads;
                    tiles<Pass>(s, b, h, [&](int64_t c, int64_t i) { found = found && add({b, h, heads, c, i}); });
                });
            }
        }
        return found;
    }

    // Whether two heads have the same tiles and see the same keys of them.
    template <class Pass>
    static bool alike(const Sizes& s, int64_t b, int64_t h, int64_t other) {
        h += s.h_start, other += s.h_start;
        if (Pass::BY_HEAD || Pattern::class_of(h) != Pattern::class_of(other)) return false;
        const Table* tables = s.passes ? s.passes[Pass::NUMBER].rows : nullptr;
        if (tables) tables += (s.b_start + b) * s.heads;
        return !tables || tables[h].tiles == tables[other].tiles;
    }

    // Calls f(residue, tile) for those that hold a query.
    template <class Pass, class F>
    static void tiles(const Sizes& s, int64_t b, int64_t h, F&& f) {
        if (Pass::LISTED_QUERIES) {
            for (int64_t c = 0; c < Pass::STRIDE; ++c) {
                const Place at = place<Pass>(s, c, s.h_start + h, s.b_start + b);
                const Span all = tiles_of(at.query_slots, Pass::BM);
                for (int64_t i = all.begin; i < all.end; ++i) {
                    const Span live = slots_of(at.queries, at.query_slots, i, Pass::BM);
                    if (live.begin < live.end) f(c, i);
                }
            }
            return;
        }
        for (int64_t row = 0; row < s.rows; ++row) {
            const int64_t slot = floor_div(s.q_start + row, Pass::STRIDE), i = floor_div(slot, Pass::BM);
            if (row < Pass::STRIDE || slot == i * Pass::BM) f(s.q_start + row - slot * Pass::STRIDE, i);
        }
    }

    bool add(const Unit& unit) {
        if (count == room) {
            Unit* more = (Unit*)realloc(of, sizeof(Unit) * (room = 2 * room + 64));
            if (!more) return false;
            of = more;
        }
        of[count++] = unit;
        return true;
    }

    // Calls f(pass, sizes of the entry, place, live slots of queries) for a unit.
    template <class F>
    void run(const Unit& u, F&& f) const {
        Sizes own;
        const Sizes& s = of_entry(p.sizes, u.b, own);
        Pattern::visit(s.h_start + u.h, number, [&](auto pass) {
            using Pass = decltype(pass);
            const Place at = place<Pass>(s, u.c, s.h_start + u.h, s.b_start + u.b);
            f(pass, s, at, slots_of(at.queries, at.query_slots, u.i, Pass::BM));
        });
    }
    template <class Pass>
    ATTNSPEC_NOINLINE static void walk(const Sizes& s, const Unit& u, const Place& at, Visits& to) {
        Pass::forward(u.i, at, s.h_start + u.h, s.b_start + u.b, s, [&](int64_t j) { to.add(j, false); }, [&](int64_t j) { to.add(j, true); });
    }
};

template <class Pass>
static void decode_chunk(Decoder& d, const Visits& visits, int64_t begin, int64_t end, Sums& sums) {
    d.begin(sums);
    for (int64_t v = begin; v < end; ++v) d.template visit<Pass>(sums, visits.of[v] / 2, visits.of[v] % 2);
    d.end(sums);
}

// A unit by one thread.
template <class Pass, class All>
static bool decode_unit(const All& units, const Sizes& s, const Unit& u, const Place& at, Span live, DecodeSpace& w) {
    Visits visits;
    units.template walk<Pass>(s, u, at, visits);
    if (visits.failed) return false;
    if (CARRY && !visits.count) return true;  // the output is there already
    Decoder d(units.p, s, w, at, u, live, Pass::BRANCH, Pass::TIMES);
    d.load_queries();
    if (CARRY) d.carry(w.all);
    const int64_t each = visits.each(Pass::BN);
    for (int64_t v = 0; v < visits.count || v == 0; v += each) {
        Sums& sums = v || CARRY ? w.chunk : w.all;
        decode_chunk<Pass>(d, visits, v, v + each < visits.count ? v + each : visits.count, sums);
        if (&sums != &w.all) d.merge(w.all, sums);
    }
    d.store_output(w.all);
    return true;
}

// All units by threads of which there are more: the last chunk of a unit to be done merges all of them.
template <class Pattern>
static bool decode_chunks(const Units<Pattern>& units, int threads) {
    struct Shared { Visits visits; int64_t each, first, left; };
    Shared* shared = new (std::nothrow) Shared[units.count];
    int64_t failed = !shared, chunks = 0;
    if (!failed) failed = !for_tasks<Unit>(units.count, threads, [&](int64_t n, Unit&) {
        units.run(units.of[n], [&](auto pass, const Sizes& s, const Place& at, Span) {
            using Pass = decltype(pass);
            units.template walk<Pass>(s, units.of[n], at, shared[n].visits);
            if (shared[n].visits.failed) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
            shared[n].each = shared[n].visits.each(Pass::BN);
        });
    });
    for (int64_t n = 0; n < units.count && !failed; ++n) {
        const int64_t count = shared[n].visits.count, each = shared[n].each;
        shared[n].first = chunks;
        chunks += shared[n].left = count || !CARRY ? (count + each - 1) / each + !count : 0;
    }
    Sums* sums = failed ? nullptr : allocate<Sums>(chunks);
    if (!sums) failed = 1;
    if (!failed) failed = !for_tasks<DecodeSpace>(chunks, threads, [&](int64_t chunk, DecodeSpace& w) {
        int64_t n = 0, end = units.count;  // the last n with first <= chunk
        while (end - n > 1) {
            const int64_t middle = (n + end) / 2;
            (shared[middle].first <= chunk ? n : end) = middle;
        }
        Shared& mine = shared[n];
        units.run(units.of[n], [&](auto pass, const Sizes& s, const Place& at, Span live) {
            using Pass = decltype(pass);
            Decoder d(units.p, s, w, at, units.of[n], live, Pass::BRANCH, Pass::TIMES);
            d.load_queries();
            const int64_t begin = (chunk - mine.first) * mine.each, end = begin + mine.each, count = mine.visits.count;
            decode_chunk<Pass>(d, mine.visits, begin, end < count ? end : count, sums[chunk]);
            if (__atomic_sub_fetch(&mine.left, 1, __ATOMIC_ACQ_REL)) return;
            Sums& all = CARRY ? w.all : sums[mine.first];
            if (CARRY) d.carry(all);
            const int64_t many = (count + mine.each - 1) / mine.each;
            for (int64_t i = CARRY ? 0 : 1; i < many; ++i) d.merge(all, sums[mine.first + i]);
            d.store_output(all);
        });
    });
    free(sums);
    delete[] shared;
    return !failed;
}

template <class Pattern>
static int decode(const ForwardProblem& p) {
    const Sizes& s = p.sizes;
    if (s.rows <= 0 || s.entries <= 0 || s.query_heads <= 0 || s.key_heads <= 0) return 0;
    for (int number = 0; number < Pattern::PASSES; ++number) {
        Units<Pattern> units(p, number);
        if (!units.find()) return 1;
        if (p.threads > 1 && units.count < 2 * p.threads) {
            if (!decode_chunks(units, p.threads)) return 1;
            continue;
        }
        int64_t failed = 0;
        if (!for_tasks<DecodeSpace>(units.count, p.threads, [&](int64_t n, DecodeSpace& w) {
                units.run(units.of[n], [&](auto pass, const Sizes& s, const Place& at, Span live) {
                    if (!decode_unit<decltype(pass)>(units, s, units.of[n], at, live, w)) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
                });
            }))
            return 1;
        if (failed) return 1;
    }
    return 0;
}

}  // namespace attnspec
