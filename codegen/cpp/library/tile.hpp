// The operands of a tile. One side of every tile stands still on the vector lanes (transposed once, LANES positions to a
// group); the rows of the other side move past it. Forward and backward share these.

namespace attnspec {

// Sums are relative to a maximum that is lazy: a score may pass it by so much.
constexpr float SLACK = 8.f;
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

// A score line works on scores in natural units; without one they are in units of log2 from the start. Differences of
// scores become exponents of 2 times TO_LOG2: the other way round, large scores would lose what tells them apart.
constexpr float UNIT = Score::IDENTITY ? LOG2E : 1.f, TO_LOG2 = Score::IDENTITY ? 1.f : LOG2E, TO_NATURAL = Score::IDENTITY ? LN2 : 1.f;

ATTNSPEC_INLINE vfloat in_log2(vfloat difference) { return Score::IDENTITY ? difference : difference * LOG2E; }

// What the weights of a row are relative to: a score not far below its largest, in units of scores, and the log2 of the sum
// of weights relative to that. A weight is exp2(in_log2(score - top) - sum). A log-sum-exp would not do: for scores near
// 1e9 a float's step is 64, and what tells one key from a hundred is lost. An empty row has top -INF.
struct Norm {
    float top, sum;
    // From norms, or where there are none from log-sum-exps.
    static Norm of(const float* norms, const float* lse, int64_t lines, int64_t line) {
        return norms ? Norm{norms[line], norms[lines + line]} : Norm{lse[line] / TO_NATURAL, 0.f};
    }
};

// Where the results of one branch of a forward pass lie. A line is a row of a head of a batch entry.
struct Results {
    const ForwardProblem& p;
    int64_t lines, before;  // of each branch, and of those before this one
    Tensor out;

