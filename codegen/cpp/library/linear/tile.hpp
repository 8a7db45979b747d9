// Linear attention, a tile at a time: out_i = sum over j of (x_i . y_j) z_j. The outer side (queries, or keys where the sweep
// is transposed) lies on vector lanes, as in softmax/forward.hpp; the inner side has features y and values z. Each of them is
// a tensor as it is, or
//   * features of it, worked out entry by entry as it is loaded (X_MAP, Y_MAP, Z_MAP: those of queries or of keys);
//   * with one more column, of ones (X_ONE, Y_ONE, Z_ONE): sums of weights come out as one more value, and their gradients go
//     back as one more feature;
//   * the gradient of an output (X_UP, Y_UP, Z_UP): dout divided by the total of its row, and but for z one more column, what
//     follows for the total itself.

namespace attnspec {

struct LinearProblem {
    Sizes sizes;
    Tensor x, y, z, out;
    Tensor source;        // with OUT_MAP: what features were made of, of the shape of the output, which becomes its gradient
    Tensor result;        // with X_UP and `divide`: the output of the forward pass
    Tensor here, there;   // with LOGS: logarithms of channels, fp32, for each of the outer and of the inner side
    Tensor steps;         // with BY_CHANNEL: logarithms of steps (batch, heads, positions, features), fp32, rows without gaps
    float* total;         // (batch, heads, rows), contiguous: the sums over the column of ones of z. Of UP: what was divided by
    const float* dtotal;  // of X_UP: the gradient of the totals themselves, or null
    float* extra;         // of X_UP and Y_UP, (batch, heads, rows): the one more column, which X_UP writes and Y_UP reads
    // With DECAY, of each query head: the sums of the logarithms of all steps up to each query, and to each key, (batch,
    // heads, rows) and (batch, heads, keys). A pair weighs exp of their difference, of which the query comes later.
    const double *decay_q, *decay_k;
    double* step_sums;  // with BY_CHANNEL: room for the sums of the steps before each block of positions
    float* crossing;  // with CROSSING: for each of the outer side, the sum over its pairs, but that with itself, of
                      // weight times gradient of the weight; by channel where these decay each by itself
    // Where nothing decays: what the state of each key head begins with, and where it is left after all, (batch, key heads,
    // features, values), fp32, contiguous; or null.
    const float* state_in;
    float* state_out;
    int64_t step_count, at_q, at_k;  // of steps, how many positions there are; those of the first query and key
    float scale;
    int32_t threads, divide;  // divide: by the total, where that is not zero; 0 where it is
};

template <int KIND> struct ElementOf { using type = float; };
template <> struct ElementOf<1> { using type = bf16; };
template <> struct ElementOf<2> { using type = fp16; };
using XElem = ElementOf<ATTNSPEC_X>::type;
using YElem = ElementOf<ATTNSPEC_Y>::type;
using ZElem = ElementOf<ATTNSPEC_Z>::type;
using SourceElem = ElementOf<ATTNSPEC_SOURCE>::type;   // of `source`
using OutcomeElem = ElementOf<ATTNSPEC_OUTCOME>::type;  // of `result`
using OutElem = ElementOf<ATTNSPEC_OUT>::type;

constexpr bool KEYS = ATTNSPEC_KEYS;  // the outer side are the keys
constexpr bool X_ONE = ATTNSPEC_ONE == 1, Y_ONE = ATTNSPEC_ONE == 2, Z_ONE = ATTNSPEC_ONE == 3;
constexpr bool X_UP = ATTNSPEC_UP == 1, Y_UP = ATTNSPEC_UP == 2, Z_UP = ATTNSPEC_UP == 3;
constexpr int X_MAP = ATTNSPEC_X_MAP, Y_MAP = ATTNSPEC_Y_MAP, Z_MAP = ATTNSPEC_Z_MAP, OUT_MAP = ATTNSPEC_OUT_MAP;
// Columns that tensors have, and those of y and z that stand in a tile.
constexpr int XT = D - X_ONE - X_UP, YT = D - Y_ONE - Y_UP, YC = D - Y_ONE, ZC = DV - Z_ONE;
constexpr int XS = round_up(D, W), YS = round_up(YC, W), ZS = round_up(ZC, W), OS = round_up(DV, W);  // strides of rows
constexpr bool X_UNIT = ATTNSPEC_X_UNIT, Y_UNIT = ATTNSPEC_Y_UNIT;  // vectors are made of length one when they are loaded
constexpr bool CROSSING = ATTNSPEC_CROSSING;  // pairs that cross a step are summed up (crossing.hpp)
constexpr int OUTER = KEYS ? BN : BM, INNER = KEYS ? BM : BN;
constexpr int GROUPS = (OUTER + LANES - 1) / LANES, ROWS = round_up(INNER, R);
constexpr int KEPT = 3;  // tiles of the inner side: one that was partial is often full for the next outer tile
constexpr float UNIT_WEIGHT = 1.f;

// Channels with logarithms of their own: see log_tile.hpp.
constexpr int LOGS = ATTNSPEC_LOGS, CHANNELS = LOGS == 1 ? D : DV, CS = round_up(CHANNELS, W);

// The state is sum of y_j z_j^T: a row for each value with features on the lanes, or the other way round, as they fit them,
// or a row for each channel and what these count from.
constexpr bool BY_VALUE = LOGS ? LOGS > 1 : Z_ONE || (!Y_ONE && YC % W == 0);
constexpr int STATE = (BY_VALUE ? DV * YS : D * ZS) + (LOGS ? 3 * CS : 0);

// What a sweep keeps from one outer tile to the next: the state in fp64, as it is summed up, and in fp32, as it is read;
// with BY_CHANNEL the sums of steps that its channels count from.
struct alignas(64) Memory {
    double sums[STATE], frame[round_up(D > DV ? D : DV, W)];
    float state[STATE];
};

struct alignas(64) LinearSpace {  // one per thread
    Memory memory;
    float x[GROUPS][XS * LANES], out[GROUPS][OS * LANES];
    float s[ROWS * LANES];
    int32_t mask[ROWS * LANES];
    float y[KEPT][ROWS * YS], z[KEPT][ROWS * ZS], fit[ROWS * ZS], more[X_UP || OUT_MAP || CROSSING ? (XS > ZS ? XS : ZS) * LANES : W];
    // With DECAY, the logarithms of what is on either side, each sign such that a pair weighs exp2(here - there).
    double here[GROUPS][LANES], there[KEPT][ROWS];
    float kept_back[ROWS], faded_x[DECAY ? XS * LANES : W], faded_y[DECAY ? ROWS * YS : W];
    float itself[GROUPS][CROSSING ? LANES * ZS : W];  // what pairs of a position with itself add, a row for each lane
    float rows[LANES * (XS > ZS ? XS : ZS)];
    float scratch[round_up((ROWS > LANES ? ROWS : LANES) * (D > DV ? D : DV), W)];
    Unfit<ROWS> unfit;
    Ahead ahead;
    double *sums, *frame;  // those of the sweep that runs
    float* state;
};

static void load_state(const LinearProblem& p, LinearSpace& w, int64_t state) {
    const float* from = p.state_in + state * D * DV;
    for (int d = 0; d < D; ++d)
        for (int v = 0; v < DV; ++v) w.sums[BY_VALUE ? v * YS + d : d * ZS + v] = from[d * DV + v];
    for (int x = 0; x < STATE; ++x) w.state[x] = (float)w.sums[x];
}
static void keep_state(const LinearProblem& p, const LinearSpace& w, int64_t state) {
    float* to = p.state_out + state * D * DV;
    for (int d = 0; d < D; ++d)
        for (int v = 0; v < DV; ++v) to[d * DV + v] = (float)w.sums[BY_VALUE ? v * YS + d : d * ZS + v];
}

// What is left after steps whose logarithms, of base 2, add up to so much. Differences are taken in fp64, of sums over a
// million steps; above 0 are those of pairs that a pattern does not have.
ATTNSPEC_INLINE vfloat fading(vdouble difference) { return exp2<true>(__builtin_convertvector(difference, vfloat)); }

// Features of W numbers, and their gradients from those of the features.
template <int MAP>
ATTNSPEC_INLINE vfloat features(vfloat x) {
    return MAP == 1 ? of_q::features(x) : MAP == 2 ? of_k::features(x) : x;
}
template <int MAP>
ATTNSPEC_INLINE vfloat gradient(vfloat g, vfloat x) {
    return MAP == 1 ? of_q::gradient(g, x) : MAP == 2 ? of_k::gradient(g, x) : g;
}

// One over a total, and 0 where that is 0.
ATTNSPEC_INLINE float over(float total) { return total == 0.f ? 0.f : 1.f / total; }

// What a vector of so many numbers is multiplied by to be of length one; a vector of zeros stays one, and one that has
// something that is no finite number becomes no number.
ATTNSPEC_INLINE float to_unit(float squares) { return 1.f / __builtin_sqrtf(squares > 1e-24f ? squares : 1e-24f); }
static ATTNSPEC_NOINLINE float to_unit_of(const float* x, int count, int stride) {
    float largest = 0.f;
    for (int i = 0; i < count; ++i) largest = __builtin_fabsf(x[i * stride]) > largest ? __builtin_fabsf(x[i * stride]) : largest;
    double squares = 0;  // of numbers whose squares are too large for fp32
    for (int i = 0; i < count; ++i) squares += (double)x[i * stride] * x[i * stride];
    return largest < INF && squares == squares ? (float)(1.0 / __builtin_sqrt(squares)) : NO_NUMBER;
}

// Of `count` numbers, of which W at a time are read, up to S: the others are zeros.
template <int S>
ATTNSPEC_INLINE float to_unit_of_row(const float* x, int count) {
    vfloat squares = vfloat{};
    for (int c = 0; c < S; c += W) squares += load_any(x + c) * load_any(x + c);
    float sum = 0.f;
    for (int l = 0; l < W; ++l) sum += squares[l];
    return sum < INF ? to_unit(sum) : to_unit_of(x, count, 1);
}

// Features and values of a tile of the inner side.
struct Inner {
    int count, rows;
    const float *y, *z;
    const double* logs = nullptr;  // with DECAY, of each row
    const struct InnerSteps* steps = nullptr;  // with BY_CHANNEL
};

// The rows of some slots as fp32 rows of stride S, padded with zeros: in place where the tensor has this form already. With
// UP they are divided by the totals of their rows, and `extra` of each row comes behind them.
template <int COLS, int S, int MAP, bool UP, bool EXTRA, class T, bool UNIT = false>
static const float* rows_of(const LinearProblem& p, float* copy, float* scratch, const Tensor& t, int64_t b, int64_t h,
                            int64_t line, const Rows& at, int64_t slot, int count, int rows) {
    constexpr bool as_is = !MAP && !UP && !UNIT;
    const bool same = sizeof(T) == 4 && COLS == S && count == rows;
    const View<T> x = view<COLS, T>(as_is && same ? copy : scratch, t, b, h, at, slot, count);
    const float* from = copy;
    if constexpr (!as_is && sizeof(T) == 4 && COLS % W == 0)
        if (x.element == 1) {  // read and written once
            for (int r = 0; r < count; ++r) {
                const int64_t row = line + at(slot + r);
                const vfloat by = all(UP && p.divide ? over(p.total[row]) : 1.f);
                const float* row_from = (const float*)x.from + r * x.row;
                float* to = copy + r * S;
                const vfloat unit = all(UNIT ? to_unit_of_row<COLS>(row_from, COLS) : 1.f);
                for (int c = 0; c < COLS; c += W) {
                    const vfloat of = load_any(row_from + c);
                    store(to + c, features<MAP>(UNIT ? of * unit : of) * by);
                }
                for (int c = COLS; c < S; c += W) store(to + c, vfloat{});
                if (UP && EXTRA) to[COLS] = p.extra[row];
            }
            memset(copy + count * S, 0, sizeof(float) * S * (rows - count));
            return copy;
        }
    if (same && x.element == 1 && x.row == S)
        from = (const float*)x.from;
    else
        rows_to_float<COLS, S>(copy, x.from, x.row, x.element, count, rows, 1.f);
    if constexpr (as_is) return from;
    if constexpr (UNIT) {
        for (int r = 0; r < count; ++r) {
            const float by = to_unit_of_row<S>(from + r * S, COLS);
            for (int c = 0; c < S; c += W) store(copy + r * S + c, load_any(from + r * S + c) * by);
        }
        from = copy;
    }
    for (int i = 0; i < count * S; i += W) store(copy + i, features<MAP>(load_any(from + i)));
    if constexpr (UP)
        for (int r = 0; r < count; ++r) {
            const int64_t row = line + at(slot + r);
            if (p.divide) {
                const float factor = over(p.total[row]);
                for (int c = 0; c < S; c += W) store(copy + r * S + c, load(copy + r * S + c) * factor);
            }
            if (EXTRA) copy[r * S + COLS] = p.extra[row];
        }
    return copy;
}

// `line` is that of the first row of the head in totals.
static Inner load_inner(const LinearProblem& p, LinearSpace& w, int kept, int64_t b, int64_t h, int64_t line, const Rows& at,
                        Span slots) {
    const int count = (int)(slots.end - slots.begin), rows = round_up(count, R);
    return {count, rows,
            rows_of<YT, YS, Y_MAP, Y_UP, true, YElem, Y_UNIT>(p, w.y[kept], w.scratch, p.y, b, h, line, at, slots.begin, count, rows),
            rows_of<ZC, ZS, Z_MAP, Z_UP, false, ZElem>(p, w.z[kept], w.scratch, p.z, b, h, line, at, slots.begin, count, rows)};
}

// LANES rows of a tensor, transposed: to[c][lane]; zeros in dead lanes and in columns up to S.
template <int COLS, int S, class T>
static void load_transposed(float* to, LinearSpace& w, const Tensor& t, int64_t b, int64_t h, const Rows& at, int64_t slot,
                            Range live) {
    const int count = live.end - live.begin;
    const View<T> x = view<COLS, T>(w.scratch, t, b, h, at, slot + live.begin, count);
    if (sizeof(T) == 4 && COLS % W == 0 && count == LANES && x.element == 1) {
        transpose_rows<LANES, COLS, LANES>(to, x.from, x.row);
        memset(to + COLS * LANES, 0, sizeof(float) * LANES * (S - COLS));
        return;
    }
    if (live.begin) memset(w.rows, 0, sizeof(float) * live.begin * S);
    rows_to_float<COLS, S>(w.rows + live.begin * S, x.from, x.row, x.element, count, LANES - live.begin, 1.f);
    transpose<LANES, S, LANES, S>(to, w.rows);
}

// The vectors of all lanes, x[c][lane], become of length one.
static ATTNSPEC_NOINLINE void make_units(float* x) {
    alignas(64) float by[LANES];
    for (int c = 0; c < C; ++c) {
        vfloat squares = vfloat{};
        for (int d = 0; d < XT; ++d) squares += load(x + d * LANES + c * W) * load(x + d * LANES + c * W);
        store(by + c * W, squares);
    }
    for (int l = 0; l < LANES; ++l) by[l] = by[l] < INF ? to_unit(by[l]) : to_unit_of(x + l, XT, LANES);
    for (int c = 0; c < C; ++c)
        for (int d = 0; d < XT; ++d) store(x + d * LANES + c * W, load(x + d * LANES + c * W) * load(by + c * W));
}

// The features of LANES positions of the outer side. `line` is that of the first row of the head in totals.
static void load_outer(const LinearProblem& p, LinearSpace& w, int g, int64_t b, int64_t h, int64_t line, const Rows& at,
                       int64_t slot, Range live, float scale) {
    float* x = w.x[g];
    load_transposed<XT, XS, XElem>(x, w, p.x, b, h, at, slot, live);
    if constexpr (X_UNIT) make_units(x);
    alignas(64) float factor[LANES], last[LANES];
    for (int l = 0; l < LANES; ++l) factor[l] = scale, last[l] = scale;
    if constexpr (X_UP) {
        if (p.divide) {
            load_transposed<XT, XS, OutcomeElem>(w.more, w, p.result, b, h, at, slot, live);
            for (int c = 0; c < C; ++c) {
                vfloat dot = vfloat{};
                for (int d = 0; d < XT; ++d) dot += load(x + d * LANES + c * W) * load(w.more + d * LANES + c * W);
                store(last + c * W, -dot);
            }
        }
        for (int l = live.begin; l < live.end; ++l) {
            const int64_t row = line + at(slot + l);
            const float by = p.divide ? over(p.total[row]) : 1.f;
            p.extra[row] = (p.divide ? last[l] * by : 0.f) + (p.dtotal ? p.dtotal[row] : 0.f);
            last[l] = p.extra[row] * scale, factor[l] = by * scale;
        }
    }
    for (int c = 0; c < C; ++c) {
        const vfloat by = load(factor + c * W);
        for (int d = 0; d < XT; ++d) store(x + d * LANES + c * W, features<X_MAP>(load(x + d * LANES + c * W)) * by);
        if (XT < D) store(x + XT * LANES + c * W, load(last + c * W));
    }
}

// The rows of a tile that LANES positions see: each vector of them, and all of them in common. A range: all see the same.
struct Seen {
    Range all, each[C], common;

