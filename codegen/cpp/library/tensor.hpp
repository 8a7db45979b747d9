// The C interface, and the element types of the tensors. Strides are in elements and arbitrary.

namespace attnspec {

// The tiles of one head where loops would be unwieldy: those of outer tile o are tiles[start[r]] .. tiles[start[r + 1] - 1],
// r = o - first, and the first fulls[r] of them are full.
struct Table { const int64_t *start, *fulls, *tiles; int64_t first; };

#ifndef ATTNSPEC_POS
#define ATTNSPEC_POS int32_t
#endif
using pos = ATTNSPEC_POS;  // the type in which Pattern::allowed computes

// An input of the pattern; strides in elements, unused dimensions of size 1 and stride 0. Integers are of type pos.
struct Input { const void* data; int64_t size[4], stride[4]; };
// Where the gradient of a float input goes, summed by each (batch, head); data is null where none is wanted.
struct Gradient { float* data; int64_t stride[4]; };
struct Gradients { const Gradient* of; };

// The positions of the slots of a layout that is a list: those of residue c, for head h of batch entry b, begin at
// b * batch_stride + h * head_stride + c * residue_stride. Slots without a position are EMPTY, at the end of their tile.
struct List { const pos* data; int64_t batch_stride, head_stride, residue_stride, begin, end; };

// What one pass needs beside its loops; tables hold one for each (batch, head), and are null where there are loops.
struct PassData { const Table *rows, *columns; List queries, keys; };

struct Pages;

// A call may hold a part of a larger score matrix. What the pattern reads is of the whole, what tensors are indexed with is
// of the call: row r of head h of batch entry b is at position q_start + r, and head h_start + h of entry b_start + b.
struct Sizes {
    int64_t n, n_q, heads, kv_heads, batch;
    int64_t m;  // the number that axis lengths are solved for
    int64_t q_start, rows, k_start, keys, h_start, query_heads, key_heads, b_start, entries;
    const PassData* passes;
    const Input* inputs;
    const Pages* pages;  // null: keys lie in tensors that have a row for each
};

// What an entry whose keys lie in pages has of its own: its number of keys, and what follows from that.
struct Entry { int64_t n, q_start, m; const PassData* passes; const Input* inputs; };

// Key p of entry b is row p % size of page table[b * stride + p / size].
struct Pages { const int32_t* table; const Entry* entries; int64_t stride, size; };

// The sizes of batch entry b of the call; `own` is room for them.
static inline const Sizes& of_entry(const Sizes& s, int64_t b, Sizes& own) {
    if (!s.pages) return s;
    const Entry& entry = s.pages->entries[b];
    own = s;
    own.n = own.keys = entry.n, own.q_start = entry.q_start, own.m = entry.m;
    own.passes = entry.passes, own.inputs = entry.inputs;
    return own;
}

struct Span { int64_t begin, end; };

// Of tiles in order, those within a span.
template <class Visit>
static void visit_within(const int64_t* tiles, int64_t begin, int64_t end, Span within, Visit&& visit) {
    for (int64_t last = end; begin < last;) {
        const int64_t middle = (begin + last) / 2;
        (tiles[middle] < within.begin ? begin : last) = tiles[middle] < within.begin ? middle + 1 : middle;
    }
    for (; begin < end && tiles[begin] < within.end; ++begin) visit(tiles[begin]);
}

template <class Full, class Partial>
static void visit_table(const Table* tables, int64_t outer, int64_t h, int64_t b, const Sizes& s, Span within, Full&& full,
                        Partial&& partial) {
    const Table& table = tables[b * s.heads + h];
    const int64_t r = outer - table.first, begin = table.start[r], middle = begin + table.fulls[r], end = table.start[r + 1];
    visit_within(table.tiles, begin, middle, within, full);
    visit_within(table.tiles, middle, end, within, partial);
}

struct Tensor { const void* data; int64_t stride[4]; };  // batch, head, row, element
// Where branches of a mixture are kept apart, `branch` is the distance between their outputs (in elements), else 0; the
// log-sum-exps of branches then lie entries * query_heads * rows apart, their norms three times that.
struct ForwardProblem {
    Sizes sizes;
    Tensor q, k, v, out;
    float *lse, *norm;  // (batch, heads, rows), contiguous, and (3, batch, heads, rows): a Norm of tile.hpp, the
                      // largest score in natural units; norm may be null: what is there already is then known by lse
    int64_t branch;
    float scale;
    int32_t threads;
    Tensor cos, sin;  // by which queries are turned when they are loaded: of each row, TURN / 2 numbers
};
struct BackwardProblem {
    Sizes sizes;
    Tensor q, k, v, out, dout, dq, dk, dv;
    const float *lse, *norm;  // those of forward; without norm what weights are relative to is the log-sum-exp
    const float* dlse;        // may be null
    const Gradient* gradients;  // of all inputs, for each (batch, key head); may be null
    int64_t branch;
    float scale;
    int32_t threads;
};

struct bf16 { uint16_t bits; };
struct fp16 { uint16_t bits; };
#if ATTNSPEC_DTYPE == 0
using Elem = float;
#elif ATTNSPEC_DTYPE == 1
using Elem = bf16;
#else
using Elem = fp16;
#endif

#if ATTNSPEC_CARRY
using Sum = float;  // results are added up in place, by several passes
#else
using Sum = Elem;
#endif

// BM and BN are those of the largest tile.
constexpr int D = ATTNSPEC_D, DV = ATTNSPEC_DV, BM = ATTNSPEC_BM, BN = ATTNSPEC_BN;
constexpr bool CARRY = ATTNSPEC_CARRY;

#ifndef ATTNSPEC_TURN
#define ATTNSPEC_TURN 0
#define ATTNSPEC_TURN_PAIRS 0
#endif
constexpr int TURN = ATTNSPEC_TURN;  // how many elements of a query are turned by its position; 0: none
constexpr bool TURN_PAIRS = ATTNSPEC_TURN_PAIRS;

template <class T>
static inline T* row_of(const Tensor& t, int64_t b, int64_t h, int64_t r) {
    return (T*)t.data + b * t.stride[0] + h * t.stride[1] + r * t.stride[2];
}

static inline float bits_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t float_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

static inline float to_float(float x) { return x; }
static inline float to_float(bf16 x) { return bits_float((uint32_t)x.bits << 16); }
static inline float to_float(fp16 x) {
    // Shift exponent and fraction into place and multiply by 2^112: this normalises subnormal numbers too.
    uint32_t u = x.bits;
    float f = bits_float((u & 0x7fffu) << 13) * bits_float(0x77800000u);
    uint32_t special = (u & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
    return bits_float(float_bits(f) | special | (u & 0x8000u) << 16);
}

// Round to nearest, ties to even; NaN stays NaN.
static inline void from_float(float x, float& to) { to = x; }
static inline void from_float(float x, bf16& to) {
    uint32_t u = float_bits(x), r = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    to.bits = (uint16_t)(x != x ? 0x7fc0u : r);
}
static inline void from_float(float x, fp16& to) {
    uint32_t u = float_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    // Below the smallest normal half, adding 0.5 as a float leaves the rounded subnormal in the low bits.
    uint32_t tiny = float_bits(bits_float(a) + 0.5f) - 0x3f000000u;
    uint32_t normal = (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13;
    uint32_t r = a < 0x38800000u ? tiny : normal;
    r = a >= 0x477ff000u ? 0x7c00u : r;
    r = a > 0x7f800000u ? 0x7e00u : r;
    to.bits = (uint16_t)(r | sign);
}

}  // namespace attnspec
