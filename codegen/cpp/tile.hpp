// The operands of a tile. One side of every tile stands still on the vector lanes (transposed once, LANES positions to a
// group); the rows of the other side move past it. Forward and backward share these.

namespace attnspec {

constexpr float LOG2E = 1.44269504f, LN2 = 0.69314718f;

#if ATTNSPEC_DTYPE == 1 && defined(__AVX512BF16__)
using Dot = Pairs;
#else
using Dot = Floats;
#endif
constexpr int STEP = Dot::STEP;
constexpr bool PAIRS = STEP == 2;
constexpr float UNSCALED = 1.f;

// Lengths of the products over D and DV, and the rows of what is transposed from them.
constexpr int KT = (D + STEP - 1) / STEP, VT = (DV + STEP - 1) / STEP;
constexpr int QT = round_up(D, W), OT = round_up(DV, W);

// Which of LANES positions from `first` on lie in [begin, end).
static inline Range clip(int64_t first, int64_t begin, int64_t end) {
    int64_t lo = begin - first, hi = end - first;
    return {(int)(lo < 0 ? 0 : lo), (int)(hi > LANES ? LANES : hi)};
}

// to[c][lane] = scale * row `row + lane` of (b, h), for the live lanes; zeros elsewhere. Through `rows`, LANES x S, which
// holds the same afterwards, row by row. In pair mode c counts pairs of bf16 and there is no scale.
template <int COLS, int S>
static void load_lanes(uint32_t* to, uint32_t* rows, const Tensor& t, int64_t b, int64_t h, int64_t row, Range live, float scale) {
    const Elem* from = row_of<Elem>(t, b, h, row + live.begin);
    const int count = live.end - live.begin, room = LANES - live.begin;
    uint32_t* first = rows + live.begin * S;
    if (live.begin) memset(rows, 0, sizeof(uint32_t) * live.begin * S);
    if constexpr (PAIRS)
        rows_to_rows<COLS, 2 * S>((bf16*)first, (const bf16*)from, t.stride[2], t.stride[3], count, room);
    else
        rows_to_float<COLS, S>((float*)first, from, t.stride[2], t.stride[3], count, room, scale);
    transpose<LANES, S, LANES, S>(to, rows);
}

// Rows `row` .. `row + count` of (b, h) for a product along the row, padded to `rows` rows of S elements: in place where
// the tensor has this form already.
template <int COLS, int S>
static const Dot::A* load_rows(uint32_t* copy, const Tensor& t, int64_t b, int64_t h, int64_t row, int count, int rows) {
    const Elem* from = row_of<Elem>(t, b, h, row);
    constexpr bool same = sizeof(Elem) * STEP == 4 && COLS == S * STEP;
    if (same && t.stride[3] == 1 && t.stride[2] == COLS && count == rows) return (const Dot::A*)from;
    if constexpr (PAIRS)
        rows_to_rows<COLS, 2 * S>((bf16*)copy, (const bf16*)from, t.stride[2], t.stride[3], count, rows);
    else
        rows_to_float<COLS, S>((float*)copy, from, t.stride[2], t.stride[3], count, rows, 1.f);
    return (const Dot::A*)copy;
}

// The same for a product that sums over the rows: in pair mode an element holds two rows.
template <int COLS, int S>
static const Dot::A* load_columns(uint32_t* copy, const Tensor& t, int64_t b, int64_t h, int64_t row, int count, int rows) {
    if constexpr (PAIRS) {
        rows_to_pairs<COLS, S>(copy, row_of<bf16>(t, b, h, row), t.stride[2], t.stride[3], count, rows);
        return (const Dot::A*)copy;
    } else
        return load_rows<COLS, S>(copy, t, b, h, row, count, rows);
}

// For both products, as `along` and `down`. In fp32 one form serves both (its stride must then be that of `down`).
template <int COLS, int ALONG, int DOWN>
static void load_both(const Dot::A*& along, const Dot::A*& down, uint32_t* copy, uint32_t* copy_down, const Tensor& t, int64_t b,
                      int64_t h, int64_t row, int count, int rows) {
    along = load_rows<COLS, ALONG>(copy, t, b, h, row, count, rows);
    down = along;
    if constexpr (PAIRS) down = load_columns<COLS, DOWN>(copy_down, t, b, h, row, count, rows);
}

}  // namespace attnspec
