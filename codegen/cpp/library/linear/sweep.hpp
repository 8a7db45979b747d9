// The sweep over the tiles of the outer side, in order. What a tile sees in full goes through a state, the sum of y_j z_j^T
// over a set of tiles: from one outer tile to the next it moves by the tiles that come and go, or starts afresh where that is
// less work. Partial tiles are computed pair by pair, and full ones too where so few rows read the state that it does not pay.

namespace attnspec {

template <class Pass>
struct Sweep : TileWalk<Pass> {
    using Base = TileWalk<Pass>;
    using Base::HERE, Base::THERE, Base::s, Base::at, Base::b, Base::outer, Base::inner, Base::held, Base::next, Base::next_kept,
        Base::parts, Base::first, Base::live, Base::head, Base::loaded, Base::rows_here, Base::rows_there, Base::slots_here,
        Base::slots_of_inner, Base::lanes, Base::look;

    const LinearProblem& p;
    Space& w;
    Memory& memory;
    struct Kept { int64_t tile, head; Inner inner; };
    Kept kept[KEPT];
    double frame = 0;   // with DECAY: what the state counts from, the nearest of what it holds
    Channels channels;  // with BY_CHANNEL

    Sweep(const LinearProblem& p, const Sizes& s, Space& w, Memory& memory, const Place& at, int64_t b, Team outer, Team inner)
        : Base(s, at, b, outer, inner), p(p), w(w), memory(memory),
          channels(p, w, rows_here(), rows_there(), b, (KEYS ? inner : outer).first) {
        resume();
    }

    // After another sweep had the space.
    void resume() {
        w.sums = memory.sums, w.frame = memory.frame, w.state = memory.state;
        for (Kept& one : kept) one = {INT64_MIN, 0, {}};
        w.ahead.clear();
    }

    int64_t line_here() const { return (b * (KEYS ? s.key_heads : s.query_heads) + head) * (KEYS ? s.keys : s.rows); }

    // The sum of the logarithms (of base 2) of steps up to a row of keys, or of queries; a number of that order by channel.
    double logarithm(bool of_key, int64_t row) const {
        if (BY_CHANNEL) return channels.coded(row + (of_key ? p.at_k : p.at_q));
        const int64_t line = (b * s.query_heads + (KEYS ? inner : outer).first) * (of_key ? s.keys : s.rows);
        const double sum = (of_key ? p.decay_k : p.decay_q)[line + row] * 1.4426950408889634;
        return KEYS ? -sum : sum;
    }

    // A tile of the inner side: the last ones stay where they were put.
    const Inner& inner_tile(int64_t j, int64_t h, Span slots) {
        for (int i = 0; i < KEPT; ++i)
            if (kept[i].tile == j && kept[i].head == h) return kept[i].inner;
        const int64_t line = (b * (KEYS ? s.query_heads : s.key_heads) + h) * (KEYS ? s.rows : s.keys);
        Kept& to = kept[next_kept];
        to = {j, h, load_inner(p, w, next_kept, b, h, line, rows_there(), slots)};
        if (DECAY)
            for (int r = 0; r < to.inner.count; ++r) w.there[next_kept][r] = logarithm(!KEYS, rows_there()(slots.begin + r));
        to.inner.logs = w.there[next_kept];
        if constexpr (BY_CHANNEL)
            to.inner.steps = channels.load_tile(next_kept, slots);
        next_kept = (next_kept + 1) % KEPT;
        const auto [next_head, soon] = this->after(j, h);
        w.ahead.add(p.y, sizeof(YElem), YT, b, next_head, rows_there(), soon);
        w.ahead.add(p.z, sizeof(ZElem), ZC, b, next_head, rows_there(), soon);
        return to.inner;
    }

    void start() {
        if (p.state_in) begin_state();  // which each row reads
    }
    // With `last` of the whole sequence.
    void end(bool last) {
        if (p.state_out && last) leave_state();
    }

