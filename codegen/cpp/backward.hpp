// Backward, by query tile: like forward, with the queries on the lanes. Given P = exp2(S - lse) and dO,
//
//     dP = V dO^T      dS = P * (dP - delta)      dQ^T += K^T dS      dV += P dO      dK += dS Q
//
// with delta = rowsum(dO * O) - dlse. One kernel serves two plans:
//   * one pass (KEYS): a thread owns a key head, walks all query tiles of its heads and adds dK and dV up as it goes;
//   * two passes, when there are fewer key heads than threads: this one for dQ alone, and that of backward_keys.hpp.
// Sums are in fp32; in pair mode P and dS are rounded to bf16 as factors. Scores are in units of log2, and the scale is
// folded into dS.

namespace attnspec {

constexpr int GROUPS = (BM + LANES - 1) / LANES, PM = GROUPS * LANES;  // lanes of a query tile
constexpr int ROWS = round_up(BN, R);
constexpr int KC = round_up(D, R), VC = round_up(DV, R);               // row strides of the moving side: sums over rows,
constexpr int KR = PAIRS ? KT : KC, VR = PAIRS ? VT : VC;              // and products along them
constexpr int QL = round_up(KT, W), OL = round_up(VT, W);              // rows of the transposed side

// dK and dV of one key head as fp32 rows of QT and OT, from row 0.
struct Sums { float *dk, *dv; };

struct alignas(64) QuerySpace {
    uint32_t q_lanes[GROUPS][QL * LANES], dout_lanes[GROUPS][OL * LANES];  // transposed
    uint32_t q[PM / STEP * QT], dout[PM / STEP * OT];                      // as rows (or pairs of rows)
    float dq[GROUPS][QT * LANES];
    float lse[PM], delta[PM];
    float p[ROWS * PM], ds[ROWS * PM];
    // In pair mode, P and dS as bf16 rows, and dS as pairs of rows too.
    uint32_t p_rows[PAIRS ? ROWS * PM / 2 : W], ds_rows[PAIRS ? ROWS * PM / 2 : W], ds_pairs[PAIRS ? ROWS * PM / 2 : W];
    float tail_dk[ROWS * QT], tail_dv[ROWS * OT];
    int32_t mask[ROWS * LANES];
    uint32_t rows[LANES * (QT > OT ? QT : OT)], more_rows[LANES * OT];
    uint32_t k[ROWS * KR], k_down[PAIRS ? ROWS / 2 * KC : W], v[ROWS * VR];
};

// C rows += A (a block of R rows by `steps` elements) times rows of B (stride S), all S columns.
template <int S>
ATTNSPEC_INLINE void add_rows(const Dot::A* a, const Dot::B* b, int64_t steps, float* c) {
    constexpr int whole = S / LANES * LANES;
    for (int x = 0; x < whole; x += LANES) block<Dot, R, C, PM / STEP, 1, S, S, true>(a, b + x, steps, c + x);
    for (int x = whole; x < S; x += W) block<Dot, R, 1, PM / STEP, 1, S, S, true>(a, b + x, steps, c + x);
}

template <class Pattern, bool KEYS>
struct BackwardTile {
    const BackwardProblem& p;
    QuerySpace& w;
    Sums sums;
    bool padded;  // the sums have room for a whole last tile
    int64_t b, h, kv, tile_begin, begin, end;
    const Dot::A *k, *k_down, *v;
    Range across[ROWS / R];  // for each block of keys, the groups that have pairs in it

    Range lanes(int g) const { return clip(tile_begin + g * LANES, begin, end); }

