// Entries of the tensors that come with a call. A read outside the tensor gives 0, and says so where it is asked (`inside`);
// nothing is ever touched there. An index is one position or a vector of them (one for each lane); what is read by
// positions alone is one value.

#include <type_traits>

namespace attnspec {

typedef pos vpos __attribute__((vector_size(W * sizeof(pos)), may_alias));

template <class T> constexpr bool ONE = std::is_arithmetic<T>::value;

// One value for all lanes.
ATTNSPEC_INLINE vfloat lanes(float x) { return all(x); }
ATTNSPEC_INLINE vfloat lanes(vfloat x) { return x; }
ATTNSPEC_INLINE vpos lanes_of(pos x) { return x - vpos{}; }
ATTNSPEC_INLINE vpos lanes_of(vpos x) { return x; }

// Truth: bool, or a vector of 0 and -1. Comparisons of vectors are as wide as what they compare.
ATTNSPEC_INLINE bool truth(bool x) { return x; }
ATTNSPEC_INLINE vint truth(vint x) { return x; }
template <class V> ATTNSPEC_INLINE vint truth(V x) { return __builtin_convertvector(x, vint); }
ATTNSPEC_INLINE vint truth_of(bool x) { return all(-(int32_t)x); }
ATTNSPEC_INLINE vint truth_of(vint x) { return x; }
ATTNSPEC_INLINE bool both(bool a, bool b) { return a & b; }
ATTNSPEC_INLINE bool either(bool a, bool b) { return a | b; }
ATTNSPEC_INLINE bool same(bool a, bool b) { return a == b; }
ATTNSPEC_INLINE bool negated(bool a) { return !a; }
template <class A, class B> ATTNSPEC_INLINE vint both(A a, B b) { return truth_of(a) & truth_of(b); }
template <class A, class B> ATTNSPEC_INLINE vint either(A a, B b) { return truth_of(a) | truth_of(b); }
template <class A, class B> ATTNSPEC_INLINE vint same(A a, B b) { return ~(truth_of(a) ^ truth_of(b)); }
ATTNSPEC_INLINE vint negated(vint a) { return ~a; }

ATTNSPEC_INLINE bool in_range(pos at, int64_t size) { return (uint64_t)(int64_t)at < (uint64_t)size; }
ATTNSPEC_INLINE vint in_range(vpos at, int64_t size) {
    constexpr int64_t most = std::numeric_limits<pos>::max();
    return truth(at >= 0) & truth(at < lanes_of((pos)(size > most ? most : size)));
}

// Whether an index lies inside: a bool, or one for each lane.
template <int AXIS = 0> ATTNSPEC_INLINE bool inside(const Input&) { return true; }
template <int AXIS = 0, class I, class... More>
ATTNSPEC_INLINE auto inside(const Input& in, I at, More... more) {
    return both(in_range(at, in.size[AXIS]), inside<AXIS + 1>(in, more...));
}

// The part of an element's place that single positions make up, and the part that differs by lane.
template <int AXIS = 0> ATTNSPEC_INLINE int64_t base(const int64_t*) { return 0; }
template <int AXIS = 0, class I, class... More>
ATTNSPEC_INLINE int64_t base(const int64_t* stride, I at, More... more) {
    const int64_t rest = base<AXIS + 1>(stride, more...);
    if constexpr (ONE<I>) return at * stride[AXIS] + rest;
    else return rest;
}
ATTNSPEC_INLINE pos lane(pos at, int) { return 0; }
ATTNSPEC_INLINE pos lane(const vpos& at, int l) { return at[l]; }

// The places of the lanes relative to `base`, for the lanes that are inside; 0 for the others.
template <class... I>
ATTNSPEC_INLINE void places(int64_t (&to)[W], const int64_t* stride, vint in, I... at) {
    for (int l = 0; l < W; ++l) {
        int axis = 0;
        int64_t sum = 0;
        ((sum += (int64_t)lane(at, l) * stride[axis++]), ...);
        to[l] = in[l] ? sum : 0;
    }
}

template <class T> ATTNSPEC_INLINE const T* elements(const Input& in) {
    static const T nothing[1] = {};
    return in.data ? (const T*)in.data : nothing;
}

// An element, safe outside: for loops over single positions that the compiler is to turn into vectors.
template <class T, class... I>
ATTNSPEC_INLINE T entry(const Input& in, I... at) {
    const bool ok = inside(in, at...);
    const T value = elements<T>(in)[ok ? base(in.stride, at...) : 0];
    return ok ? value : T{};
}

// W elements at places relative to `from`; nothing is read where `in` is 0, and the result there is 0.
template <class T, class V, class... I>
ATTNSPEC_INLINE V gather(const T* from, const int64_t* stride, vint in, I... at) {
    int64_t place[W];
    places(place, stride, in, at...);
    V result = V{};
    for (int l = 0; l < W; ++l)
        if (in[l]) result[l] = from[place[l]];
    return result;
}

#if defined(__AVX2__)
ATTNSPEC_INLINE vfloat gather_near(const float* from, vint at, vint in) {
#if defined(__AVX512F__)
    const __mmask16 mask = _mm512_test_epi32_mask((__m512i)in, (__m512i)in);
    return (vfloat)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, (__m512i)at, from, 4);
#else
    return (vfloat)_mm256_mask_i32gather_ps(_mm256_setzero_ps(), from, (__m256i)at, (__m256)in, 4);
#endif
}
#endif

