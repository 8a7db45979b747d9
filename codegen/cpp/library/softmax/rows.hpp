// Products of few rows with keys that lie scattered: keys on the lanes, each read where it is and as it is, and widened in
// registers. A row of the tensor is found by its address, so that strides, lists and pages are all the same here.
//
// A block is LANES keys. Scores of up to a few rows are dot products along the head size, whose sums are then gathered on
// the lanes; for more rows it takes less to transpose the block first. Values need neither. While vectors are read, those
// that are read next are asked for: processors foresee runs of a few kilobytes by themselves, and not what follows.

namespace attnspec {

constexpr int KEY = round_up(D, W), VALUE = round_up(DV, W);  // elements that are read of a key and a value
constexpr int FEW = 8;  // up to so many rows dot products take less than a transpose: measured

typedef uint16_t vhalf_any __attribute__((vector_size(W * 2), aligned(2), may_alias));

// W neighbouring elements. What the compiler makes of the conversion of whole vectors takes three times as many steps.
ATTNSPEC_INLINE vfloat widened(const float* p) { return load_any(p); }
ATTNSPEC_INLINE vfloat widened(const bf16* p) {
#if defined(__AVX512F__)
    return (vfloat)((vuint)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)) << 16);
#elif defined(__AVX2__)
    return (vfloat)((vuint)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)) << 16);
#else
    return (vfloat)(__builtin_convertvector(*(const vhalf_any*)p, vuint) << 16);
#endif
}
ATTNSPEC_INLINE vfloat widened(const fp16* p) {
#if defined(__AVX512F__)
    return (vfloat)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
    return (vfloat)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
    const vuint u = __builtin_convertvector(*(const vhalf_any*)p, vuint);
    const vfloat x = (vfloat)((u & 0x7fffu) << 13) * bits_float(0x77800000u);
    const vuint special = (vuint)((u & 0x7c00u) == 0x7c00u) & 0x7f800000u;
    return (vfloat)((vuint)x | special | (u & 0x8000u) << 16);
#endif
}

// Dot products along the head size: an element of a row, how many are multiplied at a time, and how. Products of bf16 are
// exact in pairs as well.
#if ATTNSPEC_DTYPE == 1 && defined(__AVX512BF16__)
using Factor = bf16;
constexpr int ALONG = 2 * W, ROW = round_up(KEY, ALONG);
ATTNSPEC_INLINE void load_row(bf16* to, const bf16* from, int64_t element) { rows_to_rows<D, ROW>(to, from, 0, element, 1, 1); }
ATTNSPEC_INLINE vfloat part_of(const bf16* key, int d) {
    return d + ALONG <= KEY ? load_any((const float*)(key + d)) : (vfloat)_mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i*)(key + d)));
}
ATTNSPEC_INLINE vfloat add_products(vfloat x, vfloat y, vfloat sum) { return (vfloat)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y); }
#else
using Factor = float;
constexpr int ALONG = W, ROW = KEY;
ATTNSPEC_INLINE void load_row(float* to, const Elem* from, int64_t element) { rows_to_float<D, ROW>(to, from, 0, element, 1, 1, 1.f); }
ATTNSPEC_INLINE vfloat part_of(const Elem* key, int d) { return widened(key + d); }
ATTNSPEC_INLINE vfloat add_products(vfloat x, vfloat y, vfloat sum) { return sum + x * y; }
#endif

// Asks for elements d .. of a vector of S, if a cache line begins there: for the second cache, as the first has no room for
// what two blocks need.
template <int S>
ATTNSPEC_INLINE void ask_for(const Elem* p, int d) {
    if (d * (int)sizeof(Elem) % 64 == 0 && d < S) __builtin_prefetch(p + d, 0, 2);
}

// The sums of W vectors, one on each lane: every round adds the two halves of all vectors.
ATTNSPEC_INLINE vfloat sums(vfloat (&x)[W]) {
    constexpr CountTo<W>::type lanes{};
#pragma GCC unroll 8
    for (int n = W / 2; n > 0; n /= 2)
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i)
            x[i] = (vfloat)interleave<0>((vuint)x[i], (vuint)x[i + n], lanes) + (vfloat)interleave<W / 2>((vuint)x[i], (vuint)x[i + n], lanes);
    return x[0];
}

