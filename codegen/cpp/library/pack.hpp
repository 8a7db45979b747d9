// Copies of a few rows of a tensor in the form a kernel reads: converted to fp32, padded with zeros, transposed, or as
// pairs of bf16. Tiles are small, so this costs a percent or two, and lifts every demand on strides and element types.

namespace attnspec {

// `count` rows as fp32 rows of stride S, times `scale`; zeros in the columns COLS..S and the rows count..rows.
template <int COLS, int S, class T>
ATTNSPEC_NOINLINE void rows_to_float(float* __restrict to, const T* __restrict from, int64_t row, int64_t element,
                                     int64_t count, int64_t rows, float scale) {
    for (int64_t r = 0; r < count; ++r, to += S, from += row) {
        if (element == 1)
            for (int c = 0; c < COLS; ++c) to[c] = to_float(from[c]) * scale;
        else
            for (int c = 0; c < COLS; ++c) to[c] = to_float(from[c * element]) * scale;
        for (int c = COLS; c < S; ++c) to[c] = 0.f;
    }
    if (rows > count) memset(to, 0, sizeof(float) * S * (rows - count));
}

// The reverse, without padding.
template <int COLS, int S, class T>
ATTNSPEC_NOINLINE void rows_from_float(T* __restrict to, int64_t row, int64_t element, const float* __restrict from,
                                       int64_t count) {
    for (int64_t r = 0; r < count; ++r, to += row, from += S) {
        if (element == 1)
            for (int c = 0; c < COLS; ++c) from_float(from[c], to[c]);
        else
            for (int c = 0; c < COLS; ++c) from_float(from[c], to[c * element]);
    }
}

// `count` rows of bf16, unchanged, to stride S, padded with zeros likewise.
template <int COLS, int S>
ATTNSPEC_NOINLINE void rows_to_rows(bf16* __restrict to, const bf16* __restrict from, int64_t row, int64_t element,
                                    int64_t count, int64_t rows) {
    for (int64_t r = 0; r < count; ++r, to += S, from += row) {
        if (element == 1)
            memcpy(to, from, COLS * sizeof(bf16));
        else
            for (int c = 0; c < COLS; ++c) to[c] = from[c * element];
        for (int c = COLS; c < S; ++c) to[c] = bf16{0};
    }
    if (rows > count) memset(to, 0, sizeof(bf16) * S * (rows - count));
}

// to[r][c] = rows 2r and 2r + 1 of column c, as a pair.
template <int COLS, int S>
ATTNSPEC_NOINLINE void rows_to_pairs(uint32_t* __restrict to, const bf16* __restrict from, int64_t row, int64_t element,
                                     int64_t count, int64_t rows) {
    for (int64_t r = 0; r < rows; r += 2, to += S, from += 2 * row) {
        const bf16 *even = from, *odd = from + row;
        if (r + 1 < count && element == 1)
            for (int c = 0; c < COLS; ++c) to[c] = even[c].bits | (uint32_t)odd[c].bits << 16;
        else
            for (int c = 0; c < COLS; ++c)
                to[c] = (r < count ? even[c * element].bits : 0) | (uint32_t)(r + 1 < count ? odd[c * element].bits : 0) << 16;
        for (int c = COLS; c < S; ++c) to[c] = 0;
    }
}

// to[c][r] = from[r][c] for ROWS x COLS words, both multiples of W.
template <int ROWS, int COLS, int TO>
ATTNSPEC_INLINE void transpose_words(void* to, const void* from, int64_t stride) {
    for (int r = 0; r < ROWS; r += W)
        for (int c = 0; c < COLS; c += W) {
            vuint x[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) x[i] = *(const vuint_any*)((const uint32_t*)from + (r + i) * stride + c);
            transpose(x);
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) *(vuint_any*)((uint32_t*)to + (c + i) * TO + r) = x[i];
        }
}
template <int ROWS, int COLS, int TO, int FROM>
ATTNSPEC_NOINLINE void transpose(void* to, const void* from) { transpose_words<ROWS, COLS, TO>(to, from, FROM); }
template <int ROWS, int COLS, int TO>
ATTNSPEC_NOINLINE void transpose_rows(void* to, const void* from, int64_t stride) { transpose_words<ROWS, COLS, TO>(to, from, stride); }

}  // namespace attnspec
