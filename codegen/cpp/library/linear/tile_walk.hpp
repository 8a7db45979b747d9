// How a sweep goes over the tiles of the outer side, whatever it makes of them: whose rows and slots are where, which tiles a
// tile sees, and whether those that it sees in full go through a state or are computed pair by pair.

namespace attnspec {

template <class Pass>
struct TileWalk {
    static constexpr int HERE = KEYS ? Pass::BN : Pass::BM, THERE = KEYS ? Pass::BM : Pass::BN;

    const Sizes& s;
    const Place& at;
    int64_t b;
    Team outer, inner;  // heads of either side that see the same tiles; one of the teams has one member
    Runs held, next;    // the tiles of the state, and of this tile
    int next_kept = 0;  // where the next tile of the inner side is put
    Parts parts = {nullptr, nullptr, 0, 1, 0};
    int64_t first = 0;  // the slot of the tile's first lane
    Span live = {0, 0};
    int64_t head = 0;   // of the outer side
    bool loaded = false;
    bool one_by_one = false;  // full tiles are computed pair by pair
    double unsaved = 0;       // what tiles that were took more than reading a state, since there was one

    TileWalk(const Sizes& s, const Place& at, int64_t b, Team outer, Team inner) : s(s), at(at), b(b), outer(outer), inner(inner) {}

    const Rows& rows_here() const { return KEYS ? at.keys : at.queries; }
    const Rows& rows_there() const { return KEYS ? at.queries : at.keys; }
    Span slots_here() const { return KEYS ? at.key_slots : at.query_slots; }
    Span slots_there() const { return KEYS ? at.query_slots : at.key_slots; }
    Span slots_of_inner(int64_t j) const { return slots_of(rows_there(), slots_there(), j, THERE); }
    Span tiles_here() const { return tiles_of(slots_here(), HERE); }
    Span tiles_there() const { return tiles_of(slots_there(), THERE); }
    Range lanes(int g) const { return clip(first + g * LANES, live.begin, live.end); }

    // The outer tiles of one of `segments` pieces of the sequence.
    Span tiles_of_segment(int64_t segment, int64_t segments) const {
        const Span all = tiles_here();
        const int64_t length = all.end - all.begin;
        return {all.begin + length * segment / segments, all.begin + length * (segment + 1) / segments};
    }

    // `size` of these tiles, from the at-th on in the order that they are visited in.
    static Span stretch(Span tiles, int64_t at, int64_t size) {
        const int64_t all = tiles.end - tiles.begin, begin = at < all ? at : all, end = size < all - begin ? begin + size : all;
        return KEYS ? Span{tiles.end - end, tiles.end - begin} : Span{tiles.begin + begin, tiles.begin + end};
    }

    bool is_complete() const { return held.complete && next.complete; }

    // Calls f(o) for the outer tiles that have rows, towards what is seen: in causal patterns a state then only grows, and fades.
    template <class F>
    void each_outer(Span tiles, F&& f) {
        for (int64_t step = 0; step < tiles.end - tiles.begin; ++step) {
            const int64_t o = KEYS ? tiles.end - 1 - step : tiles.begin + step;
            live = slots_of(rows_here(), slots_here(), o, HERE), first = o * HERE;
            if (live.begin < live.end) f(o);
        }
    }

    // Calls f(j, h, slots) for the inner tiles of a run that have rows, in the same direction, for all heads.
    template <class F>
    void each_inner(int64_t lo, int64_t hi, F&& f) const {
        for (int64_t h = inner.first; h < inner.first + inner.count; ++h)
            for (int64_t step = 0; step <= hi - lo; ++step) {
                const int64_t j = KEYS ? hi - step : lo + step;
                const Span slots = slots_of_inner(j);
                if (slots.begin < slots.end) f(j, h, slots);
            }
    }

    // What the pattern names of inner head h: full tiles are noted in `next`, partial ones given to partial(j).
    template <class Partial>
    void look(int64_t o, int64_t h, Partial&& partial) {
        const int64_t query_head = KEYS ? h : head;
        struct Full {
            Runs& runs;
            Span all;
            bool noted;
            void operator()(int64_t j) const { (*this)(j, j); }
            void operator()(int64_t lo, int64_t hi) const {
                if (!noted) runs.add(lo < all.begin ? all.begin : lo, hi >= all.end ? all.end - 1 : hi);
            }
        };
        const Full full = {next, tiles_there(), h != inner.first};
        if constexpr (KEYS)
            Pass::backward(o, at, s.h_start + query_head, s.b_start + b, s, full, partial);
        else
            Pass::forward(o, at, s.h_start + query_head, s.b_start + b, s, full, partial);
    }

    // How many tiles the first outer tile of a segment sees in full.
    int64_t tiles_at(int64_t segment, int64_t segments) {
        const Span all = tiles_here(), own = tiles_of_segment(segment, segments);
        const int64_t o = KEYS ? own.end - 1 : own.begin;
        if (o < all.begin || o >= all.end) return 0;
        next.count = 0, head = outer.first;
        look(o, inner.first, [](int64_t) {});
        return next.tiles();
    }

    // What is loaded after tile j of head h, most likely: the next head of it, or the next tile.
    struct Soon { int64_t head; Span slots; };
    Soon after(int64_t j, int64_t h) const {
        const bool more = h + 1 < inner.first + inner.count;
        return {more ? h + 1 : inner.first, slots_of_inner(more ? j : KEYS ? j - 1 : j + 1)};
    }

    // The tiles that come into the state and go from it, of all that it is to hold.
    struct Moves {
        int64_t come, go, all;
        int64_t by(bool afresh) const { return afresh ? all : come + go; }
    };
    Moves moves() const {
        Moves found = {0, 0, next.tiles()};
        next.without(held, [&](int64_t lo, int64_t hi) { found.come += hi - lo + 1; });
        held.without(next, [&](int64_t lo, int64_t hi) { found.go += hi - lo + 1; });
        return found;
    }

    // Whether full tiles are computed pair by pair, where a state need not be. A state that does not pay at once for any tile
    // may pay for all of them: it is built when pairs have taken as much more than reading it would have.
    bool are_pairs_cheaper(double moved, int64_t all, bool needed) {
        const double rows = (live.end - live.begin) * outer.count;
        const double by_state = (double)D * DV * (moved * THERE * inner.count + rows);
        const double by_pairs = (double)(D + DV) * rows * all * THERE * inner.count;
        if (head == outer.first) {  // the other heads of a team follow
            one_by_one = !needed && by_pairs + unsaved < by_state;
            unsaved = one_by_one ? unsaved + (by_pairs > D * DV * rows ? by_pairs - D * DV * rows : 0) : 0;
        }
        return one_by_one;
    }

    // Calls f(j, h) for the tiles that are full.
    template <class F>
    void each_full(F&& f) const {
        for (int64_t h = inner.first; h < inner.first + inner.count; ++h)
            for (int64_t i = 0; i < next.count; ++i)
                for (int64_t j = next.at[i].lo; j <= next.at[i].hi; ++j) f(j, h);
    }

    // The tiles of part i of the inner side, and the parts that lie in a run.
    Run run_of_part(int64_t i) const {
        const int64_t from = parts.first + i * parts.size, end = tiles_there().end;
        return {from, (from + parts.size < end ? from + parts.size : end) - 1};
    }
    Span parts_in(Run run) const {
        return {-floor_div(parts.first - run.lo, parts.size), floor_div(run.hi + 1 - parts.first, parts.size)};
    }
};

}  // namespace attnspec
