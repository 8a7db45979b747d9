// The one micro-kernel. All products of the library have the same shape,
//
//     C[m][lane] (+)= sum over t of A[m * SM + t * ST] * B[t * LDB + lane]
//
// with A read one element at a time (a broadcast, straight from row-major tensors) and B and C read as vectors. With the
// queries of a tile on the lanes (Q transposed once, O kept transposed):
//     scores       A = K,  m = key,        t = dim   (SM = row stride, ST = 1)
//     output       A = V,  m = dim,        t = key   (SM = 1, ST = row stride)
// so keys and values need no packing, and softmax runs down the lanes without a horizontal reduction.
//
// In pair mode an element of A and of B is a pair of neighbouring bf16 along t.

namespace attnspec {

struct Floats {
    using A = float;
    using B = float;
    static constexpr int STEP = 1;  // elements of the tensors in one element of A and B
    static ATTNSPEC_INLINE vfloat multiply_add(const float* a, vfloat b, vfloat sum) { return sum + *a * b; }
};

#if defined(__AVX512BF16__)
struct Pairs {
    using A = pair;
    using B = uint32_t;
    static constexpr int STEP = 2;
    static ATTNSPEC_INLINE vfloat multiply_add(const pair* a, vfloat b, vfloat sum) {
        return (vfloat)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)*a), (__m512bh)b);
    }
};
#endif

// One register block: M rows by V vectors.
template <class Dot, int M, int V, int SM, int ST, int LDB, int LDC, bool ADD, bool SCALE = false>
ATTNSPEC_INLINE void block(const typename Dot::A* a, const typename Dot::B* b, int64_t steps, float* c, float scale = 1.f) {
    vfloat sum[M][V];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[m][v] = ADD ? load_any(c + m * LDC + v * W) : vfloat{};
#pragma GCC unroll 2
    for (int64_t t = 0; t < steps; ++t) {
        vfloat row[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) row[v] = load_any((const float*)(b + t * LDB + v * W));
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[m][v] = Dot::multiply_add(a + m * SM + t * ST, row[v], sum[m][v]);
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) *(vfloat_any*)(c + m * LDC + v * W) = SCALE ? sum[m][v] * scale : sum[m][v];
}

}  // namespace attnspec
