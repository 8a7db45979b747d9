// Threads that take tasks from a counter, each with its own workspace. A task's result does not depend on who runs it.

#include <cstdlib>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace attnspec {

template <class T>
static T* allocate(size_t count = 1) {
    size_t bytes = (sizeof(T) * count + 64) / 64 * 64;  // never nothing
    return (T*)aligned_alloc(64, bytes);
}

// Asks for large pages where a large result is about to be written: it is new memory, and the system hands out a page of 4 KB at
// the first touch, which for a kernel in linear time takes half as long as all that it computes. Smaller results lie in memory
// that is used again, and that large pages would waste.
static inline void expect_writes(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr size_t page = 1 << 21, large = 1 << 25;  // from there on allocators give memory back when it is freed
    if (bytes < large) return;
    const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + bytes) / page * page;
    if (begin < end) (void)madvise((void*)begin, end - begin, MADV_HUGEPAGE);  // a hint: that it fails changes nothing
#else
    (void)data, (void)bytes;
#endif
}

// Results below the smallest normal number become zero while this lives: processors take a hundred times as long for them,
// and softmax weights that steep score lines make are full of them.
struct FlushTiny {
#if defined(__SSE__)
    unsigned before = __builtin_ia32_stmxcsr();
    FlushTiny() { __builtin_ia32_ldmxcsr(before | 0x8000u); }
    ~FlushTiny() { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;
    FlushTiny() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" : : "r"(before | 1u << 24));
    }
    ~FlushTiny() { asm volatile("msr fpcr, %0" : : "r"(before)); }
#endif
};

// Calls work(task, space) for every task. False if not even one thread found memory for its workspace.
template <class Space, class Work>
static bool for_tasks(int64_t tasks, int threads, Work&& work) {
    if (tasks <= 0) return true;
    int64_t next = 0, workers = 0;
    auto worker = [&] {
        Space* space = allocate<Space>();
        if (!space) return;
        const FlushTiny guard;
        (void)guard;
        __atomic_fetch_add(&workers, 1, __ATOMIC_RELAXED);
        for (int64_t t; (t = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < tasks;) work(t, *space);
        free(space);
    };
    if (threads > tasks) threads = (int)tasks;
    if (threads <= 1)
        worker();
    else {
#pragma omp parallel num_threads(threads)
        worker();
    }
    return workers > 0;
}

}  // namespace attnspec
