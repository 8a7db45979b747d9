// Softmaxes over parts of the keys as the softmax over all of them, row by row: each is read once, and only where it has a
// weight.

namespace attnspec {

struct MergeProblem {
    const Elem* const* outs;    // of each part, rows x dim
    const float* const* lses;
    Elem* out;
    float* lse;
    int64_t parts, rows, dim;
    int32_t threads;
};

constexpr int64_t MERGE_ROWS = 64, MERGE_COLUMNS = 256;  // in a task, and of a row at a time

// The weights of the parts of a row; returns its log-sum-exp.
static float weigh(const MergeProblem& p, int64_t r, float* weights) {
    float top = -INF, total = 0.f;
    for (int64_t i = 0; i < p.parts; ++i) {
        const float x = p.lses[i][r];
        if (x > top || x != x) top = x;
    }
    if (top == -INF) top = 0.f;
    for (int64_t i = 0; i < p.parts; ++i) {
        const float x = p.lses[i][r] - top;
        total += weights[i] = x == 0.f ? 1.f : x == -INF ? 0.f : __builtin_expf(x);
    }
    if (total == 0.f) return -INF;
    for (int64_t i = 0; i < p.parts; ++i) weights[i] /= total;
    return __builtin_logf(total) + top;
}

static void merge_row(const MergeProblem& p, int64_t r, const float* weights) {
    for (int64_t first = 0; first < p.dim; first += MERGE_COLUMNS) {
        const int64_t at = r * p.dim + first, left = p.dim - first, count = left < MERGE_COLUMNS ? left : MERGE_COLUMNS;
        float sums[MERGE_COLUMNS] = {};
        for (int64_t i = 0; i < p.parts; ++i) {
            const float weight = weights[i];
            if (weight == 0.f) continue;  // whatever the part holds
            const Elem* from = p.outs[i] + at;
            for (int64_t c = 0; c < count; ++c) sums[c] += weight * to_float(from[c]);
        }
        for (int64_t c = 0; c < count; ++c) from_float(sums[c], p.out[at + c]);
    }
}

}  // namespace attnspec

extern "C" __attribute__((visibility("default"))) int attnspec_merge(const attnspec::MergeProblem* problem) {
    using namespace attnspec;
    const MergeProblem& p = *problem;
    const int64_t tasks = (p.rows + MERGE_ROWS - 1) / MERGE_ROWS;
    const int threads = p.threads < tasks ? p.threads : (int)tasks;
    int failed = 0;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        float* weights = allocate<float>(p.parts);
        if (!weights) {
            __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
            continue;
        }
        for (int64_t r = task * MERGE_ROWS; r < p.rows && r < (task + 1) * MERGE_ROWS; ++r) {
            p.lse[r] = weigh(p, r, weights);
            merge_row(p, r, weights);
        }
        free(weights);
    }
    return failed;
}
