// The sweep over the tiles of the outer side, as in sweep.hpp, with states and tiles of log_tile.hpp.

namespace attnspec {

template <class Pass>
struct Sweep : TileWalk<Pass> {
    using Base = TileWalk<Pass>;
    using Base::HERE, Base::THERE, Base::s, Base::at, Base::b, Base::outer, Base::inner, Base::held, Base::next, Base::next_kept,
        Base::parts, Base::first, Base::live, Base::head, Base::loaded, Base::rows_here, Base::rows_there, Base::slots_here,
        Base::slots_of_inner, Base::lanes, Base::look;
    static constexpr bool READS_Y = LOGS == 2 || (LOGS == 1 && !ONES), READS_Z = LOGS == 1 || (LOGS == 2 && !ONES);
    static constexpr int OTHER = LOGS == 1 ? ZS : YS;  // the columns of a state, which has a row for each channel

    const LinearProblem& p;
    LogSpace& w;
    Memory& memory;
    LogTile kept[KEPT];
    // Behind the matrix in w.sums: what channels of the state count from, the sum of its exponentials, and the most of that.
    double *const frames = memory.sums + CHANNELS * OTHER, *const mass = frames + CS, *const most = mass + CS;

    Sweep(const LinearProblem& p, const Sizes& s, LogSpace& w, Memory& memory, const Place& at, int64_t b, Team outer, Team inner)
        : Base(s, at, b, outer, inner), p(p), w(w), memory(memory) {
        resume();
    }

    // As in sweep.hpp.
    void resume() {
        w.sums = memory.sums, w.state = memory.state;
        for (LogTile& one : kept) one.tile = INT64_MIN;
        w.ahead.clear();
    }
    void start() {}
    void end(bool) {}

    const LogTile& inner_tile(int64_t j, int64_t h, Span slots) {
        for (const LogTile& one : kept)
            if (one.tile == j && one.head == h) return one;
        const int n = next_kept, count = (int)(slots.end - slots.begin), rows = round_up(count, R);
        next_kept = (n + 1) % KEPT;
        const float* logs = rows_of<CHANNELS, CS, 0, false, false, float>(p, w.logs_there[n], w.scratch, p.there, b, h, 0, rows_there(),
                                                                          slots.begin, count, rows);
        Inner own = {count, rows, nullptr, nullptr};
        if (READS_Y) own.y = rows_of<YT, YS, 0, false, false, YElem>(p, w.y[n], w.scratch, p.y, b, h, 0, rows_there(), slots.begin, count, rows);
        if (READS_Z) own.z = rows_of<ZC, ZS, 0, false, false, ZElem>(p, w.z[n], w.scratch, p.z, b, h, 0, rows_there(), slots.begin, count, rows);
        kept[n] = {j, h, own, logs, w.faded[n], w.top[n], w.mass[n]};
        const float* from = LOGS == 1 ? own.y : own.z;
        float* to = w.faded[n];
        for (int c = 0; c < CS; c += W) {
            vfloat top = all(LOWEST), sum = vfloat{};
            for (int r = 0; r < count; ++r) top = larger(finite(load_any(logs + r * CS + c)), top);
            if (LOGS < 3)
                for (int r = 0; r < count; ++r) {
                    const vfloat part = exp(load_any(logs + r * CS + c) - top);
                    sum += part;
                    store(to + r * CS + c, ONES ? part : load_any(from + r * CS + c) * part);
                }
            store(w.top[n] + c, top), store(w.mass[n] + c, sum);
        }
        memset(to + count * CS, 0, sizeof(float) * (rows - count) * CS);
        const auto [next_head, soon] = this->after(j, h);
        if (READS_Y) w.ahead.add(p.y, sizeof(YElem), YT, b, next_head, rows_there(), soon);
        if (READS_Z) w.ahead.add(p.z, sizeof(ZElem), ZC, b, next_head, rows_there(), soon);
        w.ahead.add(p.there, sizeof(float), CHANNELS, b, next_head, rows_there(), soon);
        return kept[n];
    }

    void run(Span tiles) {
        this->each_outer(tiles, [&](int64_t o) {
            for (head = outer.first; head < outer.first + outer.count; ++head) {
                loaded = false, next.count = 0;
                for (auto& group : w.out)
                    for (int i = 0; i < OS * LANES; i += W) store(group + i, all_begin());
                for (int64_t h = inner.first; h < inner.first + inner.count; ++h)
                    look(o, h, [&](int64_t j) { pairs<true>(j, h, KEYS ? h : head); });
                next.order();
                if (next.count) see_full();
                if (loaded || !CARRY) store_here();
            }
        });
    }
    static vfloat all_begin() { return all(LOGS == 3 ? -INF : 0.f); }

