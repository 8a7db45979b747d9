// Backward, by query tile: like forward, with the queries on the lanes. Given P = exp2(S - lse) and dO,
//
//     dP = V dO^T      dS = P * (dP - delta)      dQ^T += K^T dS      dV += P dO      dK += dS Q
//
// with delta = rowsum(dO * O) - dlse. One kernel serves two plans:
//   * one pass (KEYS): a thread owns a key head, walks all query tiles of its heads and adds dK and dV up as it goes;
//   * two passes, when there are fewer key heads than threads: this one for dQ alone, and that of backward_keys.hpp.
// Sums are in fp32; in pair mode P and dS are rounded to bf16 as factors. Scores are in the units of forward.hpp, and the
// scale is folded into dS. A weight is at most 1, whatever digits large scores have lost.

namespace attnspec {

constexpr int GROUPS = (BM + LANES - 1) / LANES, PM = GROUPS * LANES;  // lanes of the largest query tile
constexpr int ROWS = round_up(BN, R);
constexpr int KC = round_up(D, R), VC = round_up(DV, R);               // row strides of the moving side: sums over rows,
constexpr int KR = PAIRS ? KT : KC, VR = PAIRS ? VT : VC;              // and products along them
constexpr int QL = round_up(KT, W), OL = round_up(VT, W);              // rows of the transposed side

// dK and dV of one key head as fp32 rows of QT and OT, from row 0; `padded` if they have room for a whole last tile.
struct Sums { float *dk, *dv; bool padded; };

struct alignas(64) QuerySpace {
    uint32_t q_lanes[GROUPS][QL * LANES], dout_lanes[GROUPS][OL * LANES];  // transposed
    uint32_t q[PM / STEP * QT], dout[PM / STEP * OT];                      // as rows (or pairs of rows)
    float dq[GROUPS][QT * LANES];
    float top[PM], sum[PM], delta[PM];
    float p[ROWS * PM], ds[ROWS * PM];
    // In pair mode, P and dS as bf16 rows, and dS as pairs of rows too.
    uint32_t p_rows[PAIRS ? ROWS * PM / 2 : W], ds_rows[PAIRS ? ROWS * PM / 2 : W], ds_pairs[PAIRS ? ROWS * PM / 2 : W];
    float tail_dk[ROWS * QT], tail_dv[ROWS * OT];
    int32_t mask[ROWS * LANES], query_at[PM];
    uint32_t rows[LANES * (QT > OT ? QT : OT)], more_rows[LANES * OT];
    uint32_t k[ROWS * KR], k_down[PAIRS ? ROWS / 2 * KC : W], v[ROWS * VR], fit[ROWS / STEP * KC];
    Unfit<ROWS> unfit;
    float scratch[round_up(SCRATCH, W)];
};

// delta is kept with the factor of dS in it; a score line needs it without.
static inline float score_scale(float scale) { return Score::IDENTITY ? scale : 1.f; }

// C rows += A (a block of R rows by `steps` elements) times rows of B (stride S), all S columns.
template <int S>
ATTNSPEC_INLINE void add_rows(const Dot::A* a, const Dot::B* b, int64_t steps, float* c) {
    constexpr int whole = S / LANES * LANES;
    for (int x = 0; x < whole; x += LANES) block<Dot, R, C, PM / STEP, 1, S, S, true>(a, b + x, steps, c + x);
    for (int x = whole; x < S; x += W) block<Dot, R, 1, PM / STEP, 1, S, S, true>(a, b + x, steps, c + x);
}

template <bool KEYS>
struct BackwardTile {
    const BackwardProblem& p;
    QuerySpace& w;
    const Place& at;
    Sums sums;
    int64_t b, h, kv;
    int64_t entry, head;  // b and h, as the pattern knows them
    int64_t first;
    Span live;
    int groups, branch;
    float times;
    float* delta;  // where to note delta for the pass by keys, or null
    bool loaded;
    vfloat* score_sums;
    Gradients own_gradients;
    const Dot::A *k, *k_down, *fit, *v;
    Range across[ROWS / R];  // for each block of keys, the groups that have pairs in it

