// Backward: the choice between one pass over the tiles and two, and their loops.

namespace attnspec {

// The output itself can hold the sums if it is in fp32 and its rows have their form.
template <int COLS, int S>
static bool is_sum(const Tensor& t) { return sizeof(Sum) == 4 && COLS == S && t.stride[3] == 1 && t.stride[2] == S; }

// What the sums of a key head begin with: zeros, or what is there already.
template <int COLS, int S>
static void start(float* sums, const Tensor& t, int64_t b, int64_t kv, int64_t keys, int64_t room, bool in_place) {
    if (!CARRY)
        memset(sums, 0, sizeof(float) * S * room);
    else if (!in_place)
        rows_to_float<COLS, S>(sums, row_of<const Sum>(t, b, kv, 0), t.stride[2], t.stride[3], keys, room, 1.f);
}

// A thread per key head: it walks the query tiles of its heads, pass after pass.
template <class Pattern>
static bool backward_one_pass(const BackwardProblem& p) {
    const Sizes& s = p.sizes;
    const bool in_place = is_sum<D, QT>(p.dk) && is_sum<DV, OT>(p.dv);
    // A tile may begin anywhere in the rows of the call, and its last block of rows may run over their end.
    const int64_t room = (s.keys + R + BN - 1) / BN * ROWS;
    bool complete = true;
    bool started = for_tasks<QuerySpace>(s.entries * s.key_heads, p.threads, [&](int64_t task, QuerySpace& w) {
        const int64_t b = task / s.key_heads, kv = task % s.key_heads, group = s.query_heads / s.key_heads;
        Sums sums = {row_of<float>(p.dk, b, kv, 0), row_of<float>(p.dv, b, kv, 0), false};
        const Gradients gradients = {p.gradients ? p.gradients + task * Pattern::INPUTS : nullptr};
        float* buffer = nullptr;
        if (!in_place) {
            buffer = allocate<float>(room * (QT + OT));
            if (!buffer) {
                __atomic_store_n(&complete, false, __ATOMIC_RELAXED);
                return;
            }
            sums = {buffer, buffer + room * QT, true};
        }
        start<D, QT>(sums.dk, p.dk, b, kv, s.keys, in_place ? s.keys : room, in_place);
        start<DV, OT>(sums.dv, p.dv, b, kv, s.keys, in_place ? s.keys : room, in_place);
        for (int number = 0; number < Pattern::PASSES; ++number)
            for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
                Pattern::visit(s.h_start + h, number, [&](auto pass) {
                    using Pass = decltype(pass);
                    for (int64_t c = 0; c < Pass::STRIDE; ++c) {
                        const Place at = place<Pass>(s, c, s.h_start + h, s.b_start + b);
                        const Span tiles = tiles_of(at.query_slots, Pass::BM);
                        for (int64_t i = tiles.begin; i < tiles.end; ++i)
                            backward_query_tile<Pass, true>(p, w, sums, at, b, h, i, nullptr, gradients);
                    }
                });
        if (!in_place) {
            rows_from_float<D, QT>(row_of<Sum>(p.dk, b, kv, 0), p.dk.stride[2], p.dk.stride[3], sums.dk, s.keys);
            rows_from_float<DV, OT>(row_of<Sum>(p.dv, b, kv, 0), p.dv.stride[2], p.dv.stride[3], sums.dv, s.keys);
        }
        free(buffer);
    });
    return started && complete;
}

struct Shape { int64_t stride, columns; int number; };  // number: of the pass, where positions are listed, else -1

// What decides whether two heads cut their keys into the same tiles in a pass.
template <class Pattern>
static Shape shape_of(int64_t h, int number) {
    Shape shape = {0, 0, -1};
    Pattern::visit(h, number, [&](auto pass) {
        using Pass = decltype(pass);
        shape = {Pass::STRIDE, Pass::BN, Pass::LISTED_KEYS ? Pass::NUMBER : -1};
    });
    return shape;
}

// The key tiles of `step` heads of every group from the g-th on, which cut their keys alike.
template <class Pattern>
static bool backward_keys(const BackwardProblem& p, int number, const float* delta, int64_t g, int64_t step) {
    const Sizes& s = p.sizes;
    const int64_t group = s.query_heads / s.key_heads;
    // The key tiles of all residues. The last begins first and the first ends last, at either end; of fewer keys than residues
    // they may have none: then all keys there are have one slot, that of the first of them.
    Span tiles = {INT64_MAX, INT64_MIN};
    int64_t residues = 1;
    for (int64_t h = g; h < s.query_heads; h += group)
        Pattern::visit(s.h_start + h, number, [&](auto pass) {
            using Pass = decltype(pass);
            for (int64_t c : {Pass::STRIDE - 1, (int64_t)0, s.k_start % Pass::STRIDE}) {
                const Span own = tiles_of(place<Pass>(s, c, s.h_start + h, 0).key_slots, Pass::BN);
                if (own.begin < own.end && own.begin < tiles.begin) tiles.begin = own.begin;
                if (own.begin < own.end && own.end > tiles.end) tiles.end = own.end;
            }
            if (Pass::STRIDE > residues) residues = Pass::STRIDE;
        });
    if (tiles.begin >= tiles.end) return true;
    const int64_t most = tiles.end - tiles.begin;
    return for_tasks<KeySpace>(most * residues * s.key_heads * s.entries, p.threads, [&](int64_t task, KeySpace& w) {
        const int64_t j = tiles.begin + task % most, c = task / most % residues, entry = s.b_start + task / most / residues / s.key_heads;
        const int64_t kv = task / most / residues % s.key_heads, b = entry - s.b_start, first = kv * group + g;
        Pattern::visit(s.h_start + first, number, [&](auto own) {
            using Own = decltype(own);
            if (c >= Own::STRIDE) return;
            const Place at = place<Own>(s, c, s.h_start + first, entry);
            const Span live = slots_of(at.keys, at.key_slots, j, Own::BN);
            if (live.begin >= live.end) return;
            BackwardKeyTile tile{p, w, delta, at, b, kv, j * Own::BN, live, (Own::BN + LANES - 1) / LANES, Own::TIMES, false,
                                 0, nullptr, nullptr, nullptr, nullptr};
            for (tile.h = first; tile.h < first + step; ++tile.h)
                Pattern::visit(s.h_start + tile.h, number, [&](auto pass) {
                    using Pass = decltype(pass);
                    tile.times = Pass::TIMES;
                    Pass::backward(j, at, s.h_start + tile.h, entry, s, [&](int64_t i) { tile.template visit<Pass>(i, false); },
                                   [&](int64_t i) { tile.template visit<Pass>(i, true); });
                });
            if (!tile.loaded) {
                if (CARRY) return;
                tile.load_keys();
            }
            tile.store_keys();
        });
    });
}

// All threads on query tiles, then all on key tiles: seven products instead of five.
template <class Pattern>
static bool backward_two_passes(const BackwardProblem& p) {
    const Sizes& s = p.sizes;
    const int64_t group = s.query_heads / s.key_heads;
    float* delta = allocate<float>(s.entries * s.query_heads * s.rows);
    if (!delta) return false;
    bool done = true;
    for (int number = 0; done && number < Pattern::PASSES; ++number) {
        const Tasks<Pattern> tasks(s, number);
        done = tasks.first && for_tasks<QuerySpace>(tasks.count() * s.entries, p.threads, [&](int64_t task, QuerySpace& w) {
            tasks.run(s, task, [&](auto pass, const Sizes&, const Place& at, int64_t b, int64_t h, int64_t i) {
                backward_query_tile<decltype(pass), false>(p, w, {}, at, b, h, i, delta, Gradients{});
            });
        });
        bool alike = true;
        const Shape shape = shape_of<Pattern>(s.h_start, number);
        for (int64_t h = 0; h < s.query_heads; ++h) {
            const Shape other = shape_of<Pattern>(s.h_start + h, number);
            alike &= other.stride == shape.stride && other.columns == shape.columns && other.number == shape.number;
        }
        const int64_t step = alike ? group : 1;
        for (int64_t g = 0; done && g < group; g += step) done = backward_keys<Pattern>(p, number, delta, g, step);
    }
    free(delta);
    return done;
}

template <class Pattern>
static int backward(const BackwardProblem& p) {
    const Sizes& s = p.sizes;
    if (s.entries <= 0 || s.query_heads <= 0 || s.key_heads <= 0) return 0;
    const int64_t units = s.entries * s.key_heads, threads = p.threads < 1 ? 1 : p.threads;
    // A key may stand in several tiles of a computed order, and gradients of inputs are summed by head: one thread for each.
    const bool alone = Pattern::REPEATS || p.gradients;
    const bool one = alone || 5 * ((units + threads - 1) / threads * threads) <= 7 * units;
    return !(one ? backward_one_pass<Pattern>(p) : backward_two_passes<Pattern>(p));
}

}  // namespace attnspec