    void load_here() {
        if (loaded) return;
        loaded = true;
        for (int g = 0; g < GROUPS && LOGS < 3; ++g) {
            const Range on = lanes(g);
            if (on.begin >= on.end) continue;
            const int64_t slot = first + g * LANES;
            const float scale = p.scale * Pass::COUNT;
            if (LOGS == 1 && KEYS)
                for (int i = 0; i < XS * LANES; i += W) store(w.x[g] + i, all(scale));
            else
                load_outer(p, w, g, b, head, 0, rows_here(), slot, on, scale);
            const int count = on.end - on.begin;
            const View<float> x = view<CHANNELS, float>(w.scratch, p.here, b, head, rows_here(), slot + on.begin, count);
            if (on.begin) memset(w.rows, 0, sizeof(float) * on.begin * CS);
            rows_to_float<CHANNELS, CS>(w.rows + on.begin * CS, x.from, x.row, x.element, count, LANES - on.begin, 1.f);
            for (int c = 0; c < CS; c += W) {
                vfloat most = all(-INF);
                for (int l = on.begin; l < on.end; ++l) most = larger(load(w.rows + l * CS + c), most);
                store(w.most_here[g] + c, most);
            }
            transpose<LANES, CS, LANES, CS>(w.logs_here[g], w.rows);
        }
    }

    template <bool PARTIAL>
    ATTNSPEC_NOINLINE void pairs(int64_t j, int64_t h, int64_t query_head) {
        const Span slots = slots_of_inner(j);
        if (slots.begin >= slots.end) return;
        load_here();
        const LogTile& tile = inner_tile(j, h, slots);
        w.unfit.begin();
        for (int g = 0; g < GROUPS; ++g) {
            const Range on = lanes(g);
            if (on.begin >= on.end) continue;
            Range range = {0, tile.inner.rows};
            if (PARTIAL) {
                range = mask_tile<Pass, !KEYS>(w.mask, at, first + g * LANES, on, slots.begin, tile.inner.count, s.h_start + query_head,
                                               s.b_start + b, s);
                if (range.begin >= range.end) continue;
            }
            const int end = range.end < tile.inner.count ? range.end : tile.inner.count;
            if constexpr (LOGS == 3) {
                find_largest<PARTIAL>(w, g, tile, {range.begin, end});
                continue;
            }
            const bool near = are_near(w, g, tile.top);
            if (LOGS == 1 && near) {
                fade(w, g, w.x[g], tile.top);
                for (int r = range.begin; r < range.end; r += R)
                    block<Floats, R, C, CS, 1, LANES, LANES, false>(tile.faded + r * CS, w.moved, YC, w.s + r * LANES);
            } else if (LOGS == 1)
                score_far(w, g, tile, {range.begin, end});
            else
                score_pairs(w, g, tile.inner, Seen(range));
            if (PARTIAL)
                for (int i = range.begin * LANES; i < range.end * LANES; i += W)
                    store(w.s + i, *(const vint*)(w.mask + i) != 0 ? load(w.s + i) : vfloat{});
            if (LOGS == 2 && !near) {
                add_far<PARTIAL>(w, g, tile, {range.begin, end});
                continue;
            }
            const float *from = LOGS == 1 ? tile.inner.z : tile.faded, *z = from;
            if (PARTIAL) {
                w.unfit.template find<ZS>(from, range);
                z = w.unfit.template without<ZS>(from, (uint32_t*)w.fit, tile.inner.rows);
            }
            const float *each = z + range.begin * ZS, *weights = w.s + range.begin * LANES;
            if constexpr (LOGS == 1)
                product<ZC, 1, ZS, true>(each, weights, end - range.begin, w.out[g], w.ahead);
            else {
                product<ZC, 1, ZS, false>(each, weights, end - range.begin, w.moved, w.ahead);
                add_moved(w, g, tile.top);
            }
            for (int i = 0; PARTIAL && i < w.unfit.count; ++i) {
                const int r = w.unfit.at[i];
                for (int l = 0; l < LANES; ++l)
                    if (r >= range.begin && r < range.end && w.mask[r * LANES + l])
                        for (int d = 0; d < ZC; ++d) w.out[g][d * LANES + l] += w.s[r * LANES + l] * from[r * ZS + d];
            }
        }
    }

    // As in sweep.hpp; a state that hardly anything is left of starts afresh too.
    void see_full() {
        load_here();
        const auto moves = this->moves();
        bool afresh = moves.come + moves.go >= moves.all ||
                      (moves.go && (LOGS == 3 || !are_finite<1>(w.state, {0, CHANNELS * OTHER})));
        if (this->are_pairs_cheaper(moves.by(afresh), moves.all, LOGS == 3)) {
            this->each_full([&](int64_t j, int64_t h) { pairs<false>(j, h, h); });
            return;
        }
        if (!afresh) {
            held.without(next, [&](int64_t lo, int64_t hi) { move(lo, hi, -1.0); });
            afresh = moves.go && has_vanished();
        }
        if (afresh) begin_state();
        next.without(held, [&](int64_t lo, int64_t hi) { afresh && parts.count ? add_parts(lo, hi) : move(lo, hi, 1.0); });
        held.swap(next);
        for (int c = 0; c < CHANNELS; ++c) w.tops[c] = (float)frames[c];
        for (int g = 0; g < GROUPS; ++g) {
            const Range on = lanes(g);
            if (on.begin < on.end) read_state(g);
        }
    }

