// Forward: for each tile of queries, walk the key tiles that the pattern names and keep a running softmax.
//
// The queries of a tile lie on vector lanes, LANES at a time (a group). Per group: S = K Q^T, then the running maximum and
// P = exp2(S - maximum) down the lanes, then O^T += V^T P. Scores are in units of log2, the scale carries log2(e), unless
// there are score lines: then in natural ones.
// The maximum is lazy: sums are rescaled only when a score passes it by 8, which after the first tiles hardly happens;
// fp32 has room for that factor and the result is the same.

namespace attnspec {

constexpr int GROUPS = (BM + LANES - 1) / LANES;

constexpr int VS = round_up(DV, R);                           // elements in a row (or pair of rows) of V
constexpr int QL = round_up(KT, W);                           // rows of transposed Q
constexpr int ROWS = round_up(BN, R);

struct alignas(64) ForwardSpace {  // one per thread; every array a multiple of a vector
    uint32_t q[GROUPS][QL * LANES];
    float out[GROUPS][OT * LANES];
    float top[GROUPS][LANES], sum[GROUPS][LANES], rounded_sum[GROUPS][LANES];
    float largest[GROUPS][LANES];  // of the scores, where `top` is lazy and knows the sink
    float s[ROWS * LANES];
    int32_t mask[ROWS * LANES], query_at[GROUPS][LANES];
    uint32_t rows[LANES * (QL > OT ? QL : OT)];
    uint32_t k[round_up(ROWS * KT, W)], v[round_up(ROWS / STEP * VS, W)], fit[round_up(ROWS / STEP * VS, W)];
    Unfit<ROWS> unfit;
    float scratch[round_up(SCRATCH, W)];
    Elem turned[TURN ? LANES * D : W];
};

struct ForwardTile {
    const ForwardProblem& p;
    const Sizes& sizes;  // of the batch entry
    ForwardSpace& w;
    const Place& at;
    int64_t b, h, kv;
    int64_t entry, head;  // b and h, as the pattern knows them
    int64_t first;   // the slot of the tile's first lane
    Span live;       // the slots of the tile that hold a query of the call
    int groups;
    int branch;
    float times;     // log2 of how often each pair counts
    bool loaded;
    const Dot::A *k, *v, *fit;  // fit: v without the rows that are not finite

    Range lanes(int g) const { return clip(first + g * LANES, live.begin, live.end); }
    Results results() const { return {p, sizes, branch}; }
    int64_t line() const { return (b * sizes.query_heads + h) * sizes.rows; }

    void load_queries() {
        loaded = true;
        for (int g = 0; g < groups; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            const int64_t slot = first + g * LANES;
            if constexpr (TURN > 0) {
                turn_queries(slot, live);
                load_lanes<D, QL>(w.q[g], w.rows, w.scratch, {w.turned, {0, 0, D, 1}}, 0, 0, {0, 1, nullptr}, 0, live, p.scale * UNIT);
            } else
                load_lanes<D, QL>(w.q[g], w.rows, w.scratch, p.q, b, h, at.queries, slot, live, p.scale * UNIT);
            if (!Score::IDENTITY) load_positions(w.query_at[g], at.queries, sizes.q_start, slot, live);
            for (int l = 0; l < LANES; ++l) w.top[g][l] = w.largest[g][l] = -INF, w.sum[g][l] = w.rounded_sum[g][l] = 0.f;
            if (CARRY)
                carry(g, slot, live);
            else
                memset(w.out[g], 0, sizeof(w.out[g]));
        }
    }

    // The queries of a group, turned by their positions: once for each pass, so that no turned tensor is written.
    ATTNSPEC_NOINLINE void turn_queries(int64_t slot, Range live) {
        for (int l = live.begin; l < live.end; ++l) {
            const int64_t row = at.queries(slot + l), stride = p.q.stride[3];
            const Elem* from = row_of<const Elem>(p.q, b, h, row);
            const float *cos = row_of<const float>(p.cos, b, h, row), *sin = row_of<const float>(p.sin, b, h, row);
            if (stride == 1)
                turn_row<TURN_PAIRS, true>(from, 1, cos, sin, w.turned + l * D, TURN, D);
            else
                turn_row<TURN_PAIRS, false>(from, stride, cos, sin, w.turned + l * D, TURN, D);
        }
    }

