// Few queries: rows are (query head, query) pairs of the heads that share keys and see the same ones, so that each key is
// read once for all of them. Keys lie on the lanes, a block of LANES at a time. The values of a block wait until the next
// block is found, so that its keys are on their way meanwhile.
//
// The key tiles of a row's tile are cut into chunks, whose sums are merged in their order. Chunks depend on nothing but
// the tiles, so that results are the same bits however many threads share them out.

namespace attnspec {

constexpr int MOST = 64;  // rows of a unit of work

// The sums of some keys. An output and its sum are relative to `top`, as a Norm is.
struct alignas(64) Sums {
    float out[MOST * VALUE], top[MOST], sum[MOST], largest[MOST];
};

struct alignas(64) DecodeSpace {  // one per thread; every array a multiple of a vector
    Factor few[FEW * ROW];  // queries, if they are few
    float q[MOST * KEY], scores[MOST * LANES], lanes[KEY * LANES];
    float sum[MOST * W], largest[MOST * W];  // of a chunk, by lanes
    int32_t mask[MOST * LANES];
    pos query_at[MOST], key_at[LANES];
    Elem k[LANES * KEY], v[2][LANES * VALUE], nothing[KEY > VALUE ? KEY : VALUE], turned[TURN ? D : W];
    const Elem *keys[LANES], *values[2][LANES], *unfit[LANES];
    int unfit_at[LANES];
    Sums chunk, all;
};

// A query tile of some heads that share a key head: heads and batch entry of the call.
struct Unit { int64_t b, h, heads, c, i; };

struct Decoder {
    const ForwardProblem& p;
    const Sizes& sizes;  // of the batch entry
    DecodeSpace& w;
    const Place& at;
    const Unit& u;
    Span live;  // the slots of the queries
    int branch;
    float times;
    int64_t kv, entry;  // the batch entry as the pattern knows it
    int queries, rows, unfit;
    int turn, waiting;  // which values are the block's own; how many of the others wait to be added

    Decoder(const ForwardProblem& p, const Sizes& s, DecodeSpace& w, const Place& at, const Unit& u, Span live, int branch, float times)
        : p(p), sizes(s), w(w), at(at), u(u), live(live), branch(branch), times(times), kv(u.h / (s.query_heads / s.key_heads)),
          entry(s.b_start + u.b), queries((int)(live.end - live.begin)), rows((int)u.heads * queries), unfit(0), turn(0), waiting(0) {}

    int64_t query(int m) const { return at.queries(live.begin + m % queries); }
    int64_t head(int m) const { return u.h + m / queries; }
    Results results() const { return {p, sizes, branch}; }
    int64_t line(int m) const { return (u.b * sizes.query_heads + head(m)) * sizes.rows + query(m); }

    ATTNSPEC_NOINLINE void load_queries() {
        memset(w.nothing, 0, sizeof(w.nothing));
        for (int m = 0; m < rows; ++m) {
            const int64_t row = query(m);
            const Elem* from = row_of<const Elem>(p.q, u.b, head(m), row);
            int64_t stride = p.q.stride[3];
            if constexpr (TURN > 0) {
                const float *cos = row_of<const float>(p.cos, u.b, head(m), row), *sin = row_of<const float>(p.sin, u.b, head(m), row);
                if (stride == 1)
                    turn_row<TURN_PAIRS, true>(from, 1, cos, sin, w.turned, TURN, D);
                else
                    turn_row<TURN_PAIRS, false>(from, stride, cos, sin, w.turned, TURN, D);
                from = w.turned, stride = 1;
            }
            if (rows > FEW)
                rows_to_float<D, KEY>(w.q + m * KEY, from, 0, stride, 1, 1, 1.f);
            else
                load_row(w.few + m * ROW, from, stride);
            if (!Score::IDENTITY) w.query_at[m] = (pos)(row + sizes.q_start);
        }
        if (rows > FEW)
            memset(w.q + rows * KEY, 0, sizeof(float) * (round_up(rows, R) - rows) * KEY);
        else
            memset((void*)(w.few + rows * ROW), 0, sizeof(Factor) * (FEW - rows) * ROW);
    }

    void begin(Sums& sums) {
        memset(sums.out, 0, sizeof(float) * rows * VALUE);
        for (int m = 0; m < rows; ++m) sums.top[m] = -INF;
        for (int m = 0; m < rows * W; ++m) w.sum[m] = 0.f, w.largest[m] = -INF;
    }

    void end(Sums& sums) {
        add_waiting(sums);
        for (int m = 0; m < rows; ++m) {
            float sum = 0.f, largest = -INF;
            for (int l = 0; l < W; ++l) {
                sum += w.sum[m * W + l];
                largest = w.largest[m * W + l] > largest ? w.largest[m * W + l] : largest;
            }
            sums.sum[m] = sum, sums.largest[m] = largest;
        }
    }

