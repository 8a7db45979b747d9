// What score expressions compute with: reals (float, or vfloat on the lanes), integers (pos, or vpos) and truth (bool, or
// vint). What does not differ by lane is computed once; the functions take either.

namespace attnspec {

ATTNSPEC_INLINE vpos positions(vpos x) { return x; }
ATTNSPEC_INLINE pos positions(pos x) { return x; }
template <class V> ATTNSPEC_INLINE vpos positions(V x) { return __builtin_convertvector(x, vpos); }

ATTNSPEC_INLINE float real(pos x) { return (float)x; }
ATTNSPEC_INLINE vfloat real(vpos x) { return __builtin_convertvector(x, vfloat); }

// c ? a : b
ATTNSPEC_INLINE vfloat select(vint c, vfloat a, vfloat b) { return c != 0 ? a : b; }
ATTNSPEC_INLINE vpos select(vint c, vpos a, vpos b) { return __builtin_convertvector(c, vpos) != 0 ? a : b; }
ATTNSPEC_INLINE float choose(bool c, float a, float b) { return c ? a : b; }
template <class C, class A, class B>
ATTNSPEC_INLINE vfloat choose(C c, A a, B b) { return select(truth_of(c), lanes(a), lanes(b)); }
ATTNSPEC_INLINE pos pick(bool c, pos a, pos b) { return c ? a : b; }
template <class C, class A, class B>
ATTNSPEC_INLINE vpos pick(C c, A a, B b) { return select(truth_of(c), lanes_of(a), lanes_of(b)); }

// Integers. Division rounds downwards and takes a divisor below 1 for 1.
ATTNSPEC_INLINE pos lesser(pos a, pos b) { return a < b ? a : b; }
ATTNSPEC_INLINE pos greater(pos a, pos b) { return a > b ? a : b; }
template <class A, class B> ATTNSPEC_INLINE vpos lesser(A a, B b) {
    const vpos x = lanes_of(a), y = lanes_of(b);
    return x < y ? x : y;
}
template <class A, class B> ATTNSPEC_INLINE vpos greater(A a, B b) {
    const vpos x = lanes_of(a), y = lanes_of(b);
    return x > y ? x : y;
}
template <class A> ATTNSPEC_INLINE A magnitude(A a) { return greater(a, -a); }
ATTNSPEC_INLINE pos below(pos a) { return -(pos)(a < 0); }
ATTNSPEC_INLINE vpos below(vpos a) { return a < 0; }
template <int64_t BY, class A> ATTNSPEC_INLINE A remainder(A a) {
    const A rest = a - a / (pos)BY * (pos)BY;
    return rest + (below(rest) & (pos)BY);
}
template <int64_t BY, class A> ATTNSPEC_INLINE A quotient(A a) {
    const A whole = a / (pos)BY;
    return whole + below(a - whole * (pos)BY);
}
// Processors divide vectors of doubles, not of integers: of 32 bits their quotients, rounded to zero, are the same.
template <class A, class B> ATTNSPEC_INLINE auto divided(A a, B by) { return a / by; }
template <class B> ATTNSPEC_INLINE vpos divided(vpos a, B by) {
    if constexpr (sizeof(pos) == 4) {
        typedef double vdouble __attribute__((vector_size(W * sizeof(double))));
        if constexpr (ONE<B>) return __builtin_convertvector(__builtin_convertvector(a, vdouble) / (double)by, vpos);
        else return __builtin_convertvector(__builtin_convertvector(a, vdouble) / __builtin_convertvector(by, vdouble), vpos);
    } else {
        return a / by;
    }
}
template <class A, class B> ATTNSPEC_INLINE auto quotient(A a, B b) {
    const auto by = greater(b, pos(1));
    const auto whole = divided(a, by);
    return whole + below(a - whole * by);
}
template <class A, class B> ATTNSPEC_INLINE auto remainder(A a, B b) {
    const auto by = greater(b, pos(1));
    const auto rest = a - divided(a, by) * by;
    return rest + (below(rest) & by);
}

// An entry of a list.
ATTNSPEC_INLINE pos item(const pos* list, bool in, pos at) { return in ? list[at] : 0; }
template <class C> ATTNSPEC_INLINE vpos item(const pos* list, C in, vpos at) {
    const vpos safe = pick(in, at, pos(0));
    vpos result;
    for (int l = 0; l < W; ++l) result[l] = list[safe[l]];
    return result;
}

// f(positions...) -> bool, lane by lane.
template <class F, class... I> ATTNSPEC_INLINE auto lanewise(F&& f, I... at) {
    if constexpr ((ONE<I> && ...)) {
        return (bool)f(at...);
    } else {
        vint result;
        for (int l = 0; l < W; ++l) result[l] = -(int32_t)(bool)f(lanes_of(at)[l]...);
        return result;
    }
}

// Functions of one real.
ATTNSPEC_INLINE vfloat abs(vfloat x) { return (vfloat)((vint)x & 0x7fffffff); }
ATTNSPEC_INLINE vfloat sign(vfloat x) { return x > 0.f ? all(1.f) : x < 0.f ? all(-1.f) : x; }

ATTNSPEC_INLINE vfloat sqrt(vfloat x) {
#if defined(__AVX512F__)
    return (vfloat)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
    return (vfloat)_mm256_sqrt_ps((__m256)x);
#else
    for (int l = 0; l < W; ++l) x[l] = __builtin_sqrtf(x[l]);
    return x;
#endif
}

// 1 / x for x of moderate size, to 1e-7.
ATTNSPEC_INLINE vfloat reciprocal(vfloat x) {
#if defined(__AVX512F__)
    const vfloat r = (vfloat)_mm512_rcp14_ps((__m512)x);
    return r * (2.f - x * r);
#else
    return 1.f / x;
#endif
}

// To 5e-7, relative. A quotient of polynomials fitted to the smallest relative error on -8 .. 8; from there on the result
// is -1 or 1, so that the derivative is 0. NaN stays NaN.
ATTNSPEC_INLINE vfloat tanh(vfloat x) {
    x = smaller(all(8.f), larger(all(-8.f), x));
    const vfloat y = x * x;
    vfloat above = 1.142843175325784e-05f * y + 0.002951024669838129f;
    vfloat under = 2.459213170474078e-07f * y + 0.00023866928800002902f;
    above = above * y + 0.12925663815255303f;
    under = under * y + 0.023815557860840816f;
    above = above * y + 0.9999998542939567f;
    under = under * y + 0.4625887939365475f;
    under = under * y + 1.f;
    return y == 64.f ? x * 0.125f : x * above * reciprocal(under);
}

// To 1e-7 + 6e-8 |x|, relative.
ATTNSPEC_INLINE vfloat exp(vfloat x) {
    const vfloat y = x * 1.44269504f;
#if defined(__AVX512F__)  // 2 to the power of a whole number is one instruction there, and knows its limits
    const vfloat within = smaller(all(130.f), larger(all(-160.f), y));
    const vfloat whole = (vfloat)_mm512_roundscale_ps((__m512)within, 0);
    return (vfloat)_mm512_scalef_ps((__m512)exp2_near_zero(within - whole), (__m512)whole);
#endif
    return y >= 128.f ? all(INF) : exp2<true>(y);
}

// To 2e-7, relative. x = m 2^e with m in [sqrt(1/2), sqrt(2)); the polynomial is Cephes' for log(m) = log(1 + f).
ATTNSPEC_INLINE vfloat log(vfloat x) {
    const vint tiny = x < std::numeric_limits<float>::min();
    const vfloat y = tiny ? x * 8388608.f : x;
    const vint bits = (vint)y - 0x3f3504f3;  // sqrt(1/2)
    const vfloat e = __builtin_convertvector((bits >> 23) - (tiny & 23), vfloat);
    const vfloat f = (vfloat)((bits & 0x7fffff) + 0x3f3504f3) - 1.f;
    vfloat p = 7.0376836292e-2f * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    const vfloat z = f * f;
    vfloat r = p * f * z + e * -2.12194440e-4f - 0.5f * z + f + e * 0.693359375f;
    r = x == 0.f ? all(-INF) : r;
    r = x < 0.f ? all(INF) - INF : r;
    return x < INF ? r : x;
}

#define ATTNSPEC_OF_ONE(f) ATTNSPEC_INLINE float f(float x) { return f(all(x))[0]; }
ATTNSPEC_OF_ONE(abs)
ATTNSPEC_OF_ONE(sign)
ATTNSPEC_OF_ONE(sqrt)
ATTNSPEC_OF_ONE(tanh)
ATTNSPEC_OF_ONE(exp)
ATTNSPEC_OF_ONE(log)
#undef ATTNSPEC_OF_ONE

// g * x, and 0 where g is: a pair that is masked adds nothing, whatever x is there.
template <class X> ATTNSPEC_INLINE vfloat guarded(vfloat g, X x) { return g != 0.f ? g * x : vfloat{}; }

}  // namespace attnspec
