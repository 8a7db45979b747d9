// The delta rule: values that lose what their keys recall of the corrected ones before,
//
//     c_i = write_i v_i - read_i sum over j of (b_i . b_j) c_j,
//
// over pairs of keys of which j comes first; and its transpose (KEYS), of which the gradients are made,
//
//     u_j = write_j v_j - sum over i of (b_i . b_j) read_i u_i.
//
// The sweep is that of any sum, but that what it sums up is what it wrote: z, which is c, or read u. Tiles follow one another,
// and what is between positions of one tile is a triangular system, solved by substitution: block by block of R rows.

namespace attnspec {

// x and y are the features b, `source` the values v, z what the sum goes over, and `out` with KEYS u. The scale is -1.
struct DeltaProblem : LinearProblem {
    const float *write, *read;  // (batch, heads, rows), contiguous; null: ones
};

constexpr int ALL_LANES = GROUPS * LANES;

struct alignas(64) DeltaSpace : Space {
    float values[ALL_LANES * ZS];  // of the tile, row by row
    float own[ALL_LANES * LANES];  // weights of a group's pairs inside the tile: a row for each position that comes first
    int32_t own_mask[ALL_LANES * LANES];
};

// x[m] += sum of T[t][m] x[t] over the rows t of a block of R that come before m, with KEYS after it.
template <int V>
ATTNSPEC_INLINE void substitute(const float* t, float* x) {
    vfloat row[R][V];
#pragma GCC unroll 16
    for (int m = 0; m < R; ++m)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) row[m][v] = load_any(x + m * ZS + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
        const int from = KEYS ? R - 1 - i : i;
#pragma GCC unroll 16
        for (int k = i + 1; k < R; ++k) {
            const int m = KEYS ? R - 1 - k : k;
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) row[m][v] += t[from * LANES + m] * row[from][v];
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < R; ++m)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) *(vfloat_any*)(x + m * ZS + v * W) = row[m][v];
}

template <class Pass>
struct Delta : Sweep<Pass> {
    using Base = Sweep<Pass>;
    using Base::at, Base::b, Base::first, Base::head, Base::held, Base::inner, Base::kept, Base::lanes, Base::live, Base::next,
        Base::outer, Base::rows_here, Base::rows_there, Base::s, Base::slots_of_inner;
    static constexpr int HERE = Base::HERE, THERE = Base::THERE, OWN = HERE / THERE + 2;

    const DeltaProblem& p;
    DeltaSpace& w;
    int64_t own[OWN];  // the tiles that the outer one is part of
    int owned = 0;
    bool finite = true;  // the values of this tile so far

    Delta(const DeltaProblem& p, const Sizes& s, DeltaSpace& w, const Place& at, int64_t b, int64_t h)
        : Base(p, s, w, w.memory, at, b, {h, 1}, {h, 1}), p(p), w(w) {}

    bool run() {
        this->each_outer(this->tiles_here(), [&](int64_t o) {
            head = outer.first, owned = 0, finite = true;
            this->begin();
            this->load_here();
            if (!KEYS) scale_lanes();
            w.ahead.add(p.source, sizeof(SourceElem), ZC, b, head, rows_here(), live);
            w.ahead.add(p.z, sizeof(ZElem), ZC, b, head, rows_here(), live);
            this->look(o, inner.first, [&](int64_t j) {
                const Span slots = slots_of_inner(j);
                if (slots.begin < live.end && live.begin < slots.end)
                    own[owned++] = j;
                else
                    this->template pairs<true>(j, inner.first, inner.first);
            });
            next.order();
            if (next.count) this->see_full();
            for (int i = 0; i < GROUPS; ++i) solve(KEYS ? GROUPS - 1 - i : i);
            refresh();
        });
        return this->is_complete();
    }

    float factor(const float* of, int64_t slot) const { return of ? of[this->line_here() + rows_here()(slot)] : 1.f; }