    Seen(Range range) : all(range), common(range) {
        for (Range& one : each) one = range;
    }
    // By a mask: near a diagonal the vectors of a group see less than the group does.
    Seen(Range range, const int32_t* mask, int count) : all(range), common(range) {
        for (int c = 0; c < C; ++c) {
            int begin = range.begin, end = range.end < count ? range.end : count;
            while (begin < end && !any(*(const vint*)(mask + begin * LANES + c * W))) ++begin;
            while (begin < end && !any(*(const vint*)(mask + (end - 1) * LANES + c * W))) --end;
            each[c] = begin < end ? Range{begin / R * R, round_up(end, R)} : Range{range.begin, range.begin};
            common.begin = each[c].begin > common.begin ? each[c].begin : common.begin;
            common.end = each[c].end < common.end ? each[c].end : common.end;
        }
        if (common.begin >= common.end) common = {range.end, range.end};
    }
    // Calls f(range) for what a vector sees besides what all see.
    template <class F>
    ATTNSPEC_INLINE void besides(int c, F&& f) const {
        const Range before = {each[c].begin, each[c].end < common.begin ? each[c].end : common.begin};
        const Range behind = {each[c].begin > common.end ? each[c].begin : common.end, each[c].end};
        if (before.begin < before.end) f(before);
        if (behind.begin < behind.end) f(behind);
    }
};

// s[row][lane] = x . y.
template <int V>
static void score_rows(LinearSpace& w, const float* x, const float* y, Range range, float* s) {
    for (int r = range.begin; r < range.end; r += R, w.ahead.ask(R * V * YC)) {
        float* to = s + r * LANES;
        if (Y_ONE)
            for (int i = 0; i < R; ++i) memcpy(to + i * LANES, x + YC * LANES, sizeof(float) * V * W);
        block<Floats, R, V, YS, 1, LANES, LANES, Y_ONE>(y + r * YS, x, YC, to);
    }
}
static void score_pairs(LinearSpace& w, int g, const Inner& tile, const Seen& seen) {
    score_rows<C>(w, w.x[g], tile.y, seen.common, w.s);
    for (int c = 0; c < C; ++c)
        seen.besides(c, [&](Range range) { score_rows<1>(w, w.x[g] + c * W, tile.y, range, w.s + c * W); });
}

// out += s z, for rows of which none past the end of the tile has a weight.
template <int V>
static void add_pair_rows(LinearSpace& w, const float* s, const float* z, Range range, float* out) {
    s += range.begin * LANES;
    product<ZC, 1, ZS, true, V>(z + range.begin * ZS, s, range.end - range.begin, out, w.ahead);
    if constexpr (Z_ONE) {
        vfloat sum[R][V] = {};
        for (int r = 0; r < range.end - range.begin; r += R)
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) sum[i][v] += load(s + (r + i) * LANES + v * W);
        for (int v = 0; v < V; ++v) {
            vfloat all = load(out + ZC * LANES + v * W);
            for (int i = 0; i < R; ++i) all += sum[i][v];
            store(out + ZC * LANES + v * W, all);
        }
    }
}
static void add_pairs(LinearSpace& w, int g, const float* z, const Seen& seen) {
    if (seen.common.begin < seen.common.end) add_pair_rows<C>(w, w.s, z, seen.common, w.out[g]);
    for (int c = 0; c < C; ++c)
        seen.besides(c, [&](Range range) { add_pair_rows<1>(w, w.s + c * W, z, range, w.out[g] + c * W); });
}

