// Where things lie: a layout puts positions into slots, and tiles are cut on slots. Slot s of residue c is position
// c + STRIDE * s; slot s of a list is position list[s].

namespace attnspec {

constexpr pos EMPTY = INT32_MIN;  // in a list: a slot without a position

// From slots to rows of a tensor.
struct Rows {
    int64_t base, step;
    const pos* list;  // null: base + step * slot; else base + list[slot]
    const int32_t* table = nullptr;  // null: rows are those of the batch entry; else of the pages that stand in its place,
    int64_t page = 1;                // of so many rows each
    int64_t count = INT64_MAX;       // a list may hold positions before the first row, and from this one on
    ATTNSPEC_INLINE int64_t operator()(int64_t slot) const { return base + (list ? (int64_t)list[slot] : step * slot); }
};

// One residue of one head: its rows, and which slots exist.
struct Place {
    int64_t c;
    Rows queries, keys;
    Span query_slots, key_slots;
};

static inline Rows listed(const List& list, int64_t b, int64_t h, int64_t c, int64_t base, int64_t count) {
    return {base, 0, list.data + b * list.batch_stride + h * list.head_stride + c * list.residue_stride, nullptr, 1, count};
}

// The slots of residue c of `count` positions from `start` on.
static inline Span strided(int64_t start, int64_t count, int64_t c, int64_t r) {
    return {-floor_div(c - start, r), floor_div(start + count - 1 - c, r) + 1};
}

// Of a head and a batch entry of the pattern.
template <class Pass>
static Place place(const Sizes& s, int64_t c, int64_t head, int64_t entry) {
    constexpr int64_t r = Pass::STRIDE;
    Place at = {c, {c - s.q_start, r, nullptr}, {c - s.k_start, r, nullptr}, strided(s.q_start, s.rows, c, r),
                strided(s.k_start, s.keys, c, r)};
    const PassData* data = s.passes + Pass::NUMBER;
    if (Pass::LISTED_QUERIES) {
        at.queries = listed(data->queries, entry, head, c, -s.q_start, s.rows);
        at.query_slots = {data->queries.begin, data->queries.end};
    }
    if (Pass::LISTED_KEYS) {
        at.keys = listed(data->keys, entry, head, c, -s.k_start, s.keys);
        at.key_slots = {data->keys.begin, data->keys.end};
    }
    if (s.pages) at.keys.table = s.pages->table + (entry - s.b_start) * s.pages->stride, at.keys.page = s.pages->size;
    return at;
}

// The slots of tile `tile` (of `size` slots) that exist. Positions of a list ascend within a tile, unless all are rows.
static inline Span slots_of(const Rows& rows, Span all, int64_t tile, int64_t size) {
    Span span = {tile * size, tile * size + size};
    if (span.begin < all.begin) span.begin = all.begin;
    if (span.end > all.end) span.end = all.end;
    if (rows.list) {
        while (span.end > span.begin && (rows.list[span.end - 1] == EMPTY || rows(span.end - 1) >= rows.count)) --span.end;
        while (span.end > span.begin && rows(span.begin) < 0) ++span.begin;
    }
    return span;
}

static inline Span tiles_of(Span slots, int64_t size) {
    return slots.begin < slots.end ? Span{floor_div(slots.begin, size), floor_div(slots.end - 1, size) + 1} : Span{0, 0};
}

// 0, 1, 2, ...
static ATTNSPEC_INLINE vpos counting() {
    vpos x;
    for (int l = 0; l < W; ++l) x[l] = (pos)l;
    return x;
}

// Positions of slots, for the pattern.
template <class Pass>
struct Positions {
    pos c;
    const pos *queries, *keys;
    explicit Positions(const Place& at) : c((pos)at.c), queries(at.queries.list), keys(at.keys.list) {}
    ATTNSPEC_INLINE pos query(pos slot) const { return Pass::LISTED_QUERIES ? queries[slot] : (pos)(c + (pos)Pass::STRIDE * slot); }
    // Those of W slots.
    ATTNSPEC_INLINE vpos queries_from(pos slot) const { return from(Pass::LISTED_QUERIES ? queries : nullptr, slot); }
    ATTNSPEC_INLINE vpos keys_from(pos slot) const { return from(Pass::LISTED_KEYS ? keys : nullptr, slot); }
    ATTNSPEC_INLINE vpos from(const pos* list, pos slot) const {
        vpos x;
        if (list)
            memcpy(&x, list + slot, sizeof(x));
        else
            x = lanes_of((pos)(c + (pos)Pass::STRIDE * slot)) + counting() * (pos)Pass::STRIDE;
        return x;
    }
    ATTNSPEC_INLINE pos key(pos slot) const { return Pass::LISTED_KEYS ? keys[slot] : (pos)(c + (pos)Pass::STRIDE * slot); }
};

// Rows of a tensor as a kernel can stride over them.
template <class T>
struct View { const T* from; int64_t row, element; };

// The row of a slot.
template <class T>
ATTNSPEC_INLINE T* row_at(const Tensor& t, int64_t b, int64_t h, const Rows& rows, int64_t slot) {
    const int64_t row = rows(slot);
    return rows.table ? row_of<T>(t, rows.table[row / rows.page], h, row % rows.page) : row_of<T>(t, b, h, row);
}

// Calls f(l, batch entry or page, row in it) for `count` neighbouring slots, without a division for each.
template <class F>
ATTNSPEC_INLINE void each_row(const Rows& rows, int64_t b, int64_t slot, int count, F&& f) {
    if (!rows.table) {
        for (int l = 0; l < count; ++l) f(l, b, rows(slot + l));
    } else if (rows.list) {
        for (int l = 0; l < count; ++l) f(l, rows.table[rows(slot + l) / rows.page], rows(slot + l) % rows.page);
    } else {
        int64_t row = rows(slot), number = 0;
        for (int l = 0; l < count; ++l, row += rows.step) {
            if (l == 0 || row >= rows.page) {
                const int64_t more = row / rows.page;
                number += more, row -= more * rows.page, b = rows.table[number];
            }
            f(l, b, row);
        }
    }
}

// Whether the rows of neighbouring slots lie at equal distances.
static inline bool is_even(const Rows& rows, int64_t slot, int count) {
    return !rows.list && (!rows.table || rows(slot) / rows.page == rows(slot + count - 1) / rows.page);
}

template <int COLS, class T>
static View<T> view(void* scratch, const Tensor& t, int64_t b, int64_t h, const Rows& rows, int64_t slot, int count) {
    if (is_even(rows, slot, count)) return {row_at<T>(t, b, h, rows, slot), t.stride[2] * rows.step, t.stride[3]};
    T* to = (T*)scratch;
    for (int r = 0; r < count; ++r) {
        const T* from = row_at<T>(t, b, h, rows, slot + r);
        if (t.stride[3] == 1)
            memcpy(to + r * COLS, from, COLS * sizeof(T));
        else
            for (int c = 0; c < COLS; ++c) to[r * COLS + c] = from[c * t.stride[3]];
    }
    return {to, COLS, 1};
}

// Writes `count` rows from fp32 rows of stride S.
template <int COLS, int S, class T>
static void put_rows(const Tensor& t, int64_t b, int64_t h, const Rows& rows, int64_t slot, int count, const float* from) {
    const int each = rows.list ? 1 : count;
    for (int r = 0; r < count; r += each)
        rows_from_float<COLS, S>(row_of<T>(t, b, h, rows(slot + r)), t.stride[2] * rows.step, t.stride[3], from + r * S, each);
}

}  // namespace attnspec
