// Forward: for each tile of queries, walk the key tiles that the pattern names and keep a running softmax.
//
// The queries of a tile lie on vector lanes, LANES at a time (a group). Per group: S = K Q^T, then the running maximum and
// P = exp2(S - maximum) down the lanes, then O^T += V^T P. Scores are in units of log2: the scale carries log2(e).
// The maximum is lazy: sums are rescaled only when a score passes it by 2^8, which after the first tiles hardly happens;
// fp32 has room for that factor and the result is the same.

namespace attnspec {

constexpr float SLACK = 8.f;
constexpr int GROUPS = (BM + LANES - 1) / LANES;

constexpr int VS = round_up(DV, R);                           // elements in a row (or pair of rows) of V
constexpr int QL = round_up(KT, W);                           // rows of transposed Q
constexpr int ROWS = round_up(BN, R);

struct alignas(64) ForwardSpace {  // one per thread; every array a multiple of a vector
    uint32_t q[GROUPS][QL * LANES];
    float out[GROUPS][OT * LANES];
    float top[GROUPS][LANES], sum[GROUPS][LANES], rounded_sum[GROUPS][LANES];
    float s[ROWS * LANES];
    int32_t mask[ROWS * LANES];
    uint32_t rows[LANES * (QL > OT ? QL : OT)];
    uint32_t k[round_up(ROWS * KT, W)], v[round_up(ROWS / STEP * VS, W)];
};

template <class Pattern>
struct ForwardTile {
    const ForwardProblem& p;
    ForwardSpace& w;
    int64_t b, h, kv, tile_begin;  // tile_begin: position of the tile's first lane
    int64_t begin, end;            // positions of the call's queries inside the tile
    const Dot::A *k, *v;

    Range lanes(int g) const { return clip(tile_begin + g * LANES, begin, end); }

    void load_queries(int64_t offset) {
        for (int g = 0; g < GROUPS; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            load_lanes<D, QL>(w.q[g], w.rows, p.q, b, h, tile_begin + g * LANES - offset, live, p.scale * LOG2E);
            for (int l = 0; l < LANES; ++l) w.top[g][l] = -INF, w.sum[g][l] = w.rounded_sum[g][l] = 0.f;
            memset(w.out[g], 0, sizeof(w.out[g]));
        }
    }

    ATTNSPEC_NOINLINE void visit(int64_t j, bool partial) {
        const int64_t first = j * BN, left = p.sizes.n - first;
        if (first < 0 || left <= 0) return;
        const int count = left < BN ? (int)left : BN, rows = round_up(count, R);
        k = load_rows<D, KT>(w.k, p.k, b, kv, first, count, rows);
        v = load_columns<DV, VS>(w.v, p.v, b, kv, first, count, rows);
        for (int g = 0; g < GROUPS; ++g) {
            Range live = lanes(g), range = {0, rows};
            if (live.begin >= live.end) continue;
            if (partial) {
                range = mask_tile<Pattern, true>(w.mask, tile_begin + g * LANES, live, first, count, h, b, p.sizes);
                if (range.begin >= range.end) continue;
            }
            scores(g, range);
            if (partial) hide(range);
            for (int r = count; r < range.end; ++r)
                for (int l = 0; l < LANES; ++l) w.s[r * LANES + l] = -INF;
            softmax(g, range);
            output(g, range);
        }
    }

    ATTNSPEC_NOINLINE void scores(int g, Range range) {
        const float scale = p.scale * LOG2E;
        for (int r = range.begin; r < range.end; r += R)
            block<Dot, R, C, KT, 1, LANES, LANES, false, PAIRS>(k + r * KT, (const Dot::B*)w.q[g], KT,
                                                                w.s + r * LANES, scale);
    }

    ATTNSPEC_NOINLINE void output(int g, Range range) {
        const auto* a = v + range.begin / STEP * VS;
        const auto* x = (const Dot::B*)w.s + range.begin / STEP * LANES;
        for (int m = 0; m < VS; m += R)
            block<Dot, R, C, 1, VS, LANES, LANES, true>(a + m, x, (range.end - range.begin) / STEP, w.out[g] + m * LANES);
    }

    void hide(Range range) {
        for (int i = range.begin * LANES; i < range.end * LANES; i += W)
            store(w.s + i, *(const vint*)(w.mask + i) != 0 ? load(w.s + i) : all(-INF));
    }