    // Goes on from what earlier passes have summed up: an output and its norm are a sum with one term.
    ATTNSPEC_NOINLINE void carry(int g, int64_t slot, Range live) {
        const Results done = results();
        bool nothing = true;
        for (int l = 0; l < LANES; ++l) w.sum[g][l] = -INF;
        for (int l = live.begin; l < live.end; ++l) {
            const Norm before = done.norm(line() + at.queries(slot + l));
            w.top[g][l] = before.top;
            if (before.top != -INF) w.sum[g][l] = before.sum, nothing = false;
        }
        for (int c = 0; c < C; ++c) {
            const vfloat sum = exp2<true>(load(w.sum[g] + c * W));
            store(w.sum[g] + c * W, sum), store(w.rounded_sum[g] + c * W, sum);
        }
        if (nothing) return (void)memset(w.out[g], 0, sizeof(w.out[g]));
        float* rows = (float*)w.rows;
        memset(rows, 0, sizeof(float) * LANES * OT);
        for (int l = live.begin; l < live.end; ++l)
            if (w.top[g][l] != -INF)
                rows_to_float<DV, OT>(rows + l * OT, row_of<Sum>(done.out, b, h, at.queries(slot + l)), done.out.stride[2],
                                      done.out.stride[3], 1, 1, w.sum[g][l]);
        transpose<LANES, OT, LANES, OT>(w.out[g], rows);
    }

    template <class Pass>
    ATTNSPEC_NOINLINE void visit(int64_t j, bool partial) {
        const Span keys = slots_of(at.keys, at.key_slots, j, Pass::BN);
        if (j < 0 || keys.begin >= keys.end) return;
        if (!loaded) load_queries();
        const int count = (int)(keys.end - keys.begin), rows = round_up(count, R);
        k = load_rows<D, KT>(w.k, w.scratch, p.k, b, kv, at.keys, keys.begin, count, rows);
        fit = v = load_columns<DV, VS>(w.v, w.scratch, p.v, b, kv, at.keys, keys.begin, count, rows);
        w.unfit.begin();
        for (int g = 0; g < groups; ++g) {
            Range live = lanes(g), range = {0, rows};
            if (live.begin >= live.end) continue;
            if (partial) {
                range = mask_tile<Pass, true>(w.mask, at, first + g * LANES, live, keys.begin, count, head, entry, sizes);
                if (range.begin >= range.end) continue;
                w.unfit.find<VS>(v, range);
                fit = w.unfit.without<VS>(v, w.fit, rows);
            }
            attend(g, range, keys.begin, count, partial);
        }
    }

    ATTNSPEC_NOINLINE void attend(int g, Range range, int64_t first_key, int count, bool partial) {
        scores(g, range);
        vfloat top[C];
        if (!Score::IDENTITY) rescore(g, range, first_key, count, top);
        if (partial) hide(range);
        for (int r = count; r < range.end; ++r)
            for (int l = 0; l < LANES; ++l) w.s[r * LANES + l] = -INF;
        if (Score::IDENTITY || partial) largest(range, top);
        softmax(g, range, top);
        output(g, range);
        if (w.unfit.count) output_unfit(g, range);
    }

    void largest(Range range, vfloat* top) {
        for (int c = 0; c < C; ++c) {
            // Two chains: the latency of the maximum would show.
            vfloat even = all(-INF), odd = even;
            for (int r = range.begin; r < range.end; r += 2) {
                even = larger(load(w.s + r * LANES + c * W), even);
                odd = larger(load(w.s + (r + 1) * LANES + c * W), odd);
            }
            top[c] = larger(even, odd);
        }
    }

    // The score lines of the pattern. Finds the largest score on the way.
    ATTNSPEC_NOINLINE void rescore(int g, Range range, int64_t first_key, int count, vfloat* top) {
        const int end = range.end < count ? range.end : count;
        const Rows keys = at.keys;
        const Scored sizes = this->sizes;
        float* __restrict scores = w.s;  // what the score lines read stays in registers
        for (int c = 0; c < C; ++c) {
            const vint q = *(const vint*)(w.query_at[g] + c * W);
            vfloat most = all(-INF);
            for (int r = range.begin; r < end; ++r) {
                vfloat* s = (vfloat*)(scores + r * LANES + c * W);
                *s = Score::value(*s, q, (pos)(keys(first_key + r) + sizes.k_start), (pos)head, (pos)entry, sizes);
                most = larger(*s, most);
            }
            top[c] = most;
        }
    }