    void run(Span tiles) {
        this->each_outer(tiles, [&](int64_t o) {
            for (head = outer.first; head < outer.first + outer.count; ++head) {
                begin();
                for (int64_t h = inner.first; h < inner.first + inner.count; ++h)
                    look(o, h, [&](int64_t j) { pairs<true>(j, h, KEYS ? h : head); });
                next.order();
                if (next.count || p.state_in) see_full();
                if (loaded || !CARRY) store_here();  // else the output is there already
            }
        });
    }

    void begin() {
        loaded = false, next.count = 0;
        for (auto& group : w.out) memset(group, 0, sizeof(group));
    }

    void load_here() {
        if (loaded) return;
        loaded = true;
        for (int g = 0; g < GROUPS; ++g) {
            const Range range = lanes(g);
            if (range.begin >= range.end) continue;
            load_outer(p, w, g, b, head, line_here(), rows_here(), first + g * LANES, range, p.scale * Pass::COUNT);
            if (DECAY)
                for (int l = 0; l < LANES; ++l) {
                    const bool on = l >= range.begin && l < range.end;
                    w.here[g][l] = on ? logarithm(KEYS, rows_here()(first + g * LANES + l)) : -std::numeric_limits<double>::infinity();
                }
            if constexpr (BY_CHANNEL)
                channels.load_group(group(g));
            if (CROSSING) memset(w.itself[g], 0, sizeof(w.itself[g]));
        }
        const Span soon = slots_of(rows_here(), slots_here(), first / HERE + (KEYS ? -1 : 1), HERE);
        w.ahead.add(p.out, sizeof(OutElem), ZC, b, head, rows_here(), live);
        w.ahead.add(p.x, sizeof(XElem), XT, b, head, rows_here(), soon);
    }

    Group group(int g) const { return {g, first + g * LANES, lanes(g)}; }

    template <bool PARTIAL>
    ATTNSPEC_NOINLINE void pairs(int64_t j, int64_t h, int64_t query_head) {
        const Span slots = slots_of_inner(j);
        if (slots.begin >= slots.end) return;
        load_here();
        const Inner& tile = inner_tile(j, h, slots);
        w.unfit.begin();
        for (int g = 0; g < GROUPS; ++g) {
            const Range on = lanes(g);
            if (on.begin >= on.end) continue;
            Range range = {0, tile.rows};
            const float* z = tile.z;
            if (PARTIAL) {
                range = mask_tile<Pass, !KEYS>(w.mask, at, first + g * LANES, on, slots.begin, tile.count, s.h_start + query_head,
                                               s.b_start + b, s);
                if (range.begin >= range.end) continue;
                w.unfit.template find<ZS>(tile.z, range);
                z = w.unfit.template without<ZS>(tile.z, (uint32_t*)w.fit, tile.rows);
            }
            const Seen seen = PARTIAL ? Seen(range, w.mask, tile.count) : Seen(range);
            if constexpr (BY_CHANNEL && !OF_OUT)
                channels.score(group(g), tile, range, slots.begin);
            else
                score_pairs(w, g, tile, seen);
            if (PARTIAL || SCALAR) finish<PARTIAL>(g, tile, range);
            if (CROSSING && PARTIAL) set_apart(s, w, group(g), rows_here(), rows_there(), tile, range, slots.begin);
            if constexpr (OF_OUT)
                channels.add(group(g), tile, z, range, slots.begin);
            else
                add_pairs(w, g, z, seen);
            if (PARTIAL && w.unfit.count) add_unfit(g, tile, range, slots.begin);
        }
    }

    // Weights of pairs: what decay leaves of them, and none where the pattern has none.
    template <bool PARTIAL>
    void finish(int g, const Inner& tile, Range range) {
        const int end = PARTIAL || range.end < tile.count ? range.end : tile.count;
        for (int c = 0; c < C; ++c) {
            const vdouble here = SCALAR ? *(const vdouble*)(w.here[g] + c * W) : vdouble{};
            for (int r = range.begin; r < end; ++r) {
                float* at = w.s + r * LANES + c * W;
                vfloat s = load(at);
                if (SCALAR) s *= fading(here - tile.logs[r]);
                if (PARTIAL) s = *(const vint*)(w.mask + r * LANES + c * W) != 0 ? s : vfloat{};
                store(at, s);
            }
        }
    }

