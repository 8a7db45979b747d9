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
    float lse[round_up(QUERY_ROWS, W)], delta[round_up(QUERY_ROWS, W)];
    int32_t mask[QUERY_ROWS * LANES];
    uint32_t rows[LANES * (QT > OT ? QT : OT)];
    uint32_t q[QUERY_ROWS * KR], q_down[PAIRS ? QUERY_ROWS / 2 * KC : W];
    uint32_t dout[QUERY_ROWS * VR], dout_down[PAIRS ? QUERY_ROWS / 2 * VC : W];
};

template <class Pattern>
struct BackwardKeyTile {
    const BackwardProblem& p;
    KeySpace& w;
    const float* deltas;
    int64_t b, kv, tile_begin, offset;
    int64_t h;  // the query head that is moving past
    const Dot::A *q, *q_down, *dout, *dout_down;

    Range lanes(int g) const { return clip(tile_begin + g * LANES, 0, p.sizes.n < tile_begin + BN ? p.sizes.n : tile_begin + BN); }

    void load_keys() {
        for (int g = 0; g < KEY_GROUPS; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            load_lanes<D, QL>(w.k_lanes[g], w.rows, p.k, b, kv, tile_begin + g * LANES, live, p.scale * LOG2E);
            load_lanes<DV, OL>(w.v_lanes[g], w.rows, p.v, b, kv, tile_begin + g * LANES, live, UNSCALED);
            memset(w.dk[g], 0, sizeof(w.dk[g]));
            memset(w.dv[g], 0, sizeof(w.dv[g]));
        }
    }

    ATTNSPEC_NOINLINE void visit(int64_t i, bool partial) {
        const Sizes& s = p.sizes;
        int64_t begin = i * BM, end = begin + BM;
        if (begin < offset) begin = offset;
        if (end > offset + s.n_q) end = offset + s.n_q;
        if (begin >= end) return;
        const int count = (int)(end - begin), rows = round_up(count, R);
        const int64_t row = begin - offset, line = (b * s.heads + h) * s.n_q + row;
        load_both<D, KR, KC>(q, q_down, w.q, w.q_down, p.q, b, h, row, count, rows);
        load_both<DV, VR, VC>(dout, dout_down, w.dout, w.dout_down, p.dout, b, h, row, count, rows);
        for (int r = 0; r < rows; ++r) {
            const float lse = r < count ? p.lse[line + r] : -INF;
            w.lse[r] = lse == -INF ? INF : lse * LOG2E;
            w.delta[r] = r < count ? deltas[line + r] : 0.f;
        }
        for (int g = 0; g < KEY_GROUPS; ++g) {
            Range live = lanes(g), range = {0, rows};
            if (live.begin >= live.end) continue;
            if (partial) {
                range = mask_tile<Pattern, false>(w.mask, tile_begin + g * LANES, live, begin, count, h, b, s);
                if (range.begin >= range.end) continue;
            }
            scores(g, range);
            weights(range, partial);
            keys(g, range);
        }
    }

    ATTNSPEC_NOINLINE void scores(int g, Range range) {
        for (int r = range.begin; r < range.end; r += R) {
            block<Dot, R, C, KR, 1, LANES, LANES, false, PAIRS>(q + r * KR, (const Dot::B*)w.k_lanes[g], KT, w.p + r * LANES,
                                                                p.scale * LOG2E);
            block<Dot, R, C, VR, 1, LANES, LANES, false>(dout + r * VR, (const Dot::B*)w.v_lanes[g], VT, w.ds + r * LANES);
        }
    }

    // Turns scores into P and dS, in place; in pair mode into pairs of rows.
    ATTNSPEC_NOINLINE void weights(Range range, bool partial) {
        for (int r = range.begin; r < range.end; r += STEP)
            for (int c = 0; c < C; ++c) {
                vfloat x[STEP], y[STEP];
                for (int i = 0; i < STEP; ++i) {
                    const int at = (r + i) * LANES + c * W;
                    x[i] = load(w.p + at) - w.lse[r + i];
                    y[i] = load(w.ds + at) * p.scale - w.delta[r + i];
                    if (partial) {
                        vint on = *(const vint*)(w.mask + at);
                        x[i] = on != 0 ? x[i] : all(-INF);
                        y[i] = on != 0 ? y[i] : vfloat{};
                    }
                    x[i] = exp2<!PAIRS>(x[i]);
                    y[i] *= x[i];
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
        for (int g = 0; g < KEY_GROUPS; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            const int64_t row = tile_begin + g * LANES + live.begin;
            const int count = live.end - live.begin;
            transpose<QT, LANES, QT, LANES>(w.rows, w.dk[g]);
            rows_from_float<D, QT>(row_of<Elem>(p.dk, b, kv, row), p.dk.stride[2], p.dk.stride[3],
                                   (const float*)w.rows + live.begin * QT, count);
            transpose<OT, LANES, OT, LANES>(w.rows, w.dv[g]);
            rows_from_float<DV, OT>(row_of<Elem>(p.dv, b, kv, row), p.dv.stride[2], p.dv.stride[3],
                                    (const float*)w.rows + live.begin * OT, count);
        }
    }
};

}  // namespace attnspec