    ATTNSPEC_NOINLINE void scores(int g, Range range) {
        const float scale = p.scale * UNIT;
        for (int r = range.begin; r < range.end; r += R)
            block<Dot, R, C, KT, 1, LANES, LANES, false, PAIRS>(k + r * KT, (const Dot::B*)w.q[g], KT,
                                                                w.s + r * LANES, scale);
    }

    ATTNSPEC_NOINLINE void output(int g, Range range) {
        const auto* a = fit + range.begin / STEP * VS;
        const auto* x = (const Dot::B*)w.s + range.begin / STEP * LANES;
        for (int m = 0; m < VS; m += R)
            block<Dot, R, C, 1, VS, LANES, LANES, true>(a + m, x, (range.end - range.begin) / STEP, w.out[g] + m * LANES);
    }

    // The values that are not finite, for the queries that see them.
    ATTNSPEC_NOINLINE void output_unfit(int g, Range range) {
        for (int i = 0; i < w.unfit.count; ++i) {
            const int r = w.unfit.at[i];
            for (int l = 0; l < LANES; ++l)
                if (r >= range.begin && r < range.end && w.mask[r * LANES + l]) {
                    const float weight = element<LANES>((const Dot::A*)w.s, r, l);
                    for (int d = 0; d < DV; ++d) w.out[g][d * LANES + l] += weight * element<VS>(v, r, d);
                }
        }
    }

    void hide(Range range) {
        for (int i = range.begin * LANES; i < range.end * LANES; i += W)
            store(w.s + i, *(const vint*)(w.mask + i) != 0 ? load(w.s + i) : all(-INF));
    }

