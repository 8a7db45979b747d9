// What the inputs say of whole tiles.

#include <array>
#include <utility>

namespace attnspec {

// A row of a sorted input.
struct Sorted {
    const pos* data;
    int64_t stride, size;
    bool inside(int64_t at) const { return at >= 0 && at < size; }
    pos operator[](int64_t at) const { return data[at * stride]; }

    // The first place from which on values are at least (or, if OVER, more than) x.
    template <bool OVER>
    int64_t bound(pos x) const {
        int64_t low = 0, high = size;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (OVER ? (*this)[middle] <= x : (*this)[middle] < x)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }
};

template <class... I>
static inline Sorted sorted_row(const Input& in, I... at) {
    constexpr int axis = sizeof...(I);
    return {elements<pos>(in) + base(in.stride, at...), in.stride[axis], inside(in, at...) ? in.size[axis] : 0};
}

// Tiles that an input leaves possible, first and last.
struct Window {
    int64_t lo, hi;
    void intersect(int64_t first, int64_t last) {
        if (lo < first) lo = first;
        if (hi > last) hi = last;
    }
    bool empty() const { return hi < lo; }

    // The tiles of one or the other of two parts of this window: as two ranges that do not meet, in order.
    std::array<Window, 2> apart(Window one, Window other) const {
        if (one.empty()) one = other;
        if (other.empty()) other = one;
        if (other.lo < one.lo) std::swap(one, other);
        if (other.lo <= one.hi + 1) return {Window{one.lo, one.hi < other.hi ? other.hi : one.hi}, Window{0, -1}};
        return {one, other};
    }
};

// First and last place (position, or slot of a computed order) in a tile.
struct Extent { int64_t first, last; };

template <class Pass>
static inline Extent extent_of(const Place& at, const Rows& rows, Span all, int64_t tile, int64_t size) {
    const Span slots = slots_of(rows, all, tile, size);
    return {at.c + Pass::STRIDE * slots.begin, at.c + Pass::STRIDE * (slots.end - 1)};
}

// Narrows the window to tiles (of `size` slots) that hold places where `there` has a value that `here` has in the extent.
template <class Pass>
static void narrow(Window& window, const Place& at, const Sorted& here, Extent extent, const Sorted& there, int64_t size) {
    if (extent.first < 0) extent.first = 0;
    if (extent.last >= here.size) extent.last = here.size - 1;
    if (extent.first > extent.last || there.size == 0) {
        window.hi = window.lo - 1;
        return;
    }
    const int64_t first = there.template bound<false>(here[extent.first]), last = there.template bound<true>(here[extent.last]) - 1;
    window.intersect(floor_div(floor_div(first - at.c, Pass::STRIDE), size), floor_div(floor_div(last - at.c, Pass::STRIDE), size));
}

// Narrows the window to tiles (of `size` slots) that hold places from `first` to `last`; INT64_MIN and INT64_MAX are no ends.
template <class Pass>
static inline void limit(Window& window, const Place& at, int64_t first, int64_t last, int64_t size) {
    if (first != INT64_MIN) first = floor_div(floor_div(first - at.c, Pass::STRIDE), size);
    if (last != INT64_MAX) last = floor_div(floor_div(last - at.c, Pass::STRIDE), size);
    window.intersect(first, last);
}

// Whether two extents lie in one run of equal values.
static inline bool one_run(const Sorted& queries, Extent q, const Sorted& keys, Extent k) {
    return queries.inside(q.first) && queries.inside(q.last) && keys.inside(k.first) && keys.inside(k.last) &&
           queries[q.first] == queries[q.last] && keys[k.first] == keys[k.last] && queries[q.first] == keys[k.first];
}

}  // namespace attnspec