    void load_queries(int64_t offset, float* delta) {
        const Sizes& s = p.sizes;
        for (int g = 0; g < GROUPS; ++g) {
            Range live = lanes(g);
            float *lse = w.lse + g * LANES, *dl = w.delta + g * LANES;
            // A lane without a query: its weights come out as zero.
            for (int l = 0; l < LANES; ++l) lse[l] = INF, dl[l] = 0.f;
            uint32_t *q = w.q + g * LANES / STEP * QT, *dout = w.dout + g * LANES / STEP * OT;
            if (live.begin >= live.end) {
                memset(q, 0, sizeof(uint32_t) * LANES / STEP * QT);
                memset(dout, 0, sizeof(uint32_t) * LANES / STEP * OT);
                continue;
            }
            const int64_t row = tile_begin + g * LANES - offset, line = (b * s.heads + h) * s.n_q + row;
            load_lanes<D, QL>(w.q_lanes[g], w.rows, p.q, b, h, row, live, p.scale * LOG2E);
            if constexpr (PAIRS)
                rows_to_pairs<D, QT>(q, (const bf16*)w.rows, 2 * QL, 1, LANES, LANES);
            else if (KEYS)
                copy_rows<D, QT>((float*)q, p.q, row, live);  // unscaled, for dK
            load_lanes<DV, OL>(w.dout_lanes[g], w.rows, p.dout, b, h, row, live, UNSCALED);
            if constexpr (PAIRS)
                rows_to_pairs<DV, OT>(dout, (const bf16*)w.rows, 2 * OL, 1, LANES, LANES);
            else
                memcpy(dout, w.rows, sizeof(float) * LANES * OT);
            copy_rows<DV, OT>((float*)w.rows, p.dout, row, live);
            copy_rows<DV, OT>((float*)w.more_rows, p.out, row, live);
            for (int l = live.begin; l < live.end; ++l) {
                const float *x = (const float*)w.rows + l * OT, *y = (const float*)w.more_rows + l * OT;
                vfloat dot = vfloat{};
                for (int c = 0; c < OT; c += W) dot += load(x + c) * load(y + c);
                float sum = 0.f;
                for (int c = 0; c < W; ++c) sum += dot[c];
                if (p.dlse) sum -= p.dlse[line + l];
                dl[l] = sum * p.scale;
                lse[l] = p.lse[line + l] == -INF ? INF : p.lse[line + l] * LOG2E;
                if (delta) delta[line + l] = dl[l];
            }
            memset(w.dq[g], 0, sizeof(w.dq[g]));
        }
    }

    template <int COLS, int S>
    void copy_rows(float* to, const Tensor& t, int64_t row, Range live) {
        memset(to, 0, sizeof(float) * live.begin * S);
        rows_to_float<COLS, S>(to + live.begin * S, row_of<Elem>(t, b, h, row + live.begin), t.stride[2], t.stride[3],
                               live.end - live.begin, LANES - live.begin, 1.f);
    }

    ATTNSPEC_NOINLINE void visit(int64_t j, bool partial) {
        const int64_t first = j * BN, left = p.sizes.n - first;
        if (first < 0 || left <= 0) return;
        const int count = left < BN ? (int)left : BN, rows = round_up(count, R);
        load_both<D, KR, KC>(k, k_down, w.k, w.k_down, p.k, b, kv, first, count, rows);
        v = load_rows<DV, VR>(w.v, p.v, b, kv, first, count, rows);
        for (int r = 0; r < rows / R; ++r) across[r] = {GROUPS, 0};
        for (int g = 0; g < GROUPS; ++g) {
            Range live = lanes(g), range = {0, rows};
            if (live.begin >= live.end)
                range = {0, 0};
            else if (partial)
                range = mask_tile<Pattern, true>(w.mask, tile_begin + g * LANES, live, first, count, h, b, p.sizes);
            if (range.begin < range.end) {
                scores(g, range);
                weights(g, range, partial, count);
                queries(g, range);
            }
            if (KEYS) fill(g, range, rows);
        }
        if (KEYS) keys(first, count, rows);
    }

    ATTNSPEC_NOINLINE void scores(int g, Range range) {
        for (int r = range.begin; r < range.end; r += R) {
            block<Dot, R, C, KR, 1, LANES, PM, false, PAIRS>(k + r * KR, (const Dot::B*)w.q_lanes[g], KT, w.p + r * PM + g * LANES,
                                                             p.scale * LOG2E);
            block<Dot, R, C, VR, 1, LANES, PM, false>(v + r * VR, (const Dot::B*)w.dout_lanes[g], VT, w.ds + r * PM + g * LANES);
        }
    }

    ATTNSPEC_NOINLINE void weights(int g, Range range, bool partial, int count) {
        const bool masked = partial || range.end > count;
        for (int c = 0; c < C; ++c) {
            const int lane = g * LANES + c * W;
            const vfloat lse = load(w.lse + lane), delta = load(w.delta + lane), scale = all(p.scale);
            for (int r = range.begin; r < range.end; r += STEP) {
                vfloat x[STEP], y[STEP];
                for (int i = 0; i < STEP; ++i) {
                    x[i] = load(w.p + (r + i) * PM + lane) - lse;
                    y[i] = load(w.ds + (r + i) * PM + lane) * scale - delta;
                    if (masked) {
                        vint on = all(-(int32_t)(r + i < count));
                        if (partial) on &= *(const vint*)(w.mask + (r + i) * LANES + c * W);
                        x[i] = on != 0 ? x[i] : all(-INF);
                        y[i] = on != 0 ? y[i] : vfloat{};
                    }
                    x[i] = exp2<!PAIRS>(x[i]);
                    y[i] *= x[i];
                    store_weights(w.p, w.p_rows, (r + i) * PM + lane, x[i]);
                    store_weights(w.ds, w.ds_rows, (r + i) * PM + lane, y[i]);
                }
#if defined(__AVX512BF16__)
                if constexpr (PAIRS) store((float*)w.ds_pairs + r / 2 * PM + lane, interleave_pairs(y[0], y[STEP - 1]));
#endif
            }
        }
    }

