// What a sweep does otherwise where features decay each by itself.

namespace attnspec {

using Space = std::conditional_t<BY_CHANNEL, ChannelSpace, LinearSpace>;  // of a thread

struct Channels {
    const LinearProblem& p;
    ChannelSpace& w;
    const Rows &here, &there;
    Walk walk;

    Channels(const LinearProblem& p, LinearSpace& w, const Rows& here, const Rows& there, int64_t b, int64_t query_head)
        : p(p), w(static_cast<ChannelSpace&>(w)), here(here), there(there), walk(p, b, query_head) {}

    // Of which steps rows are, on either side.
    int64_t shift_here() const { return KEYS ? p.at_k : p.at_q; }
    int64_t shift_there() const { return KEYS ? p.at_q : p.at_k; }

    // Positions as frames: less is nearer.
    static double coded(int64_t position) { return KEYS ? (double)position : -(double)position; }

    const InnerSteps* load_tile(int kept, Span slots) {
        load_inner_steps(w, w.inner[kept], walk, there, shift_there(), slots);
        return &w.inner[kept];
    }

    void load_group(Group g) {
        load_outer_steps(w, w.outer[g.number], walk, here, shift_here(), g.slot, g.live, w.x[g.number]);
    }

    // s[row][lane] for the rows of a range of a tile that begins at a slot.
    ATTNSPEC_NOINLINE void score(Group g, const Inner& tile, Range range, int64_t slot) {
        const OuterSteps& outer = w.outer[g.number];
        each_part(*tile.steps, outer, range, [&](Range part) {
            const float* y = faded(w, *tile.steps, tile.y, part, tile.count, outer.from);
            for (int r = part.begin; r < part.end; r += R)
                block<Floats, R, C, CHS, 1, LANES, LANES, false>(y + r * CHS, outer.x, CH, w.s + r * LANES);
        }, [&](Range part) {
            const Among at = {(int)(slot - g.slot), g.live};
            if (part.end > tile.count) part.end = tile.count;
            if (lie_on_lanes(at, tile.count)) {
                score_among(w.s, w.x[g.number], tile.y, tile.steps->next, part, at);
            } else {
                load_lanes_exactly(w, walk, here, shift_here(), g.slot, g.live);
                score_exactly(w, w.x[g.number], tile.y, part, g.live, walk, position_of(slot));
            }
        });
    }

    // out += s z, for the rows of a range.
    ATTNSPEC_NOINLINE void add(Group g, const Inner& tile, const float* z, Range range, int64_t slot) {
        OuterSteps& outer = w.outer[g.number];
        each_part(*tile.steps, outer, range, [&](Range part) {
            const float* by = faded(w, *tile.steps, z, part, tile.count, outer.from) + part.begin * CHS;
            product<DV, 1, CHS, true>(by, w.s + part.begin * LANES, part.end - part.begin, outer.far, w.ahead);
        }, [&](Range part) {
            const Among at = {(int)(slot - g.slot), g.live};
            if (part.end > tile.count) part.end = tile.count;
            if (lie_on_lanes(at, tile.count))
                add_among(w.out[g.number], w.s, z, tile.steps->next, part, at);
            else
                add_exactly(g, z, part, slot);
        });
    }

    void add_exactly(Group g, const float* z, Range range, int64_t slot) {
        load_lanes_exactly(w, walk, here, shift_here(), g.slot, g.live);
        attnspec::add_exactly(w, w.out[g.number], z, range, g.live, walk, position_of(slot));
    }

    bool lie_on_lanes(const Among& at, int count) const {
        if (here.list || there.list) return false;
        return KEYS ? at.live.begin >= at.shift : at.live.end <= count + at.shift;
    }

    TileAt position_of(int64_t slot) const { return {there, slot, shift_there()}; }

    // A tile enters the state, or leaves it.
    void move(const Inner& tile, float sign, double& frame) {
        const InnerSteps& steps = *tile.steps;
        int near = 0;
        for (int i = 1; i < steps.subs; ++i) near = is_as_near(steps.near_at[i], steps.near_at[near]) ? i : near;
        approach(coded(steps.near_at[near]), steps.near + near * CHS, frame);
        Inner rows = tile;
        (OF_OUT ? rows.z : rows.y) = faded(w, steps, OF_OUT ? tile.z : tile.y, {0, tile.count}, tile.count, w.frame);
        move_tile(w, rows, {sign, 1.0});
    }

    // The frame moves to where sums are `sums`, if that is nearer.
    void approach(double nearer, const double* sums, double& frame) {
        if (nearer >= frame) return;
        if (frame < std::numeric_limits<double>::infinity()) {
            alignas(64) double keep[CHS];
            for (int c = 0; c < CHS; c += W) *(vdouble*)(keep + c) = kept_between(w.frame + c, sums + c);
            fade_sums(w.sums, keep, nullptr, nullptr);
        }
        memcpy(w.frame, sums, sizeof(double) * CHS), frame = nearer;
    }

    // A sum that counts from `from` enters the state.
    void add_part(const double* sums, double from, double& frame) {
        if (from == std::numeric_limits<double>::infinity()) return;
        walk.to((int64_t)(KEYS ? from : -from));
        approach(from, walk.sum, frame);
        alignas(64) double one[CHS], times[CHS];
        for (int c = 0; c < CHS; c += W) {
            *(vdouble*)(one + c) = vdouble{} + 1.0;
            *(vdouble*)(times + c) = kept_between(walk.sum + c, w.frame + c);
        }
        fade_sums(w.sums, one, sums, times);
    }

    void read_state(int g) { read_faded_state(w, g); }

    // What lanes get of rows that do not lie among them.
    void add_far(int g) {
        for (int i = 0; i < DV * LANES; i += W)
            store(w.out[g] + i, load(w.out[g] + i) + load(w.outer[g].far + i) * load(w.outer[g].left + i));
    }
};

}  // namespace attnspec
