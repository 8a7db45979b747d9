// Backward: the choice between one pass and two, and their loops.

namespace attnspec {

// The fp32 output itself can hold the sums if its rows have their form.
template <int COLS, int S>
static bool is_sum(const Tensor& t) { return sizeof(Elem) == 4 && COLS == S && t.stride[3] == 1 && t.stride[2] == S; }

// A thread per key head.
template <class Pattern>
static bool backward_one_pass(const BackwardProblem& p, int64_t low, int64_t high) {
    const Sizes& s = p.sizes;
    const bool own_dk = is_sum<D, QT>(p.dk), own_dv = is_sum<DV, OT>(p.dv);
    const int64_t room = (s.n + BN - 1) / BN * ROWS;
    bool complete = true;
    bool started = for_tasks<QuerySpace>(s.batch * s.kv_heads, p.threads, [&](int64_t task, QuerySpace& w) {
        const int64_t b = task / s.kv_heads, kv = task % s.kv_heads, group = s.heads / s.kv_heads;
        const bool in_place = own_dk && own_dv;
        Sums sums = {row_of<float>(p.dk, b, kv, 0), row_of<float>(p.dv, b, kv, 0)};
        float* buffer = nullptr;
        if (!in_place) {
            buffer = allocate<float>(room * (QT + OT));
            if (!buffer) {
                __atomic_store_n(&complete, false, __ATOMIC_RELAXED);
                return;
            }
            sums = {buffer, buffer + room * QT};
        }
        memset(sums.dk, 0, sizeof(float) * QT * (in_place ? s.n : room));
        memset(sums.dv, 0, sizeof(float) * OT * (in_place ? s.n : room));
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
            for (int64_t i = low; i <= high; ++i) backward_query_tile<Pattern, true>(p, w, sums, !in_place, b, h, i, nullptr);
        if (!in_place) {
            rows_from_float<D, QT>(row_of<Elem>(p.dk, b, kv, 0), p.dk.stride[2], p.dk.stride[3], sums.dk, s.n);
            rows_from_float<DV, OT>(row_of<Elem>(p.dv, b, kv, 0), p.dv.stride[2], p.dv.stride[3], sums.dv, s.n);
        }
        free(buffer);
    });
    return started && complete;
}

// All threads on query tiles, then all on key tiles: seven products instead of five.
template <class Pattern>
static bool backward_two_passes(const BackwardProblem& p, int64_t low, int64_t high) {
    const Sizes& s = p.sizes;
    float* delta = allocate<float>(s.batch * s.heads * s.n_q);
    if (!delta) return false;
    const int64_t tiles = high - low + 1, offset = Pattern::align_end ? s.n - s.n_q : 0;
    bool done = for_tasks<QuerySpace>(tiles * s.heads * s.batch, p.threads, [&](int64_t task, QuerySpace& w) {
        backward_query_tile<Pattern, false>(p, w, {}, true, task / tiles / s.heads, task / tiles % s.heads, high - task % tiles,
                                            delta);
    });
    const int64_t key_tiles = (s.n + BN - 1) / BN;
    done = done && for_tasks<KeySpace>(key_tiles * s.kv_heads * s.batch, p.threads, [&](int64_t task, KeySpace& w) {
        const int64_t j = task % key_tiles, kv = task / key_tiles % s.kv_heads, b = task / key_tiles / s.kv_heads;
        const int64_t group = s.heads / s.kv_heads;
        BackwardKeyTile<Pattern> tile{p, w, delta, b, kv, j * BN, offset, 0, nullptr, nullptr, nullptr, nullptr};
        tile.load_keys();
        for (tile.h = kv * group; tile.h < (kv + 1) * group; ++tile.h)
            Pattern::backward(j, tile.h, b, s, [&](int64_t i) { tile.visit(i, false); }, [&](int64_t i) { tile.visit(i, true); });
        tile.store_keys();
    });
    free(delta);
    return done;
}

template <class Pattern>
static int backward(const BackwardProblem& p) {
    const Sizes& s = p.sizes;
    if (s.batch <= 0 || s.heads <= 0 || s.kv_heads <= 0) return 0;
    const int64_t offset = Pattern::align_end ? s.n - s.n_q : 0;
    const int64_t low = floor_div(offset, BM), high = floor_div(offset + s.n_q - 1, BM);
    const int64_t units = s.batch * s.kv_heads, threads = p.threads < 1 ? 1 : p.threads;
    const bool one = 5 * ((units + threads - 1) / threads * threads) <= 7 * units;
    return !(one ? backward_one_pass<Pattern>(p, low, high) : backward_two_passes<Pattern>(p, low, high));
}

}  // namespace attnspec