    static void store_weights(float* floats, uint32_t* halves, int at, vfloat x) {
#if defined(__AVX512BF16__)
        if constexpr (PAIRS) return store_bf16((uint16_t*)halves + at, x);
#endif
        store(floats + at, x);
    }

    const Dot::A* p_rows() const { return (const Dot::A*)(PAIRS ? w.p_rows : (uint32_t*)w.p); }
    const Dot::A* ds_rows() const { return (const Dot::A*)(PAIRS ? w.ds_rows : (uint32_t*)w.ds); }

    ATTNSPEC_NOINLINE void queries(int g, Range range) {
        const auto* ds = (const Dot::B*)(PAIRS ? w.ds_pairs : (uint32_t*)w.ds) + range.begin / STEP * PM + g * LANES;
        for (int m = 0; m < KC; m += R)
            block<Dot, R, C, 1, KC, PM, LANES, true>(k_down + range.begin / STEP * KC + m, ds, (range.end - range.begin) / STEP,
                                                     w.dq[g] + m * LANES);
    }

    // Zeros where a group skipped blocks of keys, so that the sum over queries may run across groups.
    void fill(int g, Range range, int rows) {
        for (int r = 0; r < rows; r += R)
            if (r >= range.begin && r < range.end) {
                Range& a = across[r / R];
                if (a.end == 0) a.begin = g;
                a.end = g + 1;
            } else
                for (int x = r; x < r + R; ++x) {
                    const size_t at = (x * PM + g * LANES) / STEP, bytes = LANES / STEP * 4;
                    memset((uint32_t*)p_rows() + at, 0, bytes);
                    memset((uint32_t*)ds_rows() + at, 0, bytes);
                }
    }

    ATTNSPEC_NOINLINE void keys(int64_t first, int count, int rows) {
        float *dk = sums.dk + first * QT, *dv = sums.dv + first * OT;
        const bool aside = count < rows && !padded;
        if (aside) {
            memcpy(w.tail_dk, dk, sizeof(float) * count * QT), dk = w.tail_dk;
            memcpy(w.tail_dv, dv, sizeof(float) * count * OT), dv = w.tail_dv;
        }
        for (int r = 0; r < rows; r += R) {
            const int from = across[r / R].begin * LANES / STEP, steps = across[r / R].end * LANES / STEP - from;
            if (steps <= 0) continue;
            add_rows<OT>(p_rows() + r * PM / STEP + from, (const Dot::B*)w.dout + from * OT, steps, dv + r * OT);
            add_rows<QT>(ds_rows() + r * PM / STEP + from, (const Dot::B*)w.q + from * QT, steps, dk + r * QT);
        }
        if (aside) {
            memcpy(sums.dk + first * QT, dk, sizeof(float) * count * QT);
            memcpy(sums.dv + first * OT, dv, sizeof(float) * count * OT);
        }
    }

    void store_queries(int64_t offset) {
        for (int g = 0; g < GROUPS; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            transpose<QT, LANES, QT, LANES>(w.rows, w.dq[g]);
            rows_from_float<D, QT>(row_of<Elem>(p.dq, b, h, tile_begin + g * LANES + live.begin - offset), p.dq.stride[2],
                                   p.dq.stride[3], (const float*)w.rows + live.begin * QT, live.end - live.begin);
        }
    }
};

template <class Pattern, bool KEYS>
static void backward_query_tile(const BackwardProblem& p, QuerySpace& w, Sums sums, bool padded, int64_t b, int64_t h, int64_t i,
                                float* delta) {
    const Sizes& s = p.sizes;
    const int64_t offset = Pattern::align_end ? s.n - s.n_q : 0, begin = i * BM, end = begin + BM;
    BackwardTile<Pattern, KEYS> tile{p, w, sums, padded, b, h, h / (s.heads / s.kv_heads), begin,
                                     begin < offset ? offset : begin, end > offset + s.n_q ? offset + s.n_q : end, nullptr,
                                     nullptr, nullptr, {}};
    tile.load_queries(offset, delta);
    Pattern::forward(i, h, b, s, [&](int64_t j) { tile.visit(j, false); }, [&](int64_t j) { tile.visit(j, true); });
    tile.store_queries(offset);
}

}  // namespace attnspec
