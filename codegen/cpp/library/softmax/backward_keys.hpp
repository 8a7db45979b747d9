// Backward, by key tile: the second of two passes. The keys of a tile stand on the lanes, queries move past them, and dK
// and dV of the tile stay in cache: the mirror image of backward.hpp, with row statistics that are now one per row.
//
//     S = Q K^T      dP = dO V^T      dV^T += dO^T P      dK^T += Q^T dS

namespace attnspec {

constexpr int KEY_GROUPS = (BN + LANES - 1) / LANES, QUERY_ROWS = round_up(BM, R);

struct alignas(64) KeySpace {
    uint32_t k_lanes[KEY_GROUPS][QL * LANES], v_lanes[KEY_GROUPS][OL * LANES];
    float dk[KEY_GROUPS][QT * LANES], dv[KEY_GROUPS][OT * LANES];
    float p[QUERY_ROWS * LANES], ds[QUERY_ROWS * LANES];
    float top[round_up(QUERY_ROWS, W)], sum[round_up(QUERY_ROWS, W)], delta[round_up(QUERY_ROWS, W)];
    int32_t mask[QUERY_ROWS * LANES], key_at[KEY_GROUPS][LANES];
    uint32_t rows[LANES * (QT > OT ? QT : OT)];
    uint32_t q[QUERY_ROWS * KR], q_down[PAIRS ? QUERY_ROWS / 2 * KC : W];
    uint32_t dout[QUERY_ROWS * VR], dout_down[PAIRS ? QUERY_ROWS / 2 * VC : W];
    uint32_t fit_q[QUERY_ROWS / STEP * KC], fit_dout[QUERY_ROWS / STEP * VC];
    Unfit<QUERY_ROWS> unfit;
    float scratch[round_up(SCRATCH, W)];
};

struct BackwardKeyTile {
    const BackwardProblem& p;
    KeySpace& w;
    const float* deltas;
    const Place& at;
    int64_t b, kv, first;
    Span live;
    int groups;
    float times;
    bool loaded;
    int64_t h;  // the query head that is moving past
    const Dot::A *q, *q_down, *dout, *dout_down;

    Range lanes(int g) const { return clip(first + g * LANES, live.begin, live.end); }

    void load_keys() {
        loaded = true;
        for (int g = 0; g < groups; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            const int64_t slot = first + g * LANES;
            load_lanes<D, QL>(w.k_lanes[g], w.rows, w.scratch, p.k, b, kv, at.keys, slot, live, p.scale * UNIT);
            load_lanes<DV, OL>(w.v_lanes[g], w.rows, w.scratch, p.v, b, kv, at.keys, slot, live, UNSCALED);
            if (!Score::IDENTITY) load_positions(w.key_at[g], at.keys, p.sizes.k_start, slot, live);
            memset(w.dk[g], 0, sizeof(w.dk[g]));
            memset(w.dv[g], 0, sizeof(w.dv[g]));
        }
    }

    template <class Pass>
    ATTNSPEC_NOINLINE void visit(int64_t i, bool partial) {
        const Span queries = slots_of(at.queries, at.query_slots, i, Pass::BM);
        if (queries.begin >= queries.end) return;
        if (!loaded) load_keys();
        const Sizes& s = p.sizes;
        const int count = (int)(queries.end - queries.begin), rows = round_up(count, R);
        const int64_t line = (b * s.query_heads + h) * s.rows;
        load_both<D, KR, KC>(q, q_down, w.q, w.q_down, w.scratch, p.q, b, h, at.queries, queries.begin, count, rows);
        load_both<DV, VR, VC>(dout, dout_down, w.dout, w.dout_down, w.scratch, p.dout, b, h, at.queries, queries.begin, count, rows);
        for (int r = 0; r < rows; ++r) {
            const int64_t row = r < count ? line + at.queries(queries.begin + r) : 0;
            const Norm norm = r < count ? Norm::of(p.norm, p.lse, s.entries * s.query_heads * s.rows, row) : Norm{-INF, 0.f};
            w.top[r] = norm.top == -INF ? INF : norm.top, w.sum[r] = norm.sum - times;
            w.delta[r] = r < count ? deltas[row] : 0.f;
        }
        w.unfit.begin();
        for (int g = 0; g < groups; ++g) {
            Range live = lanes(g), range = {0, rows};
            if (live.begin >= live.end) continue;
            if (partial) {
                range = mask_tile<Pass, false>(w.mask, at, first + g * LANES, live, queries.begin, count, s.h_start + h, s.b_start + b, s);
                if (range.begin >= range.end) continue;
                refuse(range, rows);
            }
            scores(g, range);
            weights(g, range, partial, queries.begin, count);
            keys(g, range);
        }
    }

