// Sums of the logarithms of steps, where features decay each by itself. They are of base 2 and in fp64: over a million steps
// fp32 has no digits left, and of -60 and -0.3 it would lose the latter.

namespace attnspec {

constexpr bool OF_OUT = ATTNSPEC_DECAY == 3;  // channels are those of z and the output, else of x and y
constexpr int CH = OF_OUT ? DV : D, CHS = round_up(CH, W);
constexpr int BLOCK = 16;               // the sums of all steps before are kept for every so many positions
constexpr float LOWEST_STEP = -1000.f;  // what a step counts as where it is lower
constexpr double LOG2E_EXACT = 1.4426950408889634;

// Sums of the steps of one head up to positions that mostly follow one another.
struct Walk {
    const float* logs;
    int64_t row;          // from one position to the next
    const double* sums;
    int64_t count, at = -1;
    alignas(64) double sum[CHS] = {};

    Walk(const LinearProblem& p, int64_t b, int64_t h)
        : logs((const float*)p.steps.data + b * p.steps.stride[0] + h * p.steps.stride[1]), row(p.steps.stride[2]),
          sums(p.step_sums + (b * p.sizes.query_heads + h) * blocks(p) * CHS), count(p.step_count) {}

    static int64_t blocks(const LinearProblem& p) { return (p.step_count + BLOCK - 1) / BLOCK; }

    // The steps at a position, W channels from c on.
    ATTNSPEC_INLINE vfloat step(int64_t position, int c) const {
        const float* from = logs + position * row + c;
        vfloat x = vfloat{};
        if (c + W <= CH)
            x = load_any(from);
        else
            for (int i = 0; i < CH % W; ++i) x[i] = from[i];
        return larger(all(LOWEST_STEP), x);
    }

    ATTNSPEC_INLINE void add(int64_t position) {
        for (int c = 0; c < CHS; c += W) *(vdouble*)(sum + c) += __builtin_convertvector(step(position, c), vdouble) * LOG2E_EXACT;
    }

    void to(int64_t position) {
        int64_t block = position / BLOCK;
        if (position % BLOCK == BLOCK - 1 && (block + 1) * BLOCK < count) ++block;
        const int64_t before = block * BLOCK - 1;  // what the sums of the block hold
        if (at > position || at < before) {
            memcpy(sum, sums + block * CHS, sizeof(sum));
            at = before;
        }
        while (at < position) add(++at);
    }
};

// The sums of all steps before each block of positions.
struct NoSpace {};
static bool sum_steps(const LinearProblem& p) {
    const int64_t lines = p.sizes.entries * p.sizes.query_heads, blocks = Walk::blocks(p), parts = (blocks + 63) / 64;
    double* const sums = (double*)p.step_sums;
    const auto line = [&](int64_t i) { return sums + i * blocks * CHS; };
    return for_tasks<NoSpace>(lines * parts, p.threads, [&](int64_t task, NoSpace&) {
        const int64_t i = task / parts, from = task % parts * 64, end = from + 64 < blocks ? from + 64 : blocks;
        const Walk walk(p, i / p.sizes.query_heads, i % p.sizes.query_heads);
        for (int64_t block = from; block + 1 < end || (block < end && block + 1 < blocks); ++block) {
            for (int c = 0; c < CHS; c += W) {
                vdouble sum = vdouble{};
                for (int t = 0; t < BLOCK; ++t) sum += __builtin_convertvector(walk.step(block * BLOCK + t, c), vdouble) * LOG2E_EXACT;
                *(vdouble*)(line(i) + (block + 1) * CHS + c) = sum;
            }
        }
    }) && for_tasks<NoSpace>(lines, p.threads, [&](int64_t i, NoSpace&) {
        double* to = line(i);
        if (blocks) memset(to, 0, sizeof(double) * CHS);
        for (int64_t x = CHS; x < blocks * CHS; ++x) to[x] += to[x - CHS];
    });
}

}  // namespace attnspec
