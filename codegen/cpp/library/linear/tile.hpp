// Linear attention, a tile at a time: out_i = sum over j of (x_i . y_j) z_j. The outer side (queries, or keys where the sweep
// is transposed) lies on vector lanes, as in softmax/forward.hpp; the inner side has features y and values z. One of x, y and
// z may have one more column than memory holds, which is all ones: sums of weights come out as one more value, and their
// gradients go back as one more feature.

namespace attnspec {

struct LinearProblem {
    Sizes sizes;
    Tensor x, y, z, out;
    float* total;  // (batch, heads, rows), contiguous: the sums over the column of ones of z; may be null
    float scale;
    int32_t threads, divide;  // divide: the output is divided by the total, where that is not zero
};

template <int KIND> struct ElementOf { using type = float; };
template <> struct ElementOf<1> { using type = bf16; };
template <> struct ElementOf<2> { using type = fp16; };
using XElem = ElementOf<ATTNSPEC_X>::type;
using YElem = ElementOf<ATTNSPEC_Y>::type;
using ZElem = ElementOf<ATTNSPEC_Z>::type;
using OutElem = ElementOf<ATTNSPEC_OUT>::type;

constexpr bool KEYS = ATTNSPEC_KEYS;  // the outer side are the keys
constexpr bool X_ONE = ATTNSPEC_ONE == 1, Y_ONE = ATTNSPEC_ONE == 2, Z_ONE = ATTNSPEC_ONE == 3;
constexpr int XC = D - X_ONE, YC = D - Y_ONE, ZC = DV - Z_ONE;                                           // columns in memory
constexpr int XS = round_up(D, W), YS = round_up(YC, W), ZS = round_up(ZC, W), OS = round_up(DV, W);     // strides of rows
constexpr int OUTER = KEYS ? BN : BM, INNER = KEYS ? BM : BN;
constexpr int GROUPS = (OUTER + LANES - 1) / LANES, ROWS = round_up(INNER, R);
constexpr float UNIT_WEIGHT = 1.f;

// The state is sum of y_j z_j^T: a row for each value with features on the lanes, or the other way round, as they fit them.
constexpr bool BY_VALUE = Z_ONE || (!Y_ONE && YC % W == 0);
constexpr int STATE = BY_VALUE ? DV * YS : D * ZS;

struct alignas(64) LinearSpace {  // one per thread
    double sums[STATE];
    float state[STATE];
    float x[GROUPS][XS * LANES], out[GROUPS][OS * LANES];
    float s[ROWS * LANES];
    int32_t mask[ROWS * LANES];
    float y[ROWS * YS], z[ROWS * ZS], fit[ROWS * ZS], rows[LANES * (XS > ZS ? XS : ZS)];
    float scratch[round_up((ROWS > LANES ? ROWS : LANES) * (D > DV ? D : DV), W)];
    Unfit<ROWS> unfit;
};

// C[m][lane] (+)= sum over t of A[m * SM + t * ST] B[t][lane], for M rows.
template <int M, int SM, int ST, bool ADD>
static void product(const float* a, const float* b, int64_t steps, float* c) {
    for (int m = 0; m + R <= M; m += R) block<Floats, R, C, SM, ST, LANES, LANES, ADD>(a + m * SM, b, steps, c + m * LANES);
    constexpr int whole = M / R * R;
    if constexpr (whole < M) block<Floats, M - whole, C, SM, ST, LANES, LANES, ADD>(a + whole * SM, b, steps, c + whole * LANES);
}

// What a state is in: fp32 as it is read, fp64 as it is summed up.
struct State {
    double* sums;
    float* rounded;
};

typedef double vdouble __attribute__((vector_size(W * 8), aligned(4), may_alias));

// sums[m][x] += sign * sum over t of A[t * S + m] B[t][x] for M rows of COLS columns, by register blocks; rounded is the same.
template <int M, int SM, int ST, int COLS, int VECTORS>
ATTNSPEC_INLINE void state_block(const float* a, const float* b, int64_t steps, float sign, double* sums, float* rounded) {
    float c[M * VECTORS * W] __attribute__((aligned(64)));
    block<Floats, M, VECTORS, SM, ST, COLS, VECTORS * W, false>(a, b, steps, c);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) {
            vdouble* to = (vdouble*)(sums + m * COLS + v * W);
            const vdouble sum = *to + __builtin_convertvector(sign * load(c + (m * VECTORS + v) * W), vdouble);
            *to = sum;
            *(vfloat_any*)(rounded + m * COLS + v * W) = __builtin_convertvector(sum, vfloat);
        }
}
template <int M, int S, int COLS, int VECTORS>
static void state_rows(const float* a, const float* b, int64_t steps, float sign, State to) {
    for (int m = 0; m + R <= M; m += R)
        state_block<R, 1, S, COLS, VECTORS>(a + m, b, steps, sign, to.sums + m * COLS, to.rounded + m * COLS);
    constexpr int w = M / R * R;
    if constexpr (w < M) state_block<M - w, 1, S, COLS, VECTORS>(a + w, b, steps, sign, to.sums + w * COLS, to.rounded + w * COLS);
}
template <int M, int S, int COLS>
static void add_products(const float* a, const float* b, int64_t steps, float sign, State to) {
    constexpr int whole = COLS / LANES * LANES;
    for (int x = 0; x < whole; x += LANES) state_rows<M, S, COLS, C>(a, b + x, steps, sign, {to.sums + x, to.rounded + x});
    for (int x = whole; x < COLS; x += W) state_rows<M, S, COLS, 1>(a, b + x, steps, sign, {to.sums + x, to.rounded + x});
}