    // Weights have the factor `read` of their row.
    ATTNSPEC_NOINLINE void scale_lanes() {
        if (!p.read) return;
        for (int g = 0; g < GROUPS; ++g) {
            const Range on = lanes(g);
            if (on.begin >= on.end) continue;
            alignas(64) float by[LANES] = {};
            for (int l = on.begin; l < on.end; ++l) by[l] = factor(p.read, first + g * LANES + l);
            for (int c = 0; c < C; ++c) {
                const vfloat of = load(by + c * W);
                for (int d = 0; d < D; ++d) store(w.x[g] + d * LANES + c * W, load(w.x[g] + d * LANES + c * W) * of);
            }
        }
    }

    // Values of the lanes of a group, of which all are known that come before it.
    ATTNSPEC_NOINLINE void solve(int g) {
        const Range on = lanes(g);
        if (on.begin >= on.end) return;
        memset(w.own, 0, sizeof(w.own));
        memset(w.own_mask, 0, sizeof(w.own_mask));
        for (int i = 0; i < owned; ++i) add_own(g, own[i], on);
        begin_values(g, on);
        for (int c = 0; c + C * W <= ZS; c += C * W) substitute_columns<C>(g, c);
        for (int c = ZS / (C * W) * C * W; c < ZS; c += W) substitute_columns<1>(g, c);
        float* rows = w.values + g * LANES * ZS;
        finite = finite && are_finite<1>(rows, {0, LANES * ZS});
        if (!finite) {
            begin_values(g, on);
            substitute_apart(g);
        }
        put(g, on, rows);
    }

    // write_i v_i, and what was summed up of other tiles.
    void begin_values(int g, Range on) {
        const int64_t slot = first + g * LANES + on.begin;
        const int count = on.end - on.begin;
        float* to = w.values + g * LANES * ZS;
        transpose<ZS, LANES, ZS, LANES>(to, w.out[g]);
        const View<SourceElem> v = view<ZC, SourceElem>(w.scratch, p.source, b, head, rows_here(), slot, count);
        rows_to_float<ZC, ZS>(w.rows, v.from, v.row, v.element, count, count, 1.f);
        for (int r = 0; r < count; ++r) {
            const float by = factor(p.write, slot + r);
            float* row = to + (on.begin + r) * ZS;
            for (int c = 0; c < ZS; c += W) store(row + c, load(row + c) + by * load(w.rows + r * ZS + c));
        }
    }

    // Weights of pairs of a group with a tile that it is part of; of those that lie in others the values are known.
    void add_own(int g, int64_t j, Range on) {
        const Span slots = slots_of_inner(j);
        const Inner& tile = this->inner_tile(j, inner.first, slots);
        const Range range = mask_tile<Pass, !KEYS>(w.mask, at, first + g * LANES, on, slots.begin, tile.count,
                                                   s.h_start + inner.first, s.b_start + b, s);
        if (range.begin >= range.end) return;
        score_pairs(w, g, tile, Seen(range, w.mask, tile.count));
        this->template finish<true>(g, tile, range);
        const int begin = (int)(first - slots.begin), end = begin + HERE;  // the rows of this outer tile
        const int lo = begin > range.begin ? begin : range.begin, most = range.end < tile.count ? range.end : tile.count;
        for (int r = lo; r < (most < end ? most : end); ++r) {
            const float by = KEYS ? factor(p.read, slots.begin + r) : 1.f;
            const int64_t to = (r - begin) * LANES;
            for (int c = 0; c < LANES; c += W) store(w.own + to + c, load(w.s + r * LANES + c) * by);
            memcpy(w.own_mask + to, w.mask + r * LANES, sizeof(int32_t) * LANES);
        }
        const Range known = KEYS ? Range{end > range.begin ? end : range.begin, most} : Range{range.begin, begin < most ? begin : most};
        if (known.begin >= known.end) return;
        w.unfit.begin();
        w.unfit.template find<ZS>(tile.z, known);
        add_pairs(w, g, w.unfit.template without<ZS>(tile.z, (uint32_t*)w.fit, tile.rows), Seen(known));
        if (w.unfit.count) this->add_unfit(g, tile, known, slots.begin);
    }