    Range lanes(int g) const { return clip(first + g * LANES, live.begin, live.end); }

    void load_queries() {
        loaded = true;
        const Sizes& s = p.sizes;
        const int64_t line = (b * s.query_heads + h) * s.rows;
        Tensor own = p.out;
        own.data = (Elem*)own.data + branch * p.branch;
        for (int g = 0; g < groups; ++g) {
            Range live = lanes(g);
            float *top = w.top + g * LANES, *sums = w.sum + g * LANES, *dl = w.delta + g * LANES;
            // A lane without a query: its weights come out as zero.
            for (int l = 0; l < LANES; ++l) top[l] = INF, sums[l] = dl[l] = 0.f;
            uint32_t *q = w.q + g * LANES / STEP * QT, *dout = w.dout + g * LANES / STEP * OT;
            if (live.begin >= live.end) {
                memset(q, 0, sizeof(uint32_t) * LANES / STEP * QT);
                memset(dout, 0, sizeof(uint32_t) * LANES / STEP * OT);
                continue;
            }
            const int64_t slot = first + g * LANES;
            load_lanes<D, QL>(w.q_lanes[g], w.rows, w.scratch, p.q, b, h, at.queries, slot, live, p.scale * UNIT);
            if (!Score::IDENTITY) load_positions(w.query_at + g * LANES, at.queries, s.q_start, slot, live);
            if constexpr (PAIRS)
                rows_to_pairs<D, QT>(q, (const bf16*)w.rows, 2 * QL, 1, LANES, LANES);
            else if (KEYS)
                copy_rows<D, QT>((float*)q, p.q, slot, live);  // unscaled, for dK
            load_lanes<DV, OL>(w.dout_lanes[g], w.rows, w.scratch, p.dout, b, h, at.queries, slot, live, UNSCALED);
            if constexpr (PAIRS)
                rows_to_pairs<DV, OT>(dout, (const bf16*)w.rows, 2 * OL, 1, LANES, LANES);
            else
                memcpy(dout, w.rows, sizeof(float) * LANES * OT);
            copy_rows<DV, OT>((float*)w.rows, p.dout, slot, live);
            copy_rows<DV, OT>((float*)w.more_rows, own, slot, live);
            for (int l = live.begin; l < live.end; ++l) {
                const int64_t row = line + at.queries(slot + l);
                const float *x = (const float*)w.rows + l * OT, *y = (const float*)w.more_rows + l * OT;
                vfloat dot = vfloat{};
                for (int c = 0; c < OT; c += W) dot += load(x + c) * load(y + c);
                float sum = 0.f;
                for (int c = 0; c < W; ++c) sum += dot[c];
                if (p.dlse) sum -= p.dlse[row];
                dl[l] = sum * score_scale(p.scale);
                const Norm norm = Norm::of(p.norm, p.lse, s.entries * s.query_heads * s.rows, row);
                top[l] = norm.top == -INF ? INF : norm.top, sums[l] = norm.sum - times;
                if (delta) delta[row] = dl[l];
                // What a query that is not finite sees is not a number; what it does not see must not notice.
                const int r = g * LANES + l;
                if (KEYS && (!is_finite<QT>((const Dot::A*)w.q, r) || !is_finite<OT>((const Dot::A*)w.dout, r))) {
                    clear_row<QT>(w.q, r), clear_row<OT>(w.dout, r);
                    top[l] = NO_NUMBER;
                }
            }
            memset(w.dq[g], 0, sizeof(w.dq[g]));
        }
    }

    template <int COLS, int S>
    void copy_rows(float* to, const Tensor& t, int64_t slot, Range live) {
        const int count = live.end - live.begin;
        const View<Elem> x = view<COLS, Elem>(w.scratch, t, b, h, at.queries, slot + live.begin, count);
        memset(to, 0, sizeof(float) * live.begin * S);
        rows_to_float<COLS, S>(to + live.begin * S, x.from, x.row, x.element, count, LANES - live.begin, 1.f);
    }

