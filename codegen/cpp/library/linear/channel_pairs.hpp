// Pairs of features that decay each by itself: rows that lie among the lanes of a group, and what goes through a state.

namespace attnspec {

constexpr int TOGETHER = CHS % 8 == 0 ? 8 : 4;  // channels whose lanes stay in registers

// Where rows lie among lanes: row r is at the position of lane r + shift. All live lanes lie at rows of the tile, or
// farther from the inner side than the group's first.
struct Among {
    int shift;
    Range live;
    // The nearest of the rows that vector v of lanes may see.
    int nearest(int v) const {
        const int first = v * W, last = first + W - 1;
        return KEYS ? (first < live.begin ? live.begin : first) - shift : (last >= live.end ? live.end - 1 : last) - shift;
    }
    // Lanes that lie at a row or farther from the inner side: all that sees farther rows fades from one to the next.
    ATTNSPEC_INLINE vint beyond(int v, int row) const {
        vint lane;
        for (int l = 0; l < W; ++l) lane[l] = v * W + l;
        return KEYS ? lane <= all((int32_t)(row + shift)) : lane >= all((int32_t)(row + shift));
    }
};

// s[row][lane] = sum over channels of x y times what is left between them, for the rows of a range.
ATTNSPEC_NOINLINE static void score_among(float* s, const float* x, const float* y, const float* next, Range range, Among at) {
    constexpr int away = KEYS ? 1 : -1;
    for (int v = 0; v < C; ++v) {
        const int near = at.nearest(v), last = KEYS ? range.end - 1 : range.begin;
        if ((last - near) * away < 0) continue;
        for (int c = 0; c < CHS; c += TOGETHER) {
            vfloat at_row[TOGETHER];
#pragma GCC unroll 8
            for (int i = 0; i < TOGETHER; ++i) at_row[i] = load(x + (c + i) * LANES + v * W);
            for (int r = near;; r += away) {
                if (r >= range.begin && r < range.end) {
                    float* to = s + r * LANES + v * W;
                    vfloat sum = c ? load(to) : vfloat{};
#pragma GCC unroll 8
                    for (int i = 0; i < TOGETHER; ++i) sum += at_row[i] * y[r * CHS + c + i];
                    store(to, sum);
                }
                if (r == last) break;
                const vint on = at.beyond(v, r);
                const float* by = next + (r + away) * CHS + c;
#pragma GCC unroll 8
                for (int i = 0; i < TOGETHER; ++i) at_row[i] = on ? at_row[i] * by[i] : at_row[i];
            }
        }
    }
}

// out[channel][lane] += sum over the rows of a range of s z times what is left between them.
ATTNSPEC_NOINLINE static void add_among(float* out, const float* s, const float* z, const float* next, Range range, Among at) {
    constexpr int towards = KEYS ? -1 : 1;
    for (int v = 0; v < C; ++v) {
        const int near = at.nearest(v), first = KEYS ? range.end - 1 : range.begin;
        if ((near - first) * towards < 0) continue;
        for (int c = 0; c < CHS; c += TOGETHER) {
            vfloat sum[TOGETHER] = {};
            for (int r = first;; r += towards) {
                if (r >= range.begin && r < range.end) {
                    const vfloat weight = load(s + r * LANES + v * W);
#pragma GCC unroll 8
                    for (int i = 0; i < TOGETHER; ++i) sum[i] += weight * z[r * CHS + c + i];
                }
                if (r == near) break;
                const vint on = at.beyond(v, r + towards);
                const float* by = next + r * CHS + c;
#pragma GCC unroll 8
                for (int i = 0; i < TOGETHER; ++i) sum[i] = on ? sum[i] * by[i] : sum[i];
            }
#pragma GCC unroll 8
            for (int i = 0; i < TOGETHER; ++i) {
                float* to = out + (c + i) * LANES + v * W;
                store(to, load(to) + sum[i]);
            }
        }
    }
}

// Positions of the rows of a tile.
struct TileAt {
    const Rows& rows;
    int64_t slot, shift;
    int64_t operator()(int r) const { return rows(slot + r) + shift; }
};

// The same for rows and lanes anywhere, pair by pair; `exact` of the space are the sums of the lanes, rows those of the walk.
ATTNSPEC_NOINLINE static void score_exactly(ChannelSpace& w, const float* x, const float* y, Range range, Range live, Walk& walk,
                                            TileAt at) {
    transpose<CHS, LANES, CHS, LANES>(w.turned, x);
    for (int r = range.begin; r < range.end; ++r) {
        walk.to(at(r));
        for (int l = live.begin; l < live.end; ++l) {
            float& to = w.s[r * LANES + l];
            to = 0.f;
            if (!w.mask[r * LANES + l]) continue;
            vfloat sum = vfloat{};
            for (int c = 0; c < CHS; c += W)
                sum += load(w.turned + l * CHS + c) * load_any(y + r * CHS + c) * left_between(walk.sum + c, w.exact + l * CHS + c);
            for (int i = 0; i < W; ++i) to += sum[i];
        }
    }
}
ATTNSPEC_NOINLINE static void add_exactly(ChannelSpace& w, float* out, const float* z, Range range, Range live, Walk& walk, TileAt at) {
    for (int r = range.begin; r < range.end; ++r) {
        walk.to(at(r));
        for (int l = live.begin; l < live.end; ++l) {
            const float weight = w.s[r * LANES + l];
            if (!w.mask[r * LANES + l]) continue;
            alignas(64) float left[CHS];
            for (int c = 0; c < CHS; c += W)
                store(left + c, weight * load_any(z + r * CHS + c) * left_between(walk.sum + c, w.exact + l * CHS + c));
            for (int c = 0; c < CH; ++c) out[c * LANES + l] += left[c];
        }
    }
}

// Channels are the columns of the state, or its rows.
constexpr bool CHANNELS_ALONG = OF_OUT != BY_VALUE;
constexpr int STATE_COLUMNS = BY_VALUE ? YS : ZS;

// sums = sums * keep + more * by, channel by channel; without `more` sums * keep.
static void fade_sums(double* sums, const double* keep, const double* more, const double* by) {
    for (int m = 0; m < STATE / STATE_COLUMNS; ++m)
        for (int x = 0; x < STATE_COLUMNS; x += W) {
            const int i = m * STATE_COLUMNS + x;
            const vdouble one = CHANNELS_ALONG ? *(const vdouble*)(keep + x) : keep[m] - vdouble{};
            vdouble sum = *(vdouble*)(sums + i) * one;
            if (more) sum += *(const vdouble*)(more + i) * (CHANNELS_ALONG ? *(const vdouble*)(by + x) : by[m] - vdouble{});
            *(vdouble*)(sums + i) = sum;
        }
}

// out += state x, of lanes that count from `outer.from`.
static void read_faded_state(ChannelSpace& w, int g) {
    OuterSteps& outer = w.outer[g];
    alignas(64) float left[CHS];
    for (int c = 0; c < CHS; c += W) store(left + c, left_between(w.frame + c, outer.from + c));
    if constexpr (!OF_OUT) {
        for (int d = 0; d < D; ++d)
            for (int c = 0; c < LANES; c += W) store(w.turned + d * LANES + c, load(outer.x + d * LANES + c) * left[d]);
        product<DV, BY_VALUE ? YS : 1, BY_VALUE ? 1 : ZS, true>(w.state, w.turned, D, w.out[g], w.ahead);
    } else {
        for (int m = 0; m < STATE / STATE_COLUMNS; ++m)
            for (int x = 0; x < STATE_COLUMNS; x += W) {
                const int i = m * STATE_COLUMNS + x;
                store(w.faded_state + i, load(w.state + i) * (CHANNELS_ALONG ? load(left + x) : all(left[m])));
            }
        product<DV, BY_VALUE ? YS : 1, BY_VALUE ? 1 : ZS, true>(w.faded_state, w.x[g], D, outer.far, w.ahead);
    }
}

}  // namespace attnspec