    template <class Pass>
    ATTNSPEC_NOINLINE void visit(Sums& sums, int64_t j, bool partial) {
        const Span keys = slots_of(at.keys, at.key_slots, j, Pass::BN);
        for (int64_t slot = keys.begin; slot < keys.end; slot += LANES) {
            const int count = (int)(keys.end - slot < LANES ? keys.end - slot : LANES);
            if (partial) {
                const Range range = mask_tile<Pass, false>(w.mask, at, slot, {0, count}, live.begin, queries, sizes.h_start + u.h, entry, sizes);
                if (range.begin >= range.end) continue;
            }
            attend(sums, slot, count, partial);
        }
    }

    ATTNSPEC_NOINLINE void attend(Sums& sums, int64_t slot, int count, bool partial) {
        find(slot, count, partial);
        add_waiting(sums);
        if (rows > FEW) {
            keys_to_lanes(w.keys, w.values[turn], w.lanes);
            all_products(w.q, rows, w.lanes, p.scale * UNIT, w.scores);
        } else
            all_dots(w.few, rows, w.keys, count, w.values[turn], p.scale * UNIT, w.scores);
        if (!Score::IDENTITY) rescore(slot, count);
        hide(count, partial);
        softmax(sums);
        if (unfit) add_unfit(sums);
        waiting = count, turn = !turn;
    }

    void add_waiting(Sums& sums) {
        if (waiting) all_weighted(w.scores, rows, w.values[!turn], waiting, w.keys, sums.out);
        waiting = 0;
    }

    // Where the keys and values of a block are. One that no row sees is never read; a weight of zero hides a value from the
    // rows that do not see it only if it is finite.
    ATTNSPEC_NOINLINE void find(int64_t slot, int count, bool partial) {
        unfit = 0;
        if (partial) return find_some(slot, count);
        if (is_even(at.keys, slot, count)) {
            find_even<D, KEY>(p.k, slot, count, w.k, w.keys);
            find_even<DV, VALUE>(p.v, slot, count, w.v[turn], w.values[turn]);
        } else
            each_row(at.keys, u.b, slot, count, [&](int l, int64_t b, int64_t row) { find_one(l, b, row); });
        for (int l = count; l < LANES; ++l) w.keys[l] = w.values[turn][l] = w.nothing;
    }

    ATTNSPEC_NOINLINE void find_some(int64_t slot, int count) {
        int32_t some[LANES] = {}, each[LANES];
        memset(each, -1, sizeof(each));
        for (int r = 0; r < queries; ++r)
            for (int l = 0; l < LANES; ++l) some[l] |= w.mask[r * LANES + l], each[l] &= w.mask[r * LANES + l];
        const Elem** values = w.values[turn];
        for (int l = 0; l < LANES; ++l) w.keys[l] = values[l] = w.nothing;
        each_row(at.keys, u.b, slot, count, [&](int l, int64_t b, int64_t row) {
            if (!some[l]) return;
            find_one(l, b, row);
            if (each[l] || is_fit(values[l])) return;
            w.unfit_at[unfit] = l, w.unfit[unfit++] = values[l];
            values[l] = w.nothing;
        });
    }

    template <int COLS, int S>
    ATTNSPEC_INLINE void find_even(const Tensor& t, int64_t slot, int count, Elem* copies, const Elem** to) {
        const Elem* from = row_at<const Elem>(t, u.b, kv, at.keys, slot);
        const int64_t step = t.stride[2] * at.keys.step, element = t.stride[3];
        for (int l = 0; l < count; ++l) to[l] = vector_of<COLS, S>(from + l * step, element, copies + l * S);
    }

    ATTNSPEC_INLINE void find_one(int l, int64_t b, int64_t row) {
        w.keys[l] = vector_of<D, KEY>(row_of<const Elem>(p.k, b, kv, row), p.k.stride[3], w.k + l * KEY);
        w.values[turn][l] = vector_of<DV, VALUE>(row_of<const Elem>(p.v, b, kv, row), p.v.stride[3], w.v[turn] + l * VALUE);
    }

    // A key or value in place, or copied where it is not a whole number of neighbouring vectors.
    template <int COLS, int S>
    static ATTNSPEC_INLINE const Elem* vector_of(const Elem* from, int64_t element, Elem* copy) {
        if (COLS == S && element == 1) return from;
        for (int c = 0; c < COLS; ++c) copy[c] = from[c * element];
        for (int c = COLS; c < S; ++c) copy[c] = Elem{};
        return copy;
    }

    static bool is_fit(const Elem* value) {
        vint bad = vint{};
        for (int d = 0; d < VALUE; d += W) bad |= ((vint)widened(value + d) & 0x7f800000) == 0x7f800000;
        return !any(bad);
    }

    void add_unfit(Sums& sums) {
        for (int i = 0; i < unfit; ++i)
            for (int m = 0; m < rows; ++m)
                if (w.mask[m % queries * LANES + w.unfit_at[i]])
                    for (int d = 0; d < VALUE; d += W) {
                        float* to = sums.out + m * VALUE + d;
                        store(to, load(to) + w.scores[m * LANES + w.unfit_at[i]] * widened(w.unfit[i] + d));
                    }
    }