    template <int V>
    ATTNSPEC_NOINLINE void substitute_columns(int g, int c) {
        float* x = w.values + c;
        for (int i = 0; i < LANES; i += R) {
            const int l = KEYS ? LANES - R - i : i, row = g * LANES + l;
            const int begin = KEYS ? row + R : 0, end = KEYS ? ALL_LANES : row;
            w.ahead.ask(R * V * (end - begin));
            if (begin < end)
                block<Floats, R, V, 1, LANES, ZS, ZS, true>(w.own + begin * LANES + l, x + begin * ZS, end - begin, x + row * ZS);
            substitute<V>(w.own + row * LANES + l, x + row * ZS);
        }
    }

    // The same where some values are not finite: they reach those that see them.
    ATTNSPEC_NOINLINE void substitute_apart(int g) {
        for (int i = 0; i < LANES; ++i) {
            const int l = KEYS ? LANES - 1 - i : i, row = g * LANES + l;
            for (int t = KEYS ? row + 1 : 0; t < (KEYS ? ALL_LANES : row); ++t)
                if (w.own_mask[t * LANES + l])
                    for (int c = 0; c < ZC; ++c) w.values[row * ZS + c] += w.own[t * LANES + l] * w.values[t * ZS + c];
        }
    }

    void put(int g, Range on, float* rows) {
        const int64_t slot = first + g * LANES + on.begin;
        const int count = on.end - on.begin;
        rows += on.begin * ZS;
        if constexpr (KEYS) {
            put_rows<ZC, ZS, OutElem>(p.out, b, head, rows_here(), slot, count, rows);
            for (int r = 0; r < count; ++r) {
                const float by = factor(p.read, slot + r);
                for (int c = 0; c < ZS; c += W) store(w.rows + r * ZS + c, load(rows + r * ZS + c) * by);
            }
            rows = w.rows;
        }
        put_rows<ZC, ZS, ZElem>(p.z, b, head, rows_here(), slot, count, rows);
    }

    // Tiles that stay where they were put have the values that are known now.
    void refresh() {
        for (int i = 0; i < KEPT; ++i) {
            if (kept[i].tile == INT64_MIN) continue;
            const Span slots = slots_of_inner(kept[i].tile);
            if (slots.begin >= live.end || live.begin >= slots.end) continue;
            Inner& tile = kept[i].inner;
            tile.z = rows_of<ZC, ZS, Z_MAP, Z_UP, false, ZElem>(p, w.z[i], w.scratch, p.z, b, inner.first, 0, rows_there(), slots.begin,
                                                                tile.count, tile.rows);
        }
    }
};

// A task is a residue of a head: its tiles follow one another.
template <class Pattern>
static int delta(const DeltaProblem& p) {
    const Sizes& s = p.sizes;
    if (s.entries <= 0 || s.query_heads <= 0 || s.rows <= 0) return 0;
    const int64_t residues = most_residues<Pattern>(s, 0), all = s.entries * s.query_heads * s.rows * ZC;  // in one piece
    expect_writes((void*)p.z.data, sizeof(ZElem) * all);
    if (KEYS) expect_writes((void*)p.out.data, sizeof(OutElem) * all);
    bool complete = true;
    const bool started = for_tasks<DeltaSpace>(s.entries * s.query_heads * residues, p.threads, [&](int64_t task, DeltaSpace& w) {
        const int64_t c = task % residues, h = task / residues % s.query_heads, b = task / residues / s.query_heads;
        Pattern::visit(s.h_start + h, 0, [&](auto pass) {
            using Pass = decltype(pass);
            if (c >= Pass::STRIDE) return;
            const Place at = place<Pass>(s, c, s.h_start + h, s.b_start + b);
            Delta<Pass> sweep(p, s, w, at, b, h);
            if (!sweep.run()) __atomic_store_n(&complete, false, __ATOMIC_RELAXED);
        });
    });
    return started && complete ? 0 : 1;
}

}  // namespace attnspec