// sums[x] += sign * sum over t of B[t][x].
template <int COLS>
static void add_rows(const float* b, int64_t steps, float sign, State to) {
    for (int x = 0; x < COLS; x += W)
        state_block<1, 0, 0, COLS, 1>(&UNIT_WEIGHT, b + x, steps, sign, to.sums + x, to.rounded + x);
}

// The rows of some slots as fp32 rows of stride S, padded with zeros: in place where the tensor has this form already.
template <int COLS, int S, class T>
static const float* rows_of(float* copy, float* scratch, const Tensor& t, int64_t b, int64_t h, const Rows& at, int64_t slot,
                            int count, int rows) {
    const bool same = sizeof(T) == 4 && COLS == S && count == rows;
    const View<T> x = view<COLS, T>(same ? copy : scratch, t, b, h, at, slot, count);
    if (same && x.element == 1 && x.row == S) return (const float*)x.from;
    rows_to_float<COLS, S>(copy, x.from, x.row, x.element, count, rows, 1.f);
    return copy;
}

// Features and values of a tile of the inner side.
struct Inner {
    int count, rows;
    const float *y, *z;
};

static Inner load_inner(const LinearProblem& p, LinearSpace& w, int64_t b, int64_t h, const Rows& at, Span slots) {
    const int count = (int)(slots.end - slots.begin), rows = round_up(count, R);
    return {count, rows, rows_of<YC, YS, YElem>(w.y, w.scratch, p.y, b, h, at, slots.begin, count, rows),
            rows_of<ZC, ZS, ZElem>(w.z, w.scratch, p.z, b, h, at, slots.begin, count, rows)};
}

// The features of LANES positions of the outer side.
static void load_outer(const LinearProblem& p, LinearSpace& w, int g, int64_t b, int64_t h, const Rows& at, int64_t slot,
                       Range live, float scale) {
    const int count = live.end - live.begin;
    const View<XElem> x = view<XC, XElem>(w.scratch, p.x, b, h, at, slot + live.begin, count);
    if (sizeof(XElem) == 4 && XC == XS && scale == 1.f && count == LANES && x.element == 1 && x.row == XS) {
        transpose<LANES, XS, LANES, XS>(w.x[g], x.from);
        return;
    }
    if (live.begin) memset(w.rows, 0, sizeof(float) * live.begin * XS);
    rows_to_float<XC, XS>(w.rows + live.begin * XS, x.from, x.row, x.element, count, LANES - live.begin, scale);
    if (X_ONE)
        for (int l = live.begin; l < live.end; ++l) w.rows[l * XS + XC] = scale;
    transpose<LANES, XS, LANES, XS>(w.x[g], w.rows);
}

// s[row][lane] = x . y, for the rows of a range.
static void score_pairs(LinearSpace& w, int g, const Inner& tile, Range range) {
    for (int r = range.begin; r < range.end; r += R) {
        float* s = w.s + r * LANES;
        if (Y_ONE)
            for (int i = 0; i < R; ++i) memcpy(s + i * LANES, w.x[g] + YC * LANES, sizeof(float) * LANES);
        block<Floats, R, C, YS, 1, LANES, LANES, Y_ONE>(tile.y + r * YS, w.x[g], YC, s);
    }
}

// out += s z, for the rows of a range of which none past the end of the tile has a weight.
static void add_pairs(LinearSpace& w, int g, const float* z, Range range) {
    const float* s = w.s + range.begin * LANES;
    const int steps = range.end - range.begin;
    product<ZC, 1, ZS, true>(z + range.begin * ZS, s, steps, w.out[g]);
    if constexpr (Z_ONE) block<Floats, 1, C, 0, 0, LANES, LANES, true>(&UNIT_WEIGHT, s, steps, w.out[g] + ZC * LANES);
}

// A tile enters the state (sign 1), or leaves it (-1). Its sum is in fp32, that of tiles in fp64: what enters and later
// leaves again leaves nothing behind.
static void move_tile(LinearSpace& w, const Inner& tile, float sign) {
    const State all = {w.sums, w.state};
    if constexpr (BY_VALUE) {
        add_products<ZC, ZS, YS>(tile.z, tile.y, tile.count, sign, all);
        if constexpr (Z_ONE) add_rows<YS>(tile.y, tile.count, sign, {w.sums + ZC * YS, w.state + ZC * YS});
    } else {
        add_products<YC, YS, ZS>(tile.y, tile.z, tile.count, sign, all);
        if constexpr (Y_ONE) add_rows<ZS>(tile.z, tile.count, sign, {w.sums + YC * ZS, w.state + YC * ZS});
    }
}

// out += state x.
static void read_state(LinearSpace& w, int g) {
    product<DV, BY_VALUE ? YS : 1, BY_VALUE ? 1 : ZS, true>(w.state, w.x[g], D, w.out[g]);
}

}  // namespace attnspec