    // The score lines of the pattern.
    ATTNSPEC_NOINLINE void rescore(int64_t slot, int count) {
        const Rows keys = at.keys;
        const Scored read = sizes;
        for (int l = 0; l < LANES; ++l) w.key_at[l] = l < count ? (pos)(keys(slot + l) + sizes.k_start) : 0;
        for (int c = 0; c < C; ++c) {
            vpos k;
            memcpy(&k, w.key_at + c * W, sizeof(k));
            for (int m = 0; m < rows; ++m) {
                float* s = w.scores + m * LANES + c * W;
                store(s, Score::value(load(s), w.query_at[m], k, (pos)(sizes.h_start + head(m)), (pos)entry, read));
            }
        }
    }

    void hide(int count, bool partial) {
        if (partial) {
            for (int m = 0, r = 0; m < rows; ++m, r = r + 1 == queries ? 0 : r + 1)
                for (int c = 0; c < C; ++c) {
                    float* s = w.scores + m * LANES + c * W;
                    store(s, *(const vint*)(w.mask + r * LANES + c * W) != 0 ? load(s) : all(-INF));
                }
        } else if (count < LANES) {
            for (int m = 0; m < rows; ++m)
                for (int l = count; l < LANES; ++l) w.scores[m * LANES + l] = -INF;
        }
    }

    // Turns scores into weights, in place. The maximum is lazy, as in forward.hpp.
    ATTNSPEC_NOINLINE void softmax(Sums& sums) {
        for (int m = 0; m < rows; ++m) {
            float* s = w.scores + m * LANES;
            vfloat top = all(-INF);
            for (int c = 0; c < C; ++c) top = larger(load(s + c * W), top);
            store(w.largest + m * W, larger(top, load(w.largest + m * W)));
            if (any((vint)(top > sums.top[m] + SLACK))) raise(sums, m, top);
            const float base = sums.top[m] == -INF ? 0.f : sums.top[m];
            vfloat sum = load(w.sum + m * W);
            for (int c = 0; c < C; ++c) {
                const vfloat score = in_log2(load(s + c * W) - base), x = exp2<true>(ATTNSPEC_TIMES ? score + times : score);
                sum += x;
                store(s + c * W, x);
            }
            store(w.sum + m * W, sum);
        }
    }

    // A score passed the running maximum by far: rescale what has been summed.
    ATTNSPEC_NOINLINE void raise(Sums& sums, int m, vfloat top) {
        float now = sums.top[m];
        for (int l = 0; l < W; ++l) now = top[l] > now ? top[l] : now;
        const vfloat factor = exp2<true>(in_log2(all(sums.top[m] - now)));
        sums.top[m] = now;
        store(w.sum + m * W, load(w.sum + m * W) * factor);
        for (int d = 0; d < VALUE; d += W) store(sums.out + m * VALUE + d, load(sums.out + m * VALUE + d) * factor);
    }

    // What earlier passes have summed up: an output and its norm are a sum with one term.
    ATTNSPEC_NOINLINE void carry(Sums& sums) const {
        const Results done = results();
        for (int m = 0; m < rows; ++m) {
            const Norm before = done.norm(line(m));
            const bool none = before.top == -INF;
            const float sum = none ? 0.f : exp2<true>(all(before.sum))[0];
            sums.top[m] = before.top, sums.sum[m] = sum, sums.largest[m] = -INF;
            memset(sums.out + m * VALUE, 0, sizeof(float) * VALUE);
            if (!none) rows_to_float<DV, VALUE>(sums.out + m * VALUE, row_of<const Sum>(done.out, u.b, head(m), query(m)), 0, done.out.stride[3], 1, 1, sum);
        }
    }

    // Adds sums of later keys.
    ATTNSPEC_NOINLINE void merge(Sums& to, const Sums& from) const {
        for (int m = 0; m < rows; ++m) {
            const float now = from.top[m] > to.top[m] ? from.top[m] : to.top[m], base = now == -INF ? 0.f : now;
            const vfloat old = exp2<true>(in_log2(all(to.top[m] - base))), added = exp2<true>(in_log2(all(from.top[m] - base)));
            to.top[m] = now;
            to.sum[m] = to.sum[m] * old[0] + from.sum[m] * added[0];
            to.largest[m] = from.largest[m] > to.largest[m] ? from.largest[m] : to.largest[m];
            for (int d = m * VALUE; d < (m + 1) * VALUE; d += W)
                store(to.out + d, load(to.out + d) * old + load(from.out + d) * added);
        }
    }

    ATTNSPEC_NOINLINE void store_output(Sums& sums) const {
        const Results to = results();
        for (int m = 0; m < rows; ++m) {
            const float sum = sums.sum[m], factor = sum == 0.f ? 0.f : 1.f / sum;
            float* from = sums.out + m * VALUE;
            for (int d = 0; d < VALUE; d += W) store(from + d, load(from + d) * factor);
            rows_from_float<DV, VALUE>(row_of<Sum>(to.out, u.b, head(m), query(m)), 0, to.out.stride[3], from, 1);
            to.put(line(m), sum == 0.f ? Norm{-INF, 0.f} : Norm{sums.top[m], log(sum) * LOG2E}, sums.largest[m]);
        }
    }
};

}  // namespace attnspec
