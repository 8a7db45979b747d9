// Rotary position embeddings: the pairs of a row turned by the angles of its position.

namespace attnspec {

// x * y + z. The product is not rounded before the sum where the processor can do both in one step: said rather than left to
// the compiler, which may fuse the other product of a formula elsewhere, so that results differed by where they are made.
static ATTNSPEC_INLINE float multiply_add(float x, float y, float z) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(x, y, z);
#else
    return x * y + z;
#endif
}

// Of a row of `dim` elements the first `dims` are turned, where cos and sin hold dims / 2 numbers, and the rest is copied.
// PAIRED: elements 2c and 2c + 1 make a pair, else c and c + dims / 2. What differs between the loops is known at compile
// time, so that the compiler vectorises each. It must be told that it may: it does not see that the two halves lie apart.
template <bool PAIRED, bool ADJACENT>
static ATTNSPEC_INLINE void turn_row(const Elem* __restrict from, int64_t stride, const float* __restrict cos,
                                     const float* __restrict sin, Elem* __restrict to, int64_t dims, int64_t dim) {
    const int64_t element = ADJACENT ? 1 : stride, half = dims / 2;
    const int64_t step = PAIRED ? 2 : 1, other = PAIRED ? 1 : half;
#pragma omp simd
    for (int64_t c = 0; c < half; ++c) {
        const int64_t at = c * step;
        const float x = to_float(from[at * element]), y = to_float(from[(at + other) * element]);
        from_float(multiply_add(x, cos[c], -(y * sin[c])), to[at]);
        from_float(multiply_add(y, cos[c], x * sin[c]), to[at + other]);
    }
    for (int64_t c = dims; c < dim; ++c) to[c] = from[c * element];
}

}  // namespace attnspec
