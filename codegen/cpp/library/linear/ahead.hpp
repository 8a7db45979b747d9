// Prefetching of the tiles that come next.

namespace attnspec {

// Rows that are read or written soon, asked for a few at a time while others are computed: between two tiles so much is
// computed that the processor does not foresee the next one, and rows of a residue lie too far apart for it.
struct Ahead {
    struct Piece { const char* from; int64_t step; int rows, bytes; };
    static constexpr int MOST = 16, EACH = 32;  // cycles of work for one line: many at once would have to wait
    Piece pieces[MOST];
    int begin, end, at;

    void clear() { begin = end = at = 0; }
    void add(const Tensor& t, size_t element, int columns, int64_t b, int64_t h, const Rows& rows, Span slots) {
        if (slots.begin >= slots.end || !t.data || t.stride[3] != 1 || rows.list || rows.table || end == MOST) return;
        const int64_t first = b * t.stride[0] + h * t.stride[1] + rows(slots.begin) * t.stride[2];
        pieces[end++] = {(const char*)t.data + first * (int64_t)element, t.stride[2] * rows.step * (int64_t)element,
                         (int)(slots.end - slots.begin), columns * (int)element};
    }
    // While about so many vectors are multiplied.
    ATTNSPEC_INLINE void ask(int64_t work) {
        for (; begin < end && work > 0; work -= EACH) {
            Piece& one = pieces[begin];
            __builtin_prefetch(one.from + at);
            at += 64;
            if (at < one.bytes) continue;
            one.from += one.step, at = 0, begin += --one.rows == 0;
        }
        if (begin == end) begin = end = 0;
    }
};

}  // namespace attnspec