    template <class Pass>
    ATTNSPEC_NOINLINE void visit(int64_t j, bool partial) {
        const Span keys = slots_of(at.keys, at.key_slots, j, Pass::BN);
        if (j < 0 || keys.begin >= keys.end) return;
        if (!loaded) load_queries();
        const int count = (int)(keys.end - keys.begin), rows = round_up(count, R);
        load_both<D, KR, KC>(k, k_down, w.k, w.k_down, w.scratch, p.k, b, kv, at.keys, keys.begin, count, rows);
        v = load_rows<DV, VR>(w.v, w.scratch, p.v, b, kv, at.keys, keys.begin, count, rows);
        fit = k_down;
        w.unfit.begin();
        for (int r = 0; r < rows / R; ++r) across[r] = {GROUPS, 0};
        for (int g = 0; g < groups; ++g) {
            Range live = lanes(g), range = {0, rows};
            if (live.begin >= live.end)
                range = {0, 0};
            else if (partial)
                range = mask_tile<Pass, true>(w.mask, at, first + g * LANES, live, keys.begin, count, head, entry, p.sizes);
            if (range.begin < range.end) {
                if (partial) {
                    w.unfit.find<KC>(k_down, range);
                    fit = w.unfit.without<KC>(k_down, w.fit, rows);  // who sees the others has weights that are no numbers
                }
                scores(g, range);
                weights(g, range, partial, keys.begin, count);
                queries(g, range);
            }
            if (KEYS) fill(g, range, rows);
        }
        if (KEYS) this->keys(keys.begin, count, rows);
    }

    ATTNSPEC_NOINLINE void scores(int g, Range range) {
        for (int r = range.begin; r < range.end; r += R) {
            block<Dot, R, C, KR, 1, LANES, PM, false, PAIRS>(k + r * KR, (const Dot::B*)w.q_lanes[g], KT, w.p + r * PM + g * LANES,
                                                             p.scale * UNIT);
            block<Dot, R, C, VR, 1, LANES, PM, false>(v + r * VR, (const Dot::B*)w.dout_lanes[g], VT, w.ds + r * PM + g * LANES);
        }
    }