    // Turns scores into weights, in place. In pair mode these are rounded to bf16, and the output is divided by the sum of
    // the rounded ones: a row that attends to one key gets that key's value exactly. The log-sum-exp is of the exact ones.
    // Where pairs count several times the factor is in the weights.
    ATTNSPEC_NOINLINE void softmax(int g, Range range, const vfloat* top) {
        vfloat sum[C], rounded[C], base[C];
        vint passed = vint{};
        for (int c = 0; c < C; ++c) {
            passed |= (vint)(top[c] > load(w.top[g] + c * W) + SLACK);
            store(w.largest[g] + c * W, larger(top[c], load(w.largest[g] + c * W)));
        }
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
                vfloat x = weight(load(at) - base[c]);
                sum[c] += x;
#if defined(__AVX512BF16__)
                if constexpr (PAIRS) {
                    // The weights of two keys side by side in each lane.
                    vfloat y = weight(load(at + LANES) - base[c]);
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

    ATTNSPEC_INLINE vfloat weight(vfloat score) const {
        return exp2<!PAIRS>(ATTNSPEC_TIMES ? in_log2(score) + times : in_log2(score));
    }

    // A score passed the running maximum by far: rescale what has been summed.
    ATTNSPEC_NOINLINE void raise(int g, const vfloat* top) {
        for (int c = 0; c < C; ++c) {
            vfloat old = load(w.top[g] + c * W), now = larger(top[c], old);
            vfloat factor = exp2<true>(in_log2(old - (now == -INF ? vfloat{} : now)));
            store(w.top[g] + c * W, now);
            store(w.sum[g] + c * W, load(w.sum[g] + c * W) * factor);
            store(w.rounded_sum[g] + c * W, load(w.rounded_sum[g] + c * W) * factor);
            for (int d = 0; d < VS; ++d) {
                float* at = w.out[g] + d * LANES + c * W;
                store(at, load(at) * factor);
            }
        }
    }

    // Of queries without a key.
    void store_nothing() const {
        const Results to = results();
        for (int64_t slot = live.begin; slot < live.end; ++slot) {
            const int64_t row = at.queries(slot);
            Sum* out = row_of<Sum>(to.out, b, h, row);
            if (to.out.stride[3] == 1)
                memset(out, 0, sizeof(Sum) * DV);
            else
                for (int c = 0; c < DV; ++c) out[c * to.out.stride[3]] = Sum{};
            to.put(line() + row, {-INF, 0.f}, -INF);
        }
    }

    void store_output() {
        const Results to = results();
        for (int g = 0; g < groups; ++g) {
            Range live = lanes(g);
            if (live.begin >= live.end) continue;
            for (int c = 0; c < C; ++c) {
                vfloat sum = load(w.rounded_sum[g] + c * W), factor = sum == 0.f ? vfloat{} : 1.f / sum;
                for (int d = 0; d < OT; ++d) {
                    float* at = w.out[g] + d * LANES + c * W;
                    store(at, load(at) * factor);
                }
                sum = load(w.sum[g] + c * W);
                const vint none = (vint)(sum == 0.f);
                sum = none != 0 ? vfloat{} : log(none != 0 ? all(1.f) : sum) * LOG2E;
                store(w.sum[g] + c * W, sum);
                store(w.top[g] + c * W, none != 0 ? all(-INF) : load(w.top[g] + c * W));
            }
            transpose<OT, LANES, OT, LANES>(w.rows, w.out[g]);
            const int64_t slot = first + g * LANES + live.begin;
            const int count = live.end - live.begin;
            put_rows<DV, OT, Sum>(to.out, b, h, at.queries, slot, count, (const float*)w.rows + live.begin * OT);
            for (int l = 0; l < count; ++l) {
                const int at_lane = live.begin + l;
                to.put(line() + at.queries(slot + l), {w.top[g][at_lane], w.sum[g][at_lane]}, w.largest[g][at_lane]);
            }
        }
    }
};

template <class Pass>
static void forward_tile(const ForwardProblem& p, const Sizes& s, ForwardSpace& w, const Place& at, int64_t b, int64_t h,
                         int64_t i) {
    const Span live = slots_of(at.queries, at.query_slots, i, Pass::BM);
    if (live.begin >= live.end) return;
    ForwardTile tile{p, s, w, at, b, h, h / (s.query_heads / s.key_heads), s.b_start + b, s.h_start + h, i * Pass::BM, live,
                     (Pass::BM + LANES - 1) / LANES, Pass::BRANCH, Pass::TIMES, false, nullptr, nullptr, nullptr};
    Pass::forward(i, at, tile.head, tile.entry, s, [&](int64_t j) { tile.template visit<Pass>(j, false); },
                  [&](int64_t j) { tile.template visit<Pass>(j, true); });
    if (tile.loaded)
        tile.store_output();
    else if (!CARRY)  // or the output is there already
        tile.store_nothing();
}

// Whether a query of the call may see one of its keys.
template <class Pattern>
static bool sees(const Sizes& s) {
    bool found = false;
    for (int number = 0; number < Pattern::PASSES && !found; ++number) {
        const Tasks<Pattern> tasks(s, number);
        if (!tasks.first) return true;
        for (int64_t task = tasks.count() * s.entries; --task >= 0 && !found;)
            tasks.run(s, task, [&](auto pass, const Sizes& own, const Place& at, int64_t b, int64_t h, int64_t i) {
                using Pass = decltype(pass);
                const auto look = [&](int64_t j) {
                    const Span keys = slots_of(at.keys, at.key_slots, j, Pass::BN);
                    found |= j >= 0 && keys.begin < keys.end;
                };
                Pass::forward(i, at, s.h_start + h, s.b_start + b, own, look, look);
            });
    }
    return found;
}

constexpr int NOTHING = 2;  // nothing is written: the caller has the output and the log-sum-exp of what sees nothing

// Pass after pass. In each, the query tiles of one (batch, head) after another, so that threads share its keys in cache;
// the last tile first, which in causal patterns is the heaviest.
template <class Pattern>
static int forward(const ForwardProblem& p) {
    const Sizes& s = p.sizes;
    if (s.rows <= 0 || s.entries <= 0 || s.query_heads <= 0 || s.key_heads <= 0) return 0;
    // Of the parts of a sparse score matrix most are empty: their outputs need not even take memory.
    if (!CARRY && !p.norm && !s.pages && (s.keys < s.n || s.rows < s.n_q) && !sees<Pattern>(s)) return NOTHING;
    for (int number = 0; number < Pattern::PASSES; ++number) {
        const Tasks<Pattern> tasks(s, number);
        if (!tasks.first) return 1;
        if (!for_tasks<ForwardSpace>(tasks.count() * s.entries, p.threads, [&](int64_t task, ForwardSpace& w) {
                tasks.run(s, task, [&](auto pass, const Sizes& own, const Place& at, int64_t b, int64_t h, int64_t i) {
                    forward_tile<decltype(pass)>(p, own, w, at, b, h, i);
                });
            }))
            return 1;
    }
    return 0;
}

}  // namespace attnspec
