// Vectors of floats as wide as the processor has them, from compiler vector types, so that one text serves AVX-512, AVX2,
// NEON and plain SSE. Only what the compiler cannot find by itself (maximum, rounding, dot products of bf16 pairs) is
// spelled with intrinsics, and each has a portable spelling beside it.
//
// Throughout the library one register block is R rows by C vectors: R * C independent accumulators, enough to hide the
// latency of the multiply-adds, few enough to stay in registers. LANES = C * W positions lie side by side in a block.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace attnspec {

#define ATTNSPEC_INLINE inline __attribute__((always_inline))
#define ATTNSPEC_NOINLINE __attribute__((noinline))
#define ATTNSPEC_LAMBDA __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int W = 16, C = 2, R = 8;  // 16 accumulators of 32 registers
#elif defined(__AVX__)
constexpr int W = 8, C = 2, R = 4;  // 8 of 16
#elif defined(__aarch64__)
constexpr int W = 4, C = 4, R = 4;  // 16 of 32
#else
constexpr int W = 4, C = 2, R = 4;  // 8 of 16
#endif
constexpr int LANES = C * W;

constexpr int round_up(int x, int to) { return (x + to - 1) / to * to; }
constexpr int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }  // b > 0

typedef float vfloat __attribute__((vector_size(W * 4), may_alias));
typedef int32_t vint __attribute__((vector_size(W * 4), may_alias));
typedef uint32_t vuint __attribute__((vector_size(W * 4), may_alias));
typedef float vfloat_any __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t vuint_any __attribute__((vector_size(W * 4), aligned(2), may_alias));
typedef uint32_t pair __attribute__((aligned(2), may_alias));  // two neighbouring bf16

constexpr float INF = std::numeric_limits<float>::infinity(), NO_NUMBER = std::numeric_limits<float>::quiet_NaN();

ATTNSPEC_INLINE vfloat all(float x) { return x - vfloat{}; }
ATTNSPEC_INLINE vint all(int32_t x) { return x - vint{}; }
ATTNSPEC_INLINE vfloat load(const float* p) { return *(const vfloat*)p; }
ATTNSPEC_INLINE vfloat load_any(const float* p) { return *(const vfloat_any*)p; }
ATTNSPEC_INLINE void store(float* p, vfloat x) { *(vfloat*)p = x; }

// a > b ? a : b. When either is NaN the result is b.
ATTNSPEC_INLINE vfloat larger(vfloat a, vfloat b) {
#if defined(__AVX512F__)
    return (vfloat)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vfloat)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

// a < b ? a : b. When either is NaN the result is b.
ATTNSPEC_INLINE vfloat smaller(vfloat a, vfloat b) {
#if defined(__AVX512F__)
    return (vfloat)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vfloat)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}

ATTNSPEC_INLINE bool any(vint x) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)x, (__m512i)x) != 0;
#elif defined(__AVX__)
    return !_mm256_testz_si256((__m256i)x, (__m256i)x);
#else
    int32_t seen = 0;
    for (int l = 0; l < W; ++l) seen |= x[l];
    return seen != 0;
#endif
}

// For x in -1/2 .. 1/2, to 1e-7.
ATTNSPEC_INLINE vfloat exp2_near_zero(vfloat x) {
    vfloat p = 0.0013264726f * x + 0.009671513f;
    p = p * x + 0.055507336f;
    p = p * x + 0.24022242f;
    p = p * x + 0.693147f;
    return p * x + 1.f;
}

// 2 to the power of x. 2^x = 2^n * 2^f with n the nearest integer; the polynomial (fitted to the smallest relative error,
// 1e-7 at degree 5, 3e-6 at degree 4) gives 2^f, and adding n to the exponent's bits gives the rest. Results below the
// smallest normal number are zero, those of minus infinity too; NaN stays NaN. Not for results above the largest number:
// softmax has none.
template <bool ACCURATE>
ATTNSPEC_INLINE vfloat exp2(vfloat x) {
    constexpr float shift = 12582912.f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    vfloat y = larger(all(-126.5f), x);
    vfloat t = y + shift;
    vfloat f = y - (t - shift);
    vfloat p;
    if (ACCURATE) {
        p = exp2_near_zero(f);
    } else {
        p = 0.009582853f * f + 0.055906426f;
        p = p * f + 0.24024099f;
        p = p * f + 0.6931242f;
        p = p * f + 1.f;
    }
    vint bits = (vint)p + ((vint)t << 23);
    return x < -126.f ? vfloat{} : (vfloat)bits;
}

#if defined(__AVX512BF16__)
// x and y rounded to bf16, x in the low half of each lane, y in the high half.
ATTNSPEC_INLINE vfloat interleave_pairs(vfloat x, vfloat y) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vfloat)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
}
ATTNSPEC_INLINE void store_bf16(void* to, vfloat x) { _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)x)); }
#endif

// The transpose of a W x W block: log2(W) rounds, each of which interleaves row i with row i + W/2 and so rotates the
// (row, column) bits by one.
template <int... I>
struct Lanes {};
template <int N, int... I>
struct CountTo : CountTo<N - 1, N - 1, I...> {};
template <int... I>
struct CountTo<0, I...> { using type = Lanes<I...>; };

// a[HALF], b[HALF], a[HALF + 1], b[HALF + 1], ...
template <int HALF, int... I>
ATTNSPEC_INLINE vuint interleave(vuint a, vuint b, Lanes<I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (HALF + I / 2 + (I % 2) * W)...);
#else
    return __builtin_shuffle(a, b, vint{(HALF + I / 2 + (I % 2) * W)...});
#endif
}

ATTNSPEC_INLINE void transpose(vuint (&rows)[W]) {
    constexpr CountTo<W>::type lanes{};
    for (int round = 1; round < W; round *= 2) {
        vuint next[W];
#pragma GCC unroll 16
        for (int i = 0; i < W / 2; ++i) {
            next[2 * i] = interleave<0>(rows[i], rows[i + W / 2], lanes);
            next[2 * i + 1] = interleave<W / 2>(rows[i], rows[i + W / 2], lanes);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) rows[i] = next[i];
    }
}

}  // namespace attnspec
