// The query tiles of one pass over all heads, as numbered tasks.

namespace attnspec {

template <class Pattern>
struct Tasks {
    int number;      // of the pass
    int64_t heads;
    int64_t* first;  // the first task of each head, and after the last head their number; null without memory

    Tasks(const Sizes& s, int number) : number(number), heads(s.query_heads), first(allocate<int64_t>(s.query_heads + 1)) {
        if (!first) return;
        first[0] = 0;
        for (int64_t h = 0; h < heads; ++h) {
            first[h + 1] = first[h];
            Pattern::visit(s.h_start + h, number,
                           [&](auto pass) { first[h + 1] += longest<decltype(pass)>(s, s.h_start + h) * decltype(pass)::STRIDE; });
        }
    }
    ~Tasks() { free(first); }
    Tasks(const Tasks&) = delete;
    Tasks& operator=(const Tasks&) = delete;

    int64_t count() const { return first[heads]; }

    // Residues differ by at most one tile, and so do entries of lengths of their own.
    template <class Pass>
    static int64_t longest(const Sizes& all, int64_t head) {
        int64_t most = 0;
        for (int64_t b = 0; b < (all.pages ? all.entries : 1); ++b) {
            Sizes own;
            const Sizes& s = of_entry(all, b, own);
            for (int64_t c = 0; c < Pass::STRIDE; ++c) {
                const Span tiles = tiles_of(place<Pass>(s, c, head, s.b_start + b).query_slots, Pass::BM);
                if (tiles.end - tiles.begin > most) most = tiles.end - tiles.begin;
            }
        }
        return most;
    }

    // Calls f(pass, sizes, place, b, h, i) for a task: query tile i of a head and a batch entry of the call, of whose sizes
    // some are those of the entry.
    template <class F>
    void run(const Sizes& all, int64_t task, F&& f) const {
        const int64_t b = task / count(), rest = task % count();
        Sizes own;
        const Sizes& s = of_entry(all, b, own);
        int64_t h = 0, end = heads;  // the last h with first[h] <= rest
        while (end - h > 1) {
            const int64_t middle = (h + end) / 2;
            (first[middle] <= rest ? h : end) = middle;
        }
        Pattern::visit(s.h_start + h, number, [&](auto pass) {
            using Pass = decltype(pass);
            const int64_t most = (first[h + 1] - first[h]) / Pass::STRIDE;
            const Place at = place<Pass>(s, (rest - first[h]) / most, s.h_start + h, s.b_start + b);
            const Span tiles = tiles_of(at.query_slots, Pass::BM);
            const int64_t i = tiles.end - 1 - (rest - first[h]) % most;
            if (i >= tiles.begin) f(pass, s, at, b, h, i);
        });
    }
};

}  // namespace attnspec
