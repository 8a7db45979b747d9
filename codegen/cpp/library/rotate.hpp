// Rotary position embeddings of whole tensors: every row is read and written once.

namespace attnspec {

// x is (batch, heads, n, dim); cos and sin hold dims / 2 neighbouring numbers for each of its rows; out is contiguous.
struct TurnProblem {
    Tensor x, cos, sin;
    void* out;
    int64_t batch, heads, n, dim, start, dims;  // of a row, `dims` elements are turned and the rest is copied
    int32_t pairs;  // whether elements 2c and 2c + 1 of those make a pair; else c and c + dims / 2
    int32_t threads;
};

constexpr int64_t TURN_ROWS = 64;  // in a task: few enough for their angles to stay in cache from head to head

// Processors foresee what is read, but hardly what is overwritten: it is asked for some rows ahead, line by line.
constexpr int64_t AHEAD = 8, LINE = 64 / sizeof(Elem);

template <bool PAIRED, bool ADJACENT>
static void turn_rows(const TurnProblem& p, int64_t b, int64_t h, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
        Elem* to = (Elem*)p.out + ((b * p.heads + h) * p.n + r) * p.dim;
        for (int64_t c = 0; c < p.dim; c += LINE) __builtin_prefetch(to + AHEAD * p.dim + c, 1);
        const Elem* from = row_of<const Elem>(p.x, b, h, r);
        for (int64_t c = 0; c < p.start; ++c) to[c] = from[c * p.x.stride[3]];
        turn_row<PAIRED, ADJACENT>(from + p.start * p.x.stride[3], p.x.stride[3], row_of<const float>(p.cos, b, h, r),
                                   row_of<const float>(p.sin, b, h, r), to + p.start, p.dims, p.dim - p.start);
    }
}

// A task is some rows of all heads.
static void turn(const TurnProblem& p) {
    const bool adjacent = p.x.stride[3] == 1;
    const auto rows = p.pairs ? adjacent ? turn_rows<true, true> : turn_rows<true, false>
                              : adjacent ? turn_rows<false, true> : turn_rows<false, false>;
    const int64_t blocks = (p.n + TURN_ROWS - 1) / TURN_ROWS, tasks = p.batch * blocks;
    const int threads = p.threads < tasks ? p.threads : (int)tasks;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t b = task / blocks, begin = task % blocks * TURN_ROWS;
        const int64_t end = begin + TURN_ROWS < p.n ? begin + TURN_ROWS : p.n;
        for (int64_t h = 0; h < p.heads; ++h) rows(p, b, h, begin, end);
    }
}

}  // namespace attnspec

extern "C" __attribute__((visibility("default"))) void attnspec_turn(const attnspec::TurnProblem* problem) {
    attnspec::turn(*problem);
}