// Whether places relative to `base` fit in 32 bits.
template <int AXIS = 0> ATTNSPEC_INLINE int64_t extent(const Input&) { return 0; }
template <int AXIS = 0, class I, class... More>
ATTNSPEC_INLINE int64_t extent(const Input& in, I, More... more) {
    const int64_t rest = extent<AXIS + 1>(in, more...);
    if constexpr (ONE<I>) return rest;
    else return (in.size[AXIS] - 1) * (in.stride[AXIS] < 0 ? -in.stride[AXIS] : in.stride[AXIS]) + rest;
}
template <int AXIS = 0> ATTNSPEC_INLINE vint near_places(const int64_t*) { return vint{}; }
template <int AXIS = 0, class I, class... More>
ATTNSPEC_INLINE vint near_places(const int64_t* stride, I at, More... more) {
    const vint rest = near_places<AXIS + 1>(stride, more...);
    if constexpr (ONE<I>) return rest;
    else return __builtin_convertvector(at, vint) * (int32_t)stride[AXIS] + rest;
}

// A float, integer (T is pos) or truth (T is uint8_t) entry: one value, or a vector where an index is one.
template <class T, class... I>
ATTNSPEC_INLINE auto read(const Input& in, I... at) {
    if constexpr ((ONE<I> && ...)) {
        return inside(in, at...) ? elements<T>(in)[base(in.stride, at...)] : T{};
    } else {
        typedef T V __attribute__((vector_size(W * sizeof(T)), may_alias));
        const vint ok = inside(in, at...);
        if (!any(ok)) return V{};
        const T* from = elements<T>(in) + base(in.stride, at...);
        if constexpr (sizeof(T) == 1) {
            // Of blocks: mostly the lanes lie in the same one.
            const vint place = near_places(in.stride, at...);
            if (extent(in, at...) <= INT32_MAX && !any(place != place[0]))
                return __builtin_convertvector(ok & from[place[0]], V);
        }
#if defined(__AVX2__)
        if constexpr (sizeof(T) == 4)
            if (extent(in, at...) <= INT32_MAX)
                return (V)gather_near((const float*)from, near_places(in.stride, at...), ok);
#endif
        return gather<T, V>(from, in.stride, ok, at...);
    }
}

// Whether an entry of a boolean input is true; false outside.
template <class... I>
ATTNSPEC_INLINE auto flag(const Input& in, I... at) {
    return truth(read<uint8_t>(in, at...) != 0);
}

// Whether an integer that is not negative stands in the last dimension at an index of the dimensions before.
template <class X, class... I>
ATTNSPEC_INLINE auto among(const Input& in, X item, I... at) {
    const int64_t count = in.size[sizeof...(I)];
    if constexpr (ONE<X> && (ONE<I> && ...)) {
        if ((item < 0) | !inside(in, at...)) return false;
        const pos* from = elements<pos>(in) + base(in.stride, at...);
        bool found = false;
        for (int64_t i = 0; i < count; ++i) found |= from[i * in.stride[sizeof...(I)]] == item;
        return found;
    } else {
        vint found = vint{};
        for (int64_t i = 0; i < count; ++i) found |= truth(lanes_of(read<pos>(in, at..., (pos)i)) == lanes_of(item));
        return both(both(truth(item >= 0), inside(in, at...)), found);
    }
}

// Adds to a gradient; what lies outside is dropped.
template <class... I>
ATTNSPEC_INLINE void add(const Gradient& to, const Input& in, vfloat x, I... at) {
    const auto ok = inside(in, at...);
    if constexpr ((ONE<I> && ...)) {
        if (!ok) return;
        float sum = 0.f;
        for (int l = 0; l < W; ++l) sum += x[l];
        to.data[base(to.stride, at...)] += sum;
    } else {
        const vint some = ok & (vint)(x != 0.f);
        if (!any(some)) return;
        float* data = to.data + base(to.stride, at...);
        int64_t place[W];
        places(place, to.stride, some, at...);
        for (int l = 0; l < W; ++l)
            if (some[l]) data[place[l]] += x[l];
    }
}

}  // namespace attnspec
