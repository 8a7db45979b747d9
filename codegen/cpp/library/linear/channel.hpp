// Features that decay each by itself. What is left of one between two positions is exp of the sum of the steps between them,
// channel by channel; no product of a factor of either position gives it for a whole tile, since one of the two would be
// above 1 and could be anything. So
//   * positions of the inner side count relative to the nearest (to the outer side) of SUB neighbours;
//   * those of the outer side relative to the nearest (to the inner side) of a group of LANES;
//   * what lies between is exp of a difference of two sums, for each channel: all three factors are at most 1;
//   * rows that lie among the lanes of a group are summed channel by channel (channel_pairs.hpp).

namespace attnspec {

constexpr int SUB = 16, SUBS = ROWS / SUB + 1;

// Whether `one` is as near to the outer side as `other`, or nearer. Positions, of queries or of keys.
ATTNSPEC_INLINE bool is_as_near(int64_t one, int64_t other) { return KEYS ? one <= other : one >= other; }

// 2 to the power of what steps from the farther of two positions to the nearer one add up to.
ATTNSPEC_INLINE vfloat left_between(const double* far, const double* near) {
    const vdouble x = KEYS ? *(const vdouble*)far - *(const vdouble*)near : *(const vdouble*)near - *(const vdouble*)far;
    const vfloat t = __builtin_convertvector(x, vfloat) + 0.f;
    const vfloat low = larger(all(-126.5f), t);
    constexpr float shift = 12582912.f;  // 1.5 * 2^23
    const vfloat whole = (low + shift) - shift;
    const vfloat part = __builtin_convertvector(x - __builtin_convertvector(whole, vdouble), vfloat);
    const vint bits = (vint)exp2_near_zero(part) + ((vint)(low + shift) << 23);
    return t < -126.f ? vfloat{} : (vfloat)bits;
}

// exp of a sum of few steps, in fp32: where that has lost digits nothing is left.
ATTNSPEC_INLINE vfloat left_after(vfloat sum) {
    constexpr float shift = 12582912.f;
    const vfloat low = larger(all(-88.f), sum), t = low * LOG2E + shift, whole = t - shift;
    const vfloat x = low - whole * 0.693359375f + whole * 2.12194440e-4f;  // less whole * ln(2), in two parts
    vfloat p = 1.9875691500e-4f * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.f;
    const vint bits = (vint)p + ((vint)t << 23);
    return sum < -87.f ? vfloat{} : (vfloat)bits;
}

typedef int64_t vlong __attribute__((vector_size(W * 8), aligned(4), may_alias));

// The same in fp64, for what a state keeps over many tiles.
ATTNSPEC_INLINE vdouble kept_between(const double* far, const double* near) {
    const vdouble x = KEYS ? *(const vdouble*)far - *(const vdouble*)near : *(const vdouble*)near - *(const vdouble*)far;
    constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52
    const vdouble low = x < -1000.0 ? vdouble{} - 1000.0 : x;
    const vdouble t = low + shift, f = low - (t - shift);
    // Coefficients are ln(2)^k / k!
    constexpr double by[] = {4.4455382718708116e-10, 7.0549116208011234e-09, 1.0178086009239699e-07, 1.3215486790144309e-06,
                             1.5252733804059840e-05, 1.5403530393381609e-04, 1.3333558146428443e-03, 9.6181291076284772e-03,
                             5.5504108664821580e-02, 2.4022650695910071e-01, 6.9314718055994531e-01, 1.0};
    vdouble p = by[0] - vdouble{};
    for (int i = 1; i < 12; ++i) p = p * f + by[i];
    const vlong bits = (vlong)p + ((vlong)t << 52);
    return x < -1000.0 ? vdouble{} : (vdouble)bits;
}

// A tile of the inner side: what is left of its rows at the nearest of each SUB of them, what is left at a row's nearer
// neighbour (where slots are evenly spaced), and the sums and positions of the nearest.
struct alignas(64) InnerSteps {
    float back[ROWS * CHS], next[ROWS * CHS];
    double near[SUBS * CHS];
    int64_t near_at[SUBS];
    int subs;
};

// Of LANES of the outer side: what is left of each at the nearest to the inner side, transposed; features with that factor;
// of OF_OUT, what the lanes get of rows that do not lie among them, before it.
struct alignas(64) OuterSteps {
    float left[CHS * LANES], x[OF_OUT ? W : CHS * LANES], far[OF_OUT ? CHS * LANES : W];
    double from[CHS];
    int64_t from_at;
};

struct alignas(64) ChannelSpace : LinearSpace {
    InnerSteps inner[KEPT];
    OuterSteps outer[GROUPS];
    double before[CHS], exact[(SUB > LANES ? SUB : LANES) * CHS];
    float faded[ROWS * CHS], turned[LANES * CHS], faded_state[OF_OUT ? STATE : W];
};

// Of rows at positions from `first` on, one after the other.
static void load_inner_run(InnerSteps& to, Walk& walk, int64_t first, int count) {
    to.subs = (count + SUB - 1) / SUB;
    for (int s = 0; s < to.subs; ++s) {
        const int begin = s * SUB, end = begin + SUB < count ? begin + SUB : count, near = KEYS ? begin : end - 1;
        to.near_at[s] = first + near;
        walk.to(first + near);
        memcpy(to.near + s * CHS, walk.sum, sizeof(walk.sum));
        for (int c = 0; c < CHS; c += W) {
            vfloat sum = vfloat{};
            store(to.back + near * CHS + c, all(1.f));
            for (int i = 1; i < end - begin; ++i) {
                const int r = KEYS ? begin + i : end - 1 - i;
                const vfloat step = walk.step(first + r + !KEYS, c);
                sum += step;
                store(to.back + r * CHS + c, left_after(sum));
                store(to.next + r * CHS + c, left_after(step));
            }
            const int r = KEYS ? begin : begin - 1;  // across the border of two
            if (begin) store(to.next + r * CHS + c, left_after(walk.step(first + begin, c)));
        }
    }
}

static void load_inner_steps(ChannelSpace& w, InnerSteps& to, Walk& walk, const Rows& at, int64_t shift, Span slots) {
    const int count = (int)(slots.end - slots.begin);
    if (!at.list && at.step == 1) {
        load_inner_run(to, walk, at(slots.begin) + shift, count);
        return;
    }
    to.subs = (count + SUB - 1) / SUB;
    for (int s = 0; s < to.subs; ++s) {
        const int first = s * SUB, size = count - first < SUB ? count - first : SUB;
        int near = 0;
        int64_t near_at = 0;
        for (int r = 0; r < size; ++r) {
            const int64_t position = at(slots.begin + first + r) + shift;
            walk.to(position);
            double* sum = w.exact + r * CHS;
            memcpy(sum, walk.sum, sizeof(walk.sum));
            if (r == 0 || is_as_near(position, near_at)) near = r, near_at = position;
            if (first + r == 0) continue;
            const double* last = r ? sum - CHS : w.before;
            float* next = to.next + (first + r - !KEYS) * CHS;
            for (int c = 0; c < CHS; c += W) store(next + c, left_between((KEYS ? sum : last) + c, (KEYS ? last : sum) + c));
        }
        for (int r = 0; r < size; ++r)
            for (int c = 0; c < CHS; c += W)
                store(to.back + (first + r) * CHS + c, left_between(w.exact + r * CHS + c, w.exact + near * CHS + c));
        memcpy(to.near + s * CHS, w.exact + near * CHS, sizeof(w.before));
        memcpy(w.before, w.exact + (size - 1) * CHS, sizeof(w.before));
        to.near_at[s] = near_at;
    }
}

// Sums of the steps up to each live lane.
static void load_lanes_exactly(ChannelSpace& w, Walk& walk, const Rows& at, int64_t shift, int64_t slot, Range live) {
    for (int l = live.begin; l < live.end; ++l) {
        walk.to(at(slot + l) + shift);
        memcpy(w.exact + l * CHS, walk.sum, sizeof(walk.sum));
    }
}

// What is left of lanes at the nearest of them, for positions from `first` on, one after the other.
static void load_outer_run(ChannelSpace& w, OuterSteps& to, Walk& walk, int64_t first, Range live) {
    const int near = KEYS ? live.end - 1 : live.begin;
    to.from_at = first + near;
    walk.to(to.from_at);
    memcpy(to.from, walk.sum, sizeof(to.from));
    for (int c = 0; c < CHS; c += W) {
        vfloat sum = vfloat{};
        store(w.turned + near * CHS + c, all(1.f));
        for (int i = 1; i < live.end - live.begin; ++i) {
            const int l = KEYS ? near - i : near + i;
            sum += walk.step(first + l + KEYS, c);
            store(w.turned + l * CHS + c, left_after(sum));
        }
    }
}

// The same for positions anywhere.
static void load_outer_anywhere(ChannelSpace& w, OuterSteps& to, Walk& walk, const Rows& at, int64_t shift, int64_t slot, Range live) {
    load_lanes_exactly(w, walk, at, shift, slot, live);
    int near = live.begin;
    for (int l = live.begin; l < live.end; ++l) {
        const int64_t position = at(slot + l) + shift;
        if (l == live.begin || is_as_near(to.from_at, position)) near = l, to.from_at = position;
    }
    memcpy(to.from, w.exact + near * CHS, sizeof(to.from));
    for (int l = live.begin; l < live.end; ++l)
        for (int c = 0; c < CHS; c += W) store(w.turned + l * CHS + c, left_between(to.from + c, w.exact + l * CHS + c));
}

// `x` are the features of the lanes.
static void load_outer_steps(ChannelSpace& w, OuterSteps& to, Walk& walk, const Rows& at, int64_t shift, int64_t slot, Range live,
                             const float* x) {
    if (live.begin || live.end < LANES) memset(w.turned, 0, sizeof(w.turned));
    if (!at.list && at.step == 1)
        load_outer_run(w, to, walk, at(slot) + shift, live);
    else
        load_outer_anywhere(w, to, walk, at, shift, slot, live);
    transpose<LANES, CHS, LANES, CHS>(to.left, w.turned);
    if constexpr (OF_OUT)
        memset(to.far, 0, sizeof(to.far));
    else
        for (int i = 0; i < CHS * LANES; i += W) store(to.x + i, load(to.left + i) * load(x + i));
}

// The rows of a range of a tile, as what is left of them where sums are `there`; none of them is nearer. Past the end: zeros.
static const float* faded(ChannelSpace& w, const InnerSteps& steps, const float* rows, Range range, int count, const double* there) {
    for (int r = range.begin; r < range.end;) {
        const int sub = r / SUB, end = (sub + 1) * SUB < range.end ? (sub + 1) * SUB : range.end;
        alignas(64) float between[CHS];
        for (int c = 0; c < CHS && r < count; c += W) store(between + c, left_between(steps.near + sub * CHS + c, there + c));
        for (; r < end && r < count; ++r)
            for (int c = 0; c < CHS; c += W)
                store(w.faded + r * CHS + c, load_any(rows + r * CHS + c) * (load(steps.back + r * CHS + c) * load(between + c)));
        for (; r < end; ++r) memset(w.faded + r * CHS, 0, sizeof(float) * CHS);
    }
    return w.faded;
}

// Calls apart(rows) for the rows of a range that count from where the group of lanes does, and among(rows) for the others.
template <class Apart, class Among>
ATTNSPEC_INLINE void each_part(const InnerSteps& steps, const OuterSteps& outer, Range range, Apart&& apart, Among&& among) {
    for (int r = range.begin, end; r < range.end; r = end) {
        const auto is_apart = [&](int row) { return is_as_near(outer.from_at, steps.near_at[row / SUB]); };
        const bool now = is_apart(r);
        for (end = r; end < range.end && is_apart(end) == now;) end = (end / SUB + 1) * SUB;
        end = end < range.end ? end : range.end;
        now ? apart(Range{r, end}) : among(Range{r, end});
    }
}

}  // namespace attnspec