// A tile enters the state (sign 1), or leaves it (-1). Its sum is in fp32, that of tiles in fp64: what enters and later
// leaves again leaves nothing behind. With DECAY the state is multiplied by `keep` before, and row r counts kept_back[r].
static void move_tile(LinearSpace& w, const Inner& tile, Change by) {
    const State all = {w.sums, w.state};
    const float *y = tile.y, *each = SCALAR ? w.kept_back : &UNIT_WEIGHT;
    if constexpr (SCALAR) {
        for (int r = 0; r < tile.count; ++r)
            for (int c = 0; c < YS; c += W) store(w.faded_y + r * YS + c, load_any(y + r * YS + c) * w.kept_back[r]);
        y = w.faded_y;
    }
    if constexpr (BY_VALUE) {
        add_products<ZC, ZS, YS>(tile.z, y, tile.count, by, all, w.ahead);
        if constexpr (Z_ONE) add_rows<0, YS>(&UNIT_WEIGHT, y, tile.count, by, {w.sums + ZC * YS, w.state + ZC * YS});
    } else {
        add_products<YC, YS, ZS>(y, tile.z, tile.count, by, all, w.ahead);
        if constexpr (Y_ONE) add_rows<SCALAR, ZS>(each, tile.z, tile.count, by, {w.sums + YC * ZS, w.state + YC * ZS});
    }
}

// out += state x; with DECAY each x counts exp2(here - frame), of which `frame` is what the state counts from.
static void read_state(LinearSpace& w, int g, double frame) {
    const float* x = w.x[g];
    if constexpr (DECAY) {
        for (int c = 0; c < C; ++c) {
            const vfloat left = fading(*(const vdouble*)(w.here[g] + c * W) - frame);
            for (int d = 0; d < D; ++d) store(w.faded_x + d * LANES + c * W, load(x + d * LANES + c * W) * left);
        }
        x = w.faded_x;
    }
    product<DV, BY_VALUE ? YS : 1, BY_VALUE ? 1 : ZS, true>(w.state, x, D, w.out[g], w.ahead);
}

}  // namespace attnspec