    // As for queries in backward.hpp: what one that is not finite sees is not a number, all else does not notice.
    void refuse(Range range, int rows) {
        const Dot::A *q = q_down, *dout = dout_down;
        w.unfit.find(range, [&](Range part) { return are_finite<KC>(q, part) && are_finite<VC>(dout, part); },
                     [&](int r) { return is_finite<KC>(q, r) && is_finite<VC>(dout, r); });
        for (int i = 0; i < w.unfit.count; ++i) w.top[w.unfit.at[i]] = NO_NUMBER;
        q_down = w.unfit.without<KC>(q, w.fit_q, rows);
        dout_down = w.unfit.without<VC>(dout, w.fit_dout, rows);
    }

    ATTNSPEC_NOINLINE void scores(int g, Range range) {
        for (int r = range.begin; r < range.end; r += R) {
            block<Dot, R, C, KR, 1, LANES, LANES, false, PAIRS>(q + r * KR, (const Dot::B*)w.k_lanes[g], KT, w.p + r * LANES,
                                                                p.scale * UNIT);
            block<Dot, R, C, VR, 1, LANES, LANES, false>(dout + r * VR, (const Dot::B*)w.v_lanes[g], VT, w.ds + r * LANES);
        }
    }

    // Turns scores into P and dS, in place; in pair mode into pairs of rows.
    ATTNSPEC_NOINLINE void weights(int g, Range range, bool partial, int64_t first_query, int count) {
        const float scale = score_scale(p.scale);
        vfloat unused[Score::SUMS + 1];
        const Scored sizes = p.sizes;  // what score lines read stays in registers
        const pos head = (pos)(sizes.h_start + h), entry = (pos)(sizes.b_start + b);
        for (int r = range.begin; r < range.end; r += STEP)
            for (int c = 0; c < C; ++c) {
                vfloat x[STEP], y[STEP];
                for (int i = 0; i < STEP; ++i) {
                    const int at = (r + i) * LANES + c * W;
                    vfloat s = load(w.p + at);
                    const vint on = partial ? *(const vint*)(w.mask + at) : all(-1);
                    if (!Score::IDENTITY && partial) s = on != 0 ? s : vfloat{};
                    const vint key_at = *(const vint*)(w.key_at[g] + c * W);
                    const pos query_at = Score::IDENTITY || r + i >= count
                                             ? 0 : (pos)(this->at.queries(first_query + r + i) + sizes.q_start);
                    x[i] = Score::IDENTITY ? s : Score::value(s, query_at, key_at, head, entry, sizes);
                    x[i] = smaller(vfloat{}, in_log2(x[i] - w.top[r + i]) - w.sum[r + i]);
                    y[i] = load(w.ds + at) * scale - w.delta[r + i];
                    if (partial) {
                        x[i] = on != 0 ? x[i] : all(-INF);
                        y[i] = on != 0 ? y[i] : vfloat{};
                    }
                    x[i] = exp2<!PAIRS>(x[i]);
                    y[i] *= x[i];
                    if (!Score::IDENTITY)
                        y[i] = p.scale * Score::backward(y[i], s, query_at, key_at, head, entry, sizes, Gradients{}, unused);
                }
#if defined(__AVX512BF16__)
                if constexpr (PAIRS) x[0] = interleave_pairs(x[0], x[STEP - 1]), y[0] = interleave_pairs(y[0], y[STEP - 1]);
#endif
                store(w.p + r / STEP * LANES + c * W, x[0]);
                store(w.ds + r / STEP * LANES + c * W, y[0]);
            }
    }

    ATTNSPEC_NOINLINE void keys(int g, Range range) {
        const int first = range.begin / STEP, steps = (range.end - range.begin) / STEP;
        for (int m = 0; m < VC; m += R)
            block<Dot, R, C, 1, VC, LANES, LANES, true>(dout_down + first * VC + m, (const Dot::B*)w.p + first * LANES, steps,
                                                        w.dv[g] + m * LANES);
        for (int m = 0; m < KC; m += R)
            block<Dot, R, C, 1, KC, LANES, LANES, true>(q_down + first * KC + m, (const Dot::B*)w.ds + first * LANES, steps,
                                                        w.dk[g] + m * LANES);
    }

    void store_keys() {
        for (int g = 0; g < groups; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            const int64_t slot = first + g * LANES + live.begin;
            const int count = live.end - live.begin;
            transpose<QT, LANES, QT, LANES>(w.rows, w.dk[g]);
            put<D, QT>(p.dk, slot, count, (float*)w.rows + live.begin * QT);
            transpose<OT, LANES, OT, LANES>(w.rows, w.dv[g]);
            put<DV, OT>(p.dv, slot, count, (float*)w.rows + live.begin * OT);
        }
    }

    template <int COLS, int S>
    void put(const Tensor& t, int64_t slot, int count, float* rows) {
        if (CARRY)
            for (int r = 0; r < count; ++r) {
                const Sum* before = row_of<Sum>(t, b, kv, at.keys(slot + r));
                for (int c = 0; c < COLS; ++c) rows[r * S + c] += to_float(before[c * t.stride[3]]);
            }
        put_rows<COLS, S, Sum>(t, b, kv, at.keys, slot, count, rows);
    }
};

}  // namespace attnspec
