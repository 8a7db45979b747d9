// The sweep where each channel of a pair has a weight of its own, exp(here_ic + there_jc): a softmax over the keys of a row for
// each feature. Channels are those that x and y share (LOGS 1), or those of z (LOGS 2); what keys have of them is exp of their
// logarithms, and no tensor of theirs is read beside. With LOGS 3 the output is what rows count from in the other two, `here`:
// minus the largest of `there` that one sees, and minus infinity if it sees none.
//
// For pairs of the pattern no weight is above 1, but logarithms may be of any size, so nothing is exponentiated by itself. A
// tile of the inner side counts from the largest of each channel in it (`top`), a state from the largest of what it holds. A
// partial tile holds pairs that the pattern has not, whose weights overflow: where the two sides of one lie too far apart for
// products of factors, weights are worked out pair by pair and channel by channel.

namespace attnspec {

constexpr float FAR = 40.f;        // what is lost of a pair with factors up to exp of it is below exp(FAR - 87)
constexpr float LOWEST = -1e37f;   // in place of minus infinity, which has no differences
constexpr double VANISHED = 1e-7;  // of the most that a state held: what is left of less is rounding

struct LogSpace : LinearSpace {
    float logs_here[GROUPS][CS * LANES], most_here[GROUPS][CS];
    float logs_there[KEPT][ROWS * CS], faded[KEPT][ROWS * CS], top[KEPT][CS], mass[KEPT][CS];
    float moved[CS * LANES], tops[CS];  // tops: what channels of the state count from
    double keep[CS], come[CS];
};
using Space = LogSpace;
constexpr bool ONES = !KEYS;  // channels of the inner side are exp of logarithms, and nothing else

ATTNSPEC_INLINE vfloat finite(vfloat x) { return x < INF ? x : all(-INF); }  // NaN is not
ATTNSPEC_INLINE vfloat weight(vfloat here, vfloat there) { return exp(smaller(vfloat{}, here + there)); }

// A tile of the inner side. `faded` is y or z times exp of `logs` less `top`, `mass` the sum of these exponentials.
struct LogTile { int64_t tile, head; Inner inner; const float *logs, *faded, *top, *mass; };

// Whether factors relative to the top of a tile stay within what floats hold.
static bool are_near(const LogSpace& w, int g, const float* top) {
    vint far = vint{};
    for (int c = 0; c < CS; c += W) far |= (vint)(load(w.most_here[g] + c) + load_any(top + c) > FAR);
    return !any(far);
}

// moved = x * exp(here + frame), for channels on rows.
static void fade(LogSpace& w, int g, const float* x, const float* frame) {
    for (int d = 0; d < CHANNELS; ++d)
        for (int c = 0; c < LANES; c += W)
            store(w.moved + d * LANES + c, load(x + d * LANES + c) * exp(load(w.logs_here[g] + d * LANES + c) + frame[d]));
}

// out += moved * exp(here + frame)
static void add_moved(LogSpace& w, int g, const float* frame) {
    for (int d = 0; d < CHANNELS; ++d)
        for (int c = d * LANES; c < d * LANES + LANES; c += W)
            store(w.out[g] + c, load(w.out[g] + c) + load(w.moved + c) * exp(load(w.logs_here[g] + c) + frame[d]));
}

ATTNSPEC_NOINLINE static void score_far(LogSpace& w, int g, const LogTile& tile, Range range) {
    for (int r = range.begin; r < range.end; ++r)
        for (int c = 0; c < LANES; c += W) {
            vfloat sum = vfloat{};
            for (int d = 0; d < CHANNELS; ++d)
                sum += load(w.x[g] + d * LANES + c) * (ONES ? 1.f : tile.inner.y[r * YS + d]) *
                       weight(load(w.logs_here[g] + d * LANES + c), all(tile.logs[r * CS + d]));
            store(w.s + r * LANES + c, sum);
        }
    const int padding = round_up(range.end, R) - range.end;
    memset(w.s + range.end * LANES, 0, sizeof(float) * padding * LANES);
}

template <bool PARTIAL>
ATTNSPEC_NOINLINE static void add_far(LogSpace& w, int g, const LogTile& tile, Range range) {
    for (int d = 0; d < CHANNELS; ++d)
        for (int c = 0; c < LANES; c += W) {
            const vfloat here = load(w.logs_here[g] + d * LANES + c);
            vfloat sum = load(w.out[g] + d * LANES + c);
            for (int r = range.begin; r < range.end; ++r) {
                const vfloat more = load(w.s + r * LANES + c) * (ONES ? 1.f : tile.inner.z[r * ZS + d]) *
                                    weight(here, all(tile.logs[r * CS + d]));
                sum += PARTIAL ? (*(const vint*)(w.mask + r * LANES + c) != 0 ? more : vfloat{}) : more;
            }
            store(w.out[g] + d * LANES + c, sum);
        }
}

template <bool PARTIAL>
static void find_largest(LogSpace& w, int g, const LogTile& tile, Range range) {
    for (int d = 0; d < CHANNELS; ++d)
        for (int c = 0; c < LANES; c += W) {
            vfloat most = load(w.out[g] + d * LANES + c);
            for (int r = range.begin; r < range.end; ++r) {
                const vfloat x = finite(all(tile.logs[r * CS + d]));
                most = larger(PARTIAL ? (*(const vint*)(w.mask + r * LANES + c) != 0 ? x : all(-INF)) : x, most);
            }
            store(w.out[g] + d * LANES + c, most);
        }
}

}  // namespace attnspec
