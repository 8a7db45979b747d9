// Products that sweeps of linear attention are made of, by blocks of registers: onto lanes, and into states.

namespace attnspec {

// DECAY is 1 where one factor for all features fades what came before, more where each feature has its own (channel.hpp).
constexpr bool DECAY = ATTNSPEC_DECAY, BY_CHANNEL = ATTNSPEC_DECAY > 1, SCALAR = DECAY && !BY_CHANNEL;

// C[m][lane] (+)= sum over t of A[m * SM + t * ST] B[t][lane], for M rows of V vectors. What is left of M beyond blocks of R
// rows goes with the last of them, where registers suffice: alone it would wait for its own sums.
template <int M, int SM, int ST, bool ADD, int V = C>
static void product(const float* a, const float* b, int64_t steps, float* c, Ahead& ahead) {
    constexpr int rest = M % R, last = M > R && rest && rest <= R / 2 ? R + rest : rest, whole = M - last;
    for (int m = 0; m < whole; m += R) {
        ahead.ask(R * V * steps);
        block<Floats, R, V, SM, ST, LANES, LANES, ADD>(a + m * SM, b, steps, c + m * LANES);
    }
    if constexpr (last > 0) block<Floats, last, V, SM, ST, LANES, LANES, ADD>(a + whole * SM, b, steps, c + whole * LANES);
}

template <int M, int SM, int ST, bool ADD>
static void product(const float* a, const float* b, int64_t steps, float* c) {
    Ahead nothing;
    nothing.clear();
    product<M, SM, ST, ADD>(a, b, steps, c, nothing);
}

// What a state is in: fp32 as it is read, fp64 as it is summed up.
struct State {
    double* sums;
    float* rounded;
};

typedef double vdouble __attribute__((vector_size(W * 8), aligned(4), may_alias));

// What becomes of row m of sums when more comes to it. All rows alike: they are kept in part, and it is added or taken away.
struct Change {
    float sign;
    double keep;
    ATTNSPEC_INLINE vdouble operator()(int, vdouble sums, vfloat more) const {
        return (SCALAR ? sums * keep : sums) + __builtin_convertvector(sign * more, vdouble);
    }
    Change from(int) const { return *this; }
};
// Each row has factors of its own.
struct ChangeOfEach {
    const double *keep, *come;
    ATTNSPEC_INLINE vdouble operator()(int m, vdouble sums, vfloat more) const {
        return sums * keep[m] + __builtin_convertvector(more, vdouble) * come[m];
    }
    ChangeOfEach from(int m) const { return {keep + m, come + m}; }
};

// sums[m][x] = by(m, sums[m][x], sum over t of A[t * S + m] B[t][x]), for M rows of COLS columns, by register blocks; `rounded`
// is the same.
template <int M, int SM, int ST, int COLS, int VECTORS, class By>
ATTNSPEC_INLINE void state_block(const float* a, const float* b, int64_t steps, By by, double* sums, float* rounded) {
    float c[M * VECTORS * W] __attribute__((aligned(64)));
    block<Floats, M, VECTORS, SM, ST, COLS, VECTORS * W, false>(a, b, steps, c);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) {
            vdouble* to = (vdouble*)(sums + m * COLS + v * W);
            const vdouble sum = by(m, *to, load(c + (m * VECTORS + v) * W));
            *to = sum;
            *(vfloat_any*)(rounded + m * COLS + v * W) = __builtin_convertvector(sum, vfloat);
        }
}
template <int M, int S, int COLS, int VECTORS, class By>
static void state_rows(const float* a, const float* b, int64_t steps, By by, State to, Ahead& ahead) {
    for (int m = 0; m + R <= M; m += R, ahead.ask(R * VECTORS * steps))
        state_block<R, 1, S, COLS, VECTORS>(a + m, b, steps, by.from(m), to.sums + m * COLS, to.rounded + m * COLS);
    constexpr int w = M / R * R;
    if constexpr (w < M) state_block<M - w, 1, S, COLS, VECTORS>(a + w, b, steps, by.from(w), to.sums + w * COLS, to.rounded + w * COLS);
}
template <int M, int S, int COLS, class By>
static void add_products(const float* a, const float* b, int64_t steps, By by, State to, Ahead& ahead) {
    constexpr int whole = COLS / LANES * LANES;
    for (int x = 0; x < whole; x += LANES) state_rows<M, S, COLS, C>(a, b + x, steps, by, {to.sums + x, to.rounded + x}, ahead);
    for (int x = whole; x < COLS; x += W) state_rows<M, S, COLS, 1>(a, b + x, steps, by, {to.sums + x, to.rounded + x}, ahead);
}

// sums[x] = keep * sums[x] + sign * sum over t of A[t] B[t][x]; A are ones where ST is 0.
template <int ST, int COLS>
static void add_rows(const float* a, const float* b, int64_t steps, Change by, State to) {
    constexpr int wide = 4, whole = COLS / (wide * W) * (wide * W);  // so many sums do not wait for one another
    for (int x = 0; x < whole; x += wide * W) state_block<1, 0, ST, COLS, wide>(a, b + x, steps, by, to.sums + x, to.rounded + x);
    for (int x = whole; x < COLS; x += W) state_block<1, 0, ST, COLS, 1>(a, b + x, steps, by, to.sums + x, to.rounded + x);
}

}  // namespace attnspec