    // The values that are not finite, for the lanes that see them.
    ATTNSPEC_NOINLINE void add_unfit(int g, const Inner& tile, Range range, int64_t slot) {
        for (int i = 0; i < w.unfit.count; ++i) {
            const int r = w.unfit.at[i];
            if constexpr (OF_OUT) {
                if (r >= range.begin && r < range.end) channels.add_exactly(group(g), tile.z, {r, r + 1}, slot);
                continue;
            }
            for (int l = 0; l < LANES; ++l)
                if (r >= range.begin && r < range.end && w.mask[r * LANES + l])
                    for (int d = 0; d < ZC; ++d) w.out[g][d * LANES + l] += w.s[r * LANES + l] * tile.z[r * ZS + d];
        }
    }

    // The tiles that are full: through the state, or pair by pair.
    void see_full() {
        load_here();
        const auto moves = this->moves();
        const bool afresh = moves.come + moves.go >= moves.all || (moves.go && !is_state_finite()) || (DECAY && !is_near());
        if (this->are_pairs_cheaper(moves.by(afresh), moves.all, p.state_in)) {
            this->each_full([&](int64_t j, int64_t h) { pairs<false>(j, h, h); });
            return;
        }
        if (afresh) begin_state();
        held.without(next, [&](int64_t lo, int64_t hi) { move(lo, hi, -1.f); });
        next.without(held, [&](int64_t lo, int64_t hi) { afresh && parts.count ? add_parts(lo, hi) : move(lo, hi, 1.f); });
        held.swap(next);
        for (int g = 0; g < GROUPS; ++g) {
            const Range on = lanes(g);
            if (on.begin >= on.end) continue;
            if constexpr (BY_CHANNEL)
                channels.read_state(g);
            else
                read_state(w, g, frame);
        }
    }

    void begin_state(bool whole = true) {
        memset(w.sums, 0, sizeof(memory.sums));
        memset(w.state, 0, sizeof(memory.state));
        held.count = 0, frame = std::numeric_limits<double>::infinity();
        if (whole && p.state_in) load_state(p, w, b * s.key_heads + (KEYS ? outer : inner).first);
    }

    // The state after all tiles.
    void leave_state() {
        const bool afresh = !held.count;
        const Span all = this->tiles_there();
        if (afresh) begin_state();
        next.count = 0, next.add(all.begin, all.end - 1);
        next.without(held, [&](int64_t lo, int64_t hi) { afresh && parts.count ? add_parts(lo, hi) : move(lo, hi, 1.f); });
        keep_state(p, w, b * s.key_heads + (KEYS ? outer : inner).first);
    }

    // Part i of the inner side, summed up.
    void sum_part(int64_t i) {
        begin_state(false);
        const Run own = this->run_of_part(i);
        move(own.lo, own.hi, 1.f);
        memcpy(parts.sums + i * STATE, w.sums, sizeof(memory.sums));
        parts.frames[i] = frame;
    }

    // A run of tiles enters the state: parts where it holds all of them.
    void add_parts(int64_t lo, int64_t hi) {
        const auto [begin, end] = this->parts_in({lo, hi});
        if (begin >= end) {
            move(lo, hi, 1.f);
            return;
        }
        for (int64_t i = begin; i < end; ++i) {
            const double from = parts.frames[i], nearest = from < frame ? from : frame;
            if constexpr (BY_CHANNEL) {
                channels.add_part(parts.sums + i * STATE, from, frame);
                continue;
            }
            const double keep = DECAY ? left_of(frame - nearest) : 1.0, times = DECAY ? left_of(from - nearest) : 1.0;
            for (int x = 0; x < STATE; ++x) w.sums[x] = w.sums[x] * keep + parts.sums[i * STATE + x] * times;
            frame = nearest;
        }
        for (int x = 0; x < STATE; ++x) w.state[x] = (float)w.sums[x];
        move(lo, parts.first + begin * parts.size - 1, 1.f);
        move(parts.first + end * parts.size, hi, 1.f);
    }