    Results(const ForwardProblem& p, const Sizes& s, int branch)
        : p(p), lines(s.entries * s.query_heads * s.rows), before(p.branch ? branch * lines : 0), out(p.out) {
        out.data = (Sum*)out.data + branch * p.branch;
    }
    float* norms() const { return p.norm ? p.norm + 3 * before : nullptr; }
    Norm norm(int64_t line) const { return Norm::of(norms(), p.lse + before, lines, line); }
    // The log-sum-exp of a line, and its norm where it is wanted; `largest` is its largest score, in units of scores.
    void put(int64_t line, Norm norm, float largest) const {
        p.lse[before + line] = norm.top * TO_NATURAL + norm.sum * LN2;
        if (!p.norm) return;
        float* to = norms() + line;
        largest *= TO_NATURAL;
        if (CARRY && to[2 * lines] > largest) largest = to[2 * lines];
        if (norm.sum != norm.sum && largest < INF) largest = NO_NUMBER;  // maxima skip it
        to[0] = norm.top, to[lines] = norm.sum, to[2 * lines] = largest;
    }
};

// Room for rows that lie scattered, before they are packed.
constexpr int SCRATCH = (BM > BN ? BM : BN) * (D > DV ? D : DV);

// to[c][lane] = scale * row of slot `slot + lane` of (b, h), for the live lanes; zeros elsewhere. Through `rows`, LANES x S,
// which holds the same afterwards, row by row. In pair mode c counts pairs of bf16 and there is no scale.
template <int COLS, int S>
static void load_lanes(uint32_t* to, uint32_t* rows, float* scratch, const Tensor& t, int64_t b, int64_t h, const Rows& at,
                       int64_t slot, Range live, float scale) {
    const int count = live.end - live.begin, room = LANES - live.begin;
    const View<Elem> x = view<COLS, Elem>(scratch, t, b, h, at, slot + live.begin, count);
    uint32_t* first = rows + live.begin * S;
    if (live.begin) memset(rows, 0, sizeof(uint32_t) * live.begin * S);
    if constexpr (PAIRS)
        rows_to_rows<COLS, 2 * S>((bf16*)first, (const bf16*)x.from, x.row, x.element, count, room);
    else
        rows_to_float<COLS, S>((float*)first, x.from, x.row, x.element, count, room, scale);
    transpose<LANES, S, LANES, S>(to, rows);
}

// The rows of slots `slot` .. `slot + count` of (b, h) for a product along the row, padded to `rows` rows of S elements: in
// place where the tensor has this form already.
template <int COLS, int S>
static const Dot::A* load_rows(uint32_t* copy, float* scratch, const Tensor& t, int64_t b, int64_t h, const Rows& at, int64_t slot,
                               int count, int rows) {
    constexpr bool same = sizeof(Elem) * STEP == 4 && COLS == S * STEP;
    const View<Elem> x = view<COLS, Elem>(same && count == rows ? (float*)copy : scratch, t, b, h, at, slot, count);
    if (same && x.element == 1 && x.row == COLS && count == rows) return (const Dot::A*)x.from;
    if constexpr (PAIRS)
        rows_to_rows<COLS, 2 * S>((bf16*)copy, (const bf16*)x.from, x.row, x.element, count, rows);
    else
        rows_to_float<COLS, S>((float*)copy, x.from, x.row, x.element, count, rows, 1.f);
    return (const Dot::A*)copy;
}

// The same for a product that sums over the rows: in pair mode an element holds two rows.
template <int COLS, int S>
static const Dot::A* load_columns(uint32_t* copy, float* scratch, const Tensor& t, int64_t b, int64_t h, const Rows& at,
                                  int64_t slot, int count, int rows) {
    if constexpr (PAIRS) {
        const View<bf16> x = view<COLS, bf16>(scratch, t, b, h, at, slot, count);
        rows_to_pairs<COLS, S>(copy, x.from, x.row, x.element, count, rows);
        return (const Dot::A*)copy;
    } else
        return load_rows<COLS, S>(copy, scratch, t, b, h, at, slot, count, rows);
}

// For both products, as `along` and `down`. In fp32 one form serves both (its stride must then be that of `down`).
template <int COLS, int ALONG, int DOWN>
static void load_both(const Dot::A*& along, const Dot::A*& down, uint32_t* copy, uint32_t* copy_down, float* scratch, const Tensor& t,
                      int64_t b, int64_t h, const Rows& at, int64_t slot, int count, int rows) {
    along = load_rows<COLS, ALONG>(copy, scratch, t, b, h, at, slot, count, rows);
    down = along;
    if constexpr (PAIRS) down = load_columns<COLS, DOWN>(copy_down, scratch, t, b, h, at, slot, count, rows);
}

// Element c of row r of rows in the form that load_columns gives.
template <int S>
ATTNSPEC_INLINE float element(const Dot::A* down, int r, int c) {
    if constexpr (PAIRS) {
        const uint32_t both = ((const uint32_t*)down)[r / 2 * S + c];
        return bits_float(r % 2 ? both & 0xffff0000u : both << 16);
    } else
        return ((const float*)down)[r * S + c];
}

template <int S>
static void clear_row(uint32_t* down, int r) {
    for (int c = 0; c < S; ++c)
        if constexpr (PAIRS)
            down[r / 2 * S + c] &= r % 2 ? 0x0000ffffu : 0xffff0000u;
        else
            down[r * S + c] = 0;
}

// Whether the rows of a range are finite; in pair mode its ends are even.
template <int S>
ATTNSPEC_NOINLINE bool are_finite(const Dot::A* down, Range range) {
    const uint32_t* words = (const uint32_t*)down + range.begin / STEP * S;
    uint32_t most = 0;  // of the exponents, which are all ones where a number is not finite
    for (int i = 0; i < (range.end - range.begin) / STEP * S; ++i) {
        const uint32_t high = words[i] & 0x7f800000u, low = PAIRS ? words[i] << 16 & 0x7f800000u : 0;
        most = high > most ? high : most;
        most = low > most ? low : most;
    }
    return most < 0x7f800000u;
}

template <int S>
ATTNSPEC_NOINLINE bool is_finite(const Dot::A* down, int r) {
    uint32_t most = 0;
    for (int c = 0; c < S; ++c) {
        const uint32_t exponent = float_bits(element<S>(down, r, c)) & 0x7f800000u;
        most = exponent > most ? exponent : most;
    }
    return most < 0x7f800000u;
}

// A weight of zero hides a row from a sum only if the row is finite. Rows of a tile that are not, as far as was asked.
template <int ROWS>
struct Unfit {
    int count, at[ROWS];
    Range asked;
    void begin() { count = 0, asked = {0, 0}; }
    // Looks at the rows of a range that were not looked at yet, with is_fit(range) and is_fit_row(row).
    template <class All, class One>
    ATTNSPEC_INLINE void find(Range range, All&& are_fit, One&& is_fit) {
        if (asked.begin == asked.end) asked = {range.begin, range.begin};
        const Range parts[2] = {{range.begin, asked.begin}, {asked.end, range.end}};
        for (const Range& part : parts)
            if (part.begin < part.end && !are_fit(part))
                for (int r = part.begin; r < part.end; ++r)
                    if (!is_fit(r)) at[count++] = r;
        asked = {range.begin < asked.begin ? range.begin : asked.begin, range.end > asked.end ? range.end : asked.end};
    }
    template <int S>
    ATTNSPEC_INLINE void find(const Dot::A* down, Range range) {
        find(range, [&](Range part) { return are_finite<S>(down, part); }, [&](int r) { return is_finite<S>(down, r); });
    }
    // The tile with zeros in their place: a copy, if there are any.
    template <int S>
    const Dot::A* without(const Dot::A* down, uint32_t* copy, int rows) const {
        if (!count) return down;
        if ((const Dot::A*)copy != down) memcpy(copy, down, sizeof(uint32_t) * rows / STEP * S);
        for (int i = 0; i < count; ++i) clear_row<S>(copy, at[i]);
        return (const Dot::A*)copy;
    }
};

// Positions of LANES slots, for score lines; those of dead lanes are 0.
static inline void load_positions(int32_t* to, const Rows& at, int64_t shift, int64_t slot, Range live) {
    for (int l = 0; l < LANES; ++l) to[l] = l >= live.begin && l < live.end ? (int32_t)(at(slot + l) + shift) : 0;
}

}  // namespace attnspec