    void read_state(int g) {
        if constexpr (LOGS == 1) {
            fade(w, g, w.x[g], w.tops);
            product<DV, 1, ZS, true>(w.state, w.moved, D, w.out[g], w.ahead);
        } else if constexpr (LOGS == 2) {
            product<DV, YS, 1, false>(w.state, w.x[g], D, w.moved, w.ahead);
            add_moved(w, g, w.tops);
        } else
            for (int d = 0; d < CHANNELS; ++d)
                for (int c = d * LANES; c < d * LANES + LANES; c += W)
                    store(w.out[g] + c, larger(all(w.tops[d] > LOWEST ? w.tops[d] : -INF), load(w.out[g] + c)));
    }

    bool has_vanished() const {
        for (int c = 0; c < CHANNELS; ++c)
            if (mass[c] < VANISHED * most[c]) return true;
        return false;
    }

    void begin_state() {
        memset(w.sums, 0, sizeof(memory.sums));
        memset(w.state, 0, sizeof(memory.state));
        for (int c = 0; c < CHANNELS; ++c) frames[c] = LOWEST;
        held.count = 0;
    }

    void move(int64_t lo, int64_t hi, double sign) {
        this->each_inner(lo, hi, [&](int64_t j, int64_t h, Span slots) {
            const LogTile& tile = inner_tile(j, h, slots);
            for (int c = 0; c < CHANNELS; ++c) approach(c, tile.top[c], tile.mass[c], sign);
            if (LOGS == 3) return;
            const float* other = LOGS == 1 ? tile.inner.z : tile.inner.y;
            const ChangeOfEach by = {w.keep, w.come};
            add_products<CHANNELS, CS, OTHER>(tile.faded, other, tile.inner.count, by, {w.sums, w.state}, w.ahead);
        });
    }

    // A channel of the state counts from the largest that came, so that no factor is above 1. Factors are of fp64: a tile
    // leaves as it came.
    void approach(int c, double top, double sum, double sign) {
        const double to = top > frames[c] ? top : frames[c];
        w.keep[c] = to == frames[c] ? 1.0 : __builtin_exp(frames[c] - to);
        w.come[c] = sign * __builtin_exp(top - to);
        frames[c] = to;
        mass[c] = mass[c] * w.keep[c] + sum * w.come[c];
        most[c] = most[c] * w.keep[c] > mass[c] ? most[c] * w.keep[c] : mass[c];
    }

    // Part i of the inner side, summed up.
    void sum_part(int64_t i) {
        begin_state();
        const Run own = this->run_of_part(i);
        move(own.lo, own.hi, 1.0);
        memcpy(parts.sums + i * STATE, w.sums, sizeof(memory.sums));
    }

    // A run of tiles enters the state: parts where it holds all of them.
    void add_parts(int64_t lo, int64_t hi) {
        const auto [begin, end] = this->parts_in({lo, hi});
        if (begin >= end) {
            move(lo, hi, 1.0);
            return;
        }
        for (int64_t i = begin; i < end; ++i) {
            const double *from = parts.sums + i * STATE, *own = from + CHANNELS * OTHER;
            for (int c = 0; c < CHANNELS; ++c) {
                approach(c, own[c], own[CS + c], 1.0);
                for (int x = c * OTHER; x < c * OTHER + OTHER; ++x) w.sums[x] = w.sums[x] * w.keep[c] + from[x] * w.come[c];
            }
        }
        for (int x = 0; x < CHANNELS * OTHER; ++x) w.state[x] = (float)w.sums[x];
        move(lo, parts.first + begin * parts.size - 1, 1.0);
        move(parts.first + end * parts.size, hi, 1.0);
    }

    ATTNSPEC_NOINLINE void store_here() {
        for (int g = 0; g < GROUPS; ++g) {
            const Range on = lanes(g);
            if (on.begin >= on.end) continue;
            const int64_t slot = first + g * LANES + on.begin;
            const int count = on.end - on.begin;
            if (LOGS == 3)
                for (int i = 0; i < ZS * LANES; i += W) {
                    const vfloat most = load(w.out[g] + i);
                    store(w.out[g] + i, most == -INF ? most : -most);
                }
            transpose<ZS, LANES, ZS, LANES>(w.rows, w.out[g]);
            float* rows = w.rows + on.begin * ZS;
            if (CARRY)
                for (int r = 0; r < count; ++r) {
                    const OutElem* before = row_of<OutElem>(p.out, b, head, rows_here()(slot + r));
                    for (int d = 0; d < ZC; ++d) {
                        const float old = to_float(before[d * p.out.stride[3]]);
                        float& to = rows[r * ZS + d];
                        to = LOGS < 3 ? to + old : old == -INF || (to != -INF && to < old) ? to : old;
                    }
                }
            put_rows<ZC, ZS, OutElem>(p.out, b, head, rows_here(), slot, count, rows);
        }
    }
};

}  // namespace attnspec