// scores[m][key] = scale * rows[m] . keys[key] for M rows (M divides W) and a block of keys, two of which are read at a time,
// from end to end. The values of these keys are asked for.
template <int M>
ATTNSPEC_NOINLINE void dots(const Factor* rows, const Elem* const* keys, int count, const Elem* const* values, float scale, float* scores) {
    constexpr int EACH = W / M, TWO = EACH < 2 ? EACH : 2;
    for (int first = 0; first < count; first += EACH) {
        vfloat sum[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) sum[i] = vfloat{};
#pragma GCC unroll 16
        for (int i = 0; i < EACH; i += TWO)
            for (int d = 0; d < KEY; d += ALONG) {
                vfloat x[M];
#pragma GCC unroll 8
                for (int m = 0; m < M; ++m) x[m] = load((const float*)(rows + m * ROW + d));
#pragma GCC unroll 2
                for (int j = i; j < i + TWO; ++j) {
                    ask_for<VALUE>(values[first + j], d);
                    const vfloat y = part_of(keys[first + j], d);
#pragma GCC unroll 8
                    for (int m = 0; m < M; ++m) sum[m * EACH + j] = add_products(x[m], y, sum[m * EACH + j]);
                }
            }
        alignas(64) float all[W];
        store(all, sums(sum) * scale);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) memcpy(scores + m * LANES + first, all + m * EACH, EACH * sizeof(float));
    }
}

// to[d][key] of a block, whose values are asked for.
ATTNSPEC_NOINLINE void keys_to_lanes(const Elem* const* keys, const Elem* const* values, float* to) {
    for (int r = 0; r < LANES; r += W)
        for (int d = 0; d < KEY; d += W) {
            vuint x[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) ask_for<VALUE>(values[r + i], d), x[i] = (vuint)widened(keys[r + i] + d);
            transpose(x);
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) store(to + (d + i) * LANES + r, (vfloat)x[i]);
        }
}

// out[m] += sum over a block's keys of weights[m][key] * values[key], for M rows and V vectors at a time. The keys of the
// next block are asked for.
template <int M, int V, int FROM = 0>
ATTNSPEC_NOINLINE void weighted(const float* weights, const Elem* const* values, int count, const Elem* const* next, float* out) {
    constexpr int VECTORS = VALUE / W, END = FROM + (VECTORS - FROM) / V * V;
    for (int d = FROM * W; d < END * W; d += V * W) {
        vfloat sum[M][V];
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[m][v] = load(out + m * VALUE + d + v * W);
        for (int r = 0; r < count; ++r) {
            vfloat y[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) ask_for<KEY>(next[r], d + v * W), y[v] = widened(values[r] + d + v * W);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) sum[m][v] += weights[m * LANES + r] * y[v];
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) store(out + m * VALUE + d + v * W, sum[m][v]);
    }
    if constexpr (END < VECTORS) weighted<M, (VECTORS - END < V ? VECTORS - END : V), END>(weights, values, count, next, out);
}

// Scores and outputs of all rows: the arrays have room for a multiple of R.
static void all_dots(const Factor* rows, int count, const Elem* const* keys, int block, const Elem* const* values, float scale, float* scores) {
    int m = 0;
    for (; m + 2 < count; m += 4) dots<4>(rows + m * ROW, keys, block, values, scale, scores + m * LANES);
    if (m + 1 < count) dots<2>(rows + m * ROW, keys, block, values, scale, scores + m * LANES);
    if (m + 1 == count) dots<1>(rows + m * ROW, keys, block, values, scale, scores + m * LANES);
}
static void all_products(const float* rows, int count, const float* lanes, float scale, float* scores) {
    int m = 0;
    for (; m + 4 < count; m += R)
        attnspec::block<Floats, R, C, KEY, 1, LANES, LANES, false, true>(rows + m * KEY, lanes, D, scores + m * LANES, scale);
    for (; m < count; m += 4)
        attnspec::block<Floats, 4, C, KEY, 1, LANES, LANES, false, true>(rows + m * KEY, lanes, D, scores + m * LANES, scale);
}
static void all_weighted(const float* weights, int count, const Elem* const* values, int block, const Elem* const* next, float* out) {
    constexpr int MOST = R * C;  // accumulators
    int m = 0;
    if (sizeof(Elem) == 2 || count > FEW) {  // more rows at a time, for widening is work too; else whole values, as above
        for (; m + 4 < count; m += R) weighted<R, MOST / R>(weights + m * LANES, values, block, next, out + m * VALUE);
        for (; m + 2 < count; m += 4) weighted<4, MOST / 4>(weights + m * LANES, values, block, next, out + m * VALUE);
    }
    for (; m + 1 < count; m += 2) weighted<2, MOST / 2>(weights + m * LANES, values, block, next, out + m * VALUE);
    if (m + 1 == count) weighted<1, (MOST > 8 ? 8 : MOST)>(weights + m * LANES, values, block, next, out + m * VALUE);
}

}  // namespace attnspec
