// The functions that the loader calls. ATTNSPEC_FORWARD and ATTNSPEC_BACKWARD say which of them this unit holds.

#define ATTNSPEC_EXPORT extern "C" __attribute__((visibility("default")))

#if defined(ATTNSPEC_FORWARD) && ATTNSPEC_FORWARD
ATTNSPEC_EXPORT int attnspec_forward(const attnspec::ForwardProblem* problem) {
    using namespace attnspec;
    return forward<Pattern>(*problem);
}
#endif

#if defined(ATTNSPEC_DECODE) && ATTNSPEC_DECODE
ATTNSPEC_EXPORT int attnspec_decode(const attnspec::ForwardProblem* problem) {
    using namespace attnspec;
    return decode<Pattern>(*problem);
}
#endif

#if defined(ATTNSPEC_BACKWARD) && ATTNSPEC_BACKWARD
ATTNSPEC_EXPORT int attnspec_backward(const attnspec::BackwardProblem* problem) {
    using namespace attnspec;
    return backward<Pattern>(*problem);
}
#endif

#if defined(ATTNSPEC_LINEAR) && ATTNSPEC_LINEAR
ATTNSPEC_EXPORT int attnspec_linear(const attnspec::LinearProblem* problem) {
    using namespace attnspec;
    return linear<Pattern>(*problem);
}
#endif

#if defined(ATTNSPEC_DELTA) && ATTNSPEC_DELTA
ATTNSPEC_EXPORT int attnspec_delta(const attnspec::DeltaProblem* problem) {
    using namespace attnspec;
    return delta<Pattern>(*problem);
}
#endif