    // Turns scores into weights, in place. In pair mode these are rounded to bf16, and the output is divided by the sum of
    // the rounded ones: a row that attends to one key gets that key's value exactly. The log-sum-exp is of the exact ones.
    ATTNSPEC_NOINLINE void softmax(int g, Range range) {
        vfloat top[C], sum[C], rounded[C], base[C];
        for (int c = 0; c < C; ++c) {
            // Two chains: the latency of the maximum would show.
            vfloat even = all(-INF), odd = even;
            for (int r = range.begin; r < range.end; r += 2) {
                even = larger(load(w.s + r * LANES + c * W), even);
                odd = larger(load(w.s + (r + 1) * LANES + c * W), odd);
            }
            top[c] = larger(even, odd);
        }
        vint passed = vint{};
        for (int c = 0; c < C; ++c) passed |= (vint)(top[c] > load(w.top[g] + c * W) + SLACK);
        if (any(passed)) raise(g, top);
        for (int c = 0; c < C; ++c) {
            base[c] = load(w.top[g] + c * W);
            base[c] = base[c] == -INF ? vfloat{} : base[c];
            sum[c] = load(w.sum[g] + c * W);
            rounded[c] = load(w.rounded_sum[g] + c * W);
        }
        for (int r = range.begin; r < range.end; r += STEP)
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) {
                float* at = w.s + r * LANES + c * W;
                vfloat x = exp2<!PAIRS>(load(at) - base[c]);
                sum[c] += x;
#if defined(__AVX512BF16__)
                if constexpr (PAIRS) {
                    // The weights of two keys side by side in each lane.
                    vfloat y = exp2<!PAIRS>(load(at + LANES) - base[c]);
                    sum[c] += y;
                    x = interleave_pairs(x, y);
                    const pair ones = 0x3f803f80;
                    rounded[c] = Pairs::multiply_add(&ones, x, rounded[c]);
                    store(w.s + r / 2 * LANES + c * W, x);
                    continue;
                }
#endif
                store(at, x);
            }
        for (int c = 0; c < C; ++c) {
            store(w.sum[g] + c * W, sum[c]);
            store(w.rounded_sum[g] + c * W, PAIRS ? rounded[c] : sum[c]);
        }
    }

    // A score passed the running maximum by far: rescale what has been summed.
    ATTNSPEC_NOINLINE void raise(int g, const vfloat* top) {
        for (int c = 0; c < C; ++c) {
            vfloat old = load(w.top[g] + c * W), now = larger(top[c], old);
            vfloat factor = exp2<true>(old - (now == -INF ? vfloat{} : now));
            store(w.top[g] + c * W, now);
            store(w.sum[g] + c * W, load(w.sum[g] + c * W) * factor);
            store(w.rounded_sum[g] + c * W, load(w.rounded_sum[g] + c * W) * factor);
            for (int d = 0; d < VS; ++d) {
                float* at = w.out[g] + d * LANES + c * W;
                store(at, load(at) * factor);
            }
        }
    }

    void store_output(int64_t offset) {
        for (int g = 0; g < GROUPS; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            for (int c = 0; c < C; ++c) {
                vfloat sum = load(w.rounded_sum[g] + c * W), factor = sum == 0.f ? vfloat{} : 1.f / sum;
                for (int d = 0; d < OT; ++d) {
                    float* at = w.out[g] + d * LANES + c * W;
                    store(at, load(at) * factor);
                }
            }
            transpose<OT, LANES, OT, LANES>(w.rows, w.out[g]);
            const int64_t row = tile_begin + g * LANES + live.begin - offset;
            const int count = live.end - live.begin;
            rows_from_float<DV, OT>(row_of<Elem>(p.out, b, h, row), p.out.stride[2], p.out.stride[3],
                                    (const float*)w.rows + live.begin * OT, count);
            float* lse = p.lse + (b * p.sizes.heads + h) * p.sizes.n_q + row;
            for (int l = 0; l < count; ++l) {
                const float sum = w.sum[g][live.begin + l];
                lse[l] = sum == 0.f ? -INF : w.top[g][live.begin + l] * LN2 + __builtin_logf(sum);
            }
        }
    }
};

// Query tiles of one (batch, head) after another, so that threads share its keys in cache; the last tile first, which in
// causal patterns is the heaviest.
template <class Pattern>
static int forward(const ForwardProblem& p) {
    const Sizes& s = p.sizes;
    if (s.n_q <= 0 || s.batch <= 0 || s.heads <= 0 || s.kv_heads <= 0) return 0;
    const int64_t offset = Pattern::align_end ? s.n - s.n_q : 0;
    const int64_t low = floor_div(offset, BM), high = floor_div(offset + s.n_q - 1, BM), tiles = high - low + 1;
    return !for_tasks<ForwardSpace>(tiles * s.heads * s.batch, p.threads, [&](int64_t task, ForwardSpace& w) {
        const int64_t i = high - task % tiles, h = task / tiles % s.heads, b = task / tiles / s.heads;
        const int64_t begin = i * BM, end = begin + BM;
        ForwardTile<Pattern> tile{p, w, b, h, h / (s.heads / s.kv_heads), begin,
                                  begin < offset ? offset : begin, end > offset + s.n_q ? offset + s.n_q : end, nullptr, nullptr};
        tile.load_queries(offset);
        Pattern::forward(i, h, b, s, [&](int64_t j) { tile.visit(j, false); }, [&](int64_t j) { tile.visit(j, true); });
        tile.store_output(offset);
    });
}

}  // namespace attnspec