    // 2 to the power of minus `logarithm`, which is not below 0.
    static double left_of(double logarithm) { return logarithm > 1000.0 ? 0.0 : __builtin_exp2(-logarithm); }

    void move(int64_t lo, int64_t hi, float sign) {
        this->each_inner(lo, hi, [&](int64_t j, int64_t h, Span slots) {
            const Inner& tile = inner_tile(j, h, slots);
            if constexpr (BY_CHANNEL)
                channels.move(tile, sign, frame);
            else
                move_tile(w, tile, {sign, DECAY ? approach(tile) : 1.0});
        });
    }

    // The frame of the state moves to the nearest of what it holds, so that no factor is above 1. Returns what is left of it,
    // and leaves in kept_back what is left of each row of the tile.
    double approach(const Inner& tile) {
        double nearest = frame;
        for (int r = 0; r < tile.count; ++r) nearest = tile.logs[r] < nearest ? tile.logs[r] : nearest;
        const double keep = left_of(frame - nearest);
        frame = nearest;
        for (int r = 0; r < tile.count; r += W) store(w.kept_back + r, fading(frame - *(const vdouble*)(tile.logs + r)));
        return keep;
    }

    // Whether all of the outer tile lies beyond the frame.
    bool is_near() const {
        for (int g = 0; g < GROUPS; ++g) {
            const Range on = lanes(g);
            for (int l = on.begin; l < on.end; ++l)
                if (w.here[g][l] > frame) return false;
        }
        return true;
    }

    ATTNSPEC_NOINLINE bool is_state_finite() const {
        return are_finite<1>(w.state, {0, STATE});
    }

    ATTNSPEC_NOINLINE void store_here() {
        const int64_t line = line_here();
        for (int g = 0; g < GROUPS; ++g) {
            const Range on = lanes(g);
            if (on.begin >= on.end) continue;
            const int64_t slot = first + g * LANES + on.begin;
            const int count = on.end - on.begin;
            if constexpr (Z_ONE) {
                float* total = w.out[g] + ZC * LANES;
                if (p.total)
                    for (int l = on.begin; l < on.end; ++l) {
                        float& to = p.total[line + rows_here()(first + g * LANES + l)];
                        to = CARRY ? to + total[l] : total[l];
                    }
                if (p.divide)
                    for (int c = 0; c < C; ++c) {
                        const vfloat sum = load(total + c * W), factor = sum == 0.f ? vfloat{} : 1.f / sum;
                        for (int d = 0; d < ZC; ++d) {
                            float* to = w.out[g] + d * LANES + c * W;
                            store(to, load(to) * factor);
                        }
                    }
            }
            if constexpr (OF_OUT)
                if (loaded) channels.add_far(g);
            if (CROSSING && loaded) add_itself(p, w, group(g), rows_here(), b, head, (KEYS ? inner : outer).first);
            if constexpr (OUT_MAP != 0) {
                load_transposed<ZC, ZS, SourceElem>(w.more, w, p.source, b, head, rows_here(), first + g * LANES, on);
                for (int i = 0; i < ZC * LANES; i += W) store(w.out[g] + i, gradient<OUT_MAP>(load(w.out[g] + i), load(w.more + i)));
            }
            if constexpr (!CARRY && sizeof(OutElem) == 4 && ZC == ZS)
                if (count == LANES && p.out.stride[3] == 1 && p.out.stride[2] == ZS && !rows_here().list && rows_here().step == 1) {
                    transpose<ZS, LANES, ZS, LANES>(row_of<float>(p.out, b, head, rows_here()(slot)), w.out[g]);
                    continue;
                }
            transpose<ZS, LANES, ZS, LANES>(w.rows, w.out[g]);
            float* rows = w.rows + on.begin * ZS;
            if (CARRY)
                for (int r = 0; r < count; ++r) {
                    const OutElem* before = row_of<OutElem>(p.out, b, head, rows_here()(slot + r));
                    for (int d = 0; d < ZC; ++d) rows[r * ZS + d] += to_float(before[d * p.out.stride[3]]);
                }
            put_rows<ZC, ZS, OutElem>(p.out, b, head, rows_here(), slot, count, rows);
        }
    }
};

}  // namespace attnspec
