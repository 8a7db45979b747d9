// The rate of the micro-kernel on operands that stay in the first-level cache: the ceiling that kernels are held against.

#include <cstdlib>

namespace attnspec {

#if ATTNSPEC_DTYPE == 1 && defined(__AVX512BF16__)
using PeakDot = Pairs;
#else
using PeakDot = Floats;
#endif

// Runs `rounds` products of R x 128 by 128 x LANES on each thread; returns the operations, a multiply-add counting as two.
static double peak_operations(int64_t rounds, int threads) {
    constexpr int STEPS = 128;
#pragma omp parallel num_threads(threads)
    {
        alignas(64) static thread_local typename PeakDot::A a[R * STEPS];
        alignas(64) static thread_local typename PeakDot::B b[STEPS * LANES];
        alignas(64) static thread_local float c[R * LANES];
        for (int64_t t = 0; t < rounds; ++t) {
            block<PeakDot, R, C, 1, R, LANES, LANES, false>(a, b, STEPS, c);
            asm volatile("" : : "r"(a), "r"(b), "r"(c) : "memory");  // or one round would do for all
        }
    }
    return 2. * rounds * threads * R * LANES * STEPS * PeakDot::STEP;
}

}  // namespace attnspec

extern "C" __attribute__((visibility("default"))) double attnspec_peak(int64_t rounds, int32_t threads) {
    return attnspec::peak_operations(rounds, threads);
}