    ATTNSPEC_NOINLINE void weights(int g, Range range, bool partial, int64_t first_key, int count) {
        const bool masked = partial || range.end > count;
        const Scored sizes = p.sizes;  // what score lines read stays in registers
        for (int c = 0; c < C; ++c) {
            const int lane = g * LANES + c * W;
            const vfloat top = load(w.top + lane), sum = load(w.sum + lane), delta = load(w.delta + lane), scale = all(score_scale(p.scale));
            const vint query_at = *(const vint*)(w.query_at + lane);
            for (int r = range.begin; r < range.end; r += STEP) {
                vfloat x[STEP], y[STEP];
                for (int i = 0; i < STEP; ++i) {
                    vfloat s = load(w.p + (r + i) * PM + lane);
                    vint on = all(-(int32_t)(r + i < count));
                    if (partial) on &= *(const vint*)(w.mask + (r + i) * LANES + c * W);
                    if (!Score::IDENTITY && masked) s = on != 0 ? s : vfloat{};
                    const pos key_at = Score::IDENTITY || r + i >= count ? 0 : (pos)(at.keys(first_key + r + i) + sizes.k_start);
                    x[i] = Score::IDENTITY ? s : Score::value(s, query_at, key_at, (pos)head, (pos)entry, sizes);
                    x[i] = smaller(vfloat{}, in_log2(x[i] - top) - sum);
                    y[i] = load(w.ds + (r + i) * PM + lane) * scale - delta;
                    if (masked) {
                        x[i] = on != 0 ? x[i] : all(-INF);
                        y[i] = on != 0 ? y[i] : vfloat{};
                    }
                    x[i] = exp2<!PAIRS>(x[i]);
                    y[i] *= x[i];
                    if (!Score::IDENTITY)
                        y[i] = p.scale * Score::backward(y[i], s, query_at, key_at, (pos)head, (pos)entry, sizes, own_gradients,
                                                         score_sums);
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
            block<Dot, R, C, 1, KC, PM, LANES, true>(fit + range.begin / STEP * KC + m, ds, (range.end - range.begin) / STEP,
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

    ATTNSPEC_NOINLINE void keys(int64_t slot, int count, int rows) {
        const bool scattered = at.keys.list || at.keys.step != 1, aside = scattered || (count < rows && !sums.padded);
        const int64_t row = at.keys(slot);
        float *dk = sums.dk + row * QT, *dv = sums.dv + row * OT;
        if (scattered) {
            memset(w.tail_dk, 0, sizeof(float) * rows * QT), memset(w.tail_dv, 0, sizeof(float) * rows * OT);
        } else if (aside)
            memcpy(w.tail_dk, dk, sizeof(float) * count * QT), memcpy(w.tail_dv, dv, sizeof(float) * count * OT);
        if (aside) dk = w.tail_dk, dv = w.tail_dv;
        for (int r = 0; r < rows; r += R) {
            const int from = across[r / R].begin * LANES / STEP, steps = across[r / R].end * LANES / STEP - from;
            if (steps <= 0) continue;
            add_rows<OT>(p_rows() + r * PM / STEP + from, (const Dot::B*)w.dout + from * OT, steps, dv + r * OT);
            add_rows<QT>(ds_rows() + r * PM / STEP + from, (const Dot::B*)w.q + from * QT, steps, dk + r * QT);
        }
        if (scattered) {
            // One by one: a computed order may hold a key twice.
            for (int r = 0; r < count; ++r) {
                float *to_k = sums.dk + at.keys(slot + r) * QT, *to_v = sums.dv + at.keys(slot + r) * OT;
                for (int c = 0; c < QT; ++c) to_k[c] += dk[r * QT + c];
                for (int c = 0; c < OT; ++c) to_v[c] += dv[r * OT + c];
            }
        } else if (aside) {
            memcpy(sums.dk + row * QT, dk, sizeof(float) * count * QT);
            memcpy(sums.dv + row * OT, dv, sizeof(float) * count * OT);
        }
    }

    void store_queries() {
        for (int g = 0; g < groups; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            transpose<QT, LANES, QT, LANES>(w.rows, w.dq[g]);
            const int64_t slot = first + g * LANES + live.begin;
            float* rows = (float*)w.rows + live.begin * QT;
            if (CARRY)
                for (int r = 0; r < live.end - live.begin; ++r) {
                    const Sum* before = row_of<Sum>(p.dq, b, h, at.queries(slot + r));
                    for (int c = 0; c < D; ++c) rows[r * QT + c] += to_float(before[c * p.dq.stride[3]]);
                }
            put_rows<D, QT, Sum>(p.dq, b, h, at.queries, slot, live.end - live.begin, rows);
        }
    }
};

template <class Pass, bool KEYS>
static void backward_query_tile(const BackwardProblem& p, QuerySpace& w, Sums sums, const Place& at, int64_t b, int64_t h, int64_t i,
                                float* delta, Gradients gradients) {
    const Sizes& s = p.sizes;
    const Span live = slots_of(at.queries, at.query_slots, i, Pass::BM);
    if (live.begin >= live.end) return;
    vfloat score_sums[Score::SUMS + 1];
    for (auto& sum : score_sums) sum = vfloat{};
    BackwardTile<KEYS> tile{p, w, at, sums, b, h, h / (s.query_heads / s.key_heads), s.b_start + b, s.h_start + h, i * Pass::BM,
                            live, (Pass::BM + LANES - 1) / LANES, Pass::BRANCH, Pass::TIMES, delta, false, score_sums, gradients, nullptr, nullptr, nullptr, nullptr, {}};
    Pass::forward(i, at, tile.head, tile.entry, s, [&](int64_t j) { tile.template visit<Pass>(j, false); },
                  [&](int64_t j) { tile.template visit<Pass>(j, true); });
    if (!tile.loaded) {
        if (CARRY) return;  // nothing to add
        tile.load_queries();
    }
    tile.store_queries();
    if (gradients.of) Score::flush(score_sums, (pos)tile.head, (pos)tile.entry, s, gradients);
}

}  // namespace attnspec
