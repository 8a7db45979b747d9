// What the gradients of steps need of a sweep: for each of the outer side, the sum over its pairs, but that with itself, of
// weight times gradient of the weight. Features whose gradient a sweep sums up times that gradient are this sum.

namespace attnspec {

struct Group { int number; int64_t slot; Range live; };  // LANES of an outer tile, and the slot of the first

// Pairs of a position with itself do not decay: with strong gates they hide all others in a sum. `slot` is that of the first
// row of the tile.
ATTNSPEC_NOINLINE static void set_apart(const Sizes& s, LinearSpace& w, Group g, const Rows& here, const Rows& there,
                                        const Inner& tile, Range range, int64_t slot) {
    const int64_t shift = KEYS ? s.k_start - s.q_start : s.q_start - s.k_start;
    for (int l = g.live.begin; l < g.live.end; ++l) {
        const int64_t row = here(g.slot + l) + shift;  // of the same position on the other side
        int64_t r = row - there(slot);
        if (!there.list)
            r = r % there.step ? -1 : r / there.step;
        else
            for (r = tile.count - 1; r >= 0 && there(slot + r) != row; --r) {}
        if (r < range.begin || r >= range.end || r >= tile.count) continue;
        float& weight = w.s[r * LANES + l];
        if (weight == 0.f) continue;  // what is not seen may be no number
        for (int c = 0; c < ZS; c += W) {
            float* to = w.itself[g.number] + l * ZS + c;
            store(to, load(to) + load_any(tile.z + r * ZS + c) * weight);
        }
        weight = 0.f;
    }
}

// Adds to `crossing`, before what pairs of a position with itself have is added to the sums.
ATTNSPEC_NOINLINE static void add_itself(const LinearProblem& p, LinearSpace& w, Group g, const Rows& here, int64_t b, int64_t head,
                                         int64_t query_head) {
    float* out = w.out[g.number];
    load_transposed<ZC, ZS, SourceElem>(w.more, w, p.source, b, head, here, g.slot, g.live);
    for (int i = 0; i < ZC * LANES; i += W) {
        const vfloat sum = load(out + i);  // 0 of what no row sees, which may be no number
        store(w.more + i, sum != vfloat{} ? sum * features<OUT_MAP>(load(w.more + i)) : vfloat{});
    }
    const int64_t line = (b * p.sizes.query_heads + query_head) * (KEYS ? p.sizes.keys : p.sizes.rows);
    if constexpr (BY_CHANNEL) {
        transpose<ZS, LANES, ZS, LANES>(w.rows, w.more);
        for (int l = g.live.begin; l < g.live.end; ++l)
            for (int d = 0; d < ZC; ++d) p.crossing[(line + here(g.slot + l)) * ZC + d] += w.rows[l * ZS + d];
    } else {
        alignas(64) float sums[LANES];
        for (int c = 0; c < C; ++c) {
            vfloat sum = vfloat{};
            for (int d = 0; d < ZC; ++d) sum += load(w.more + d * LANES + c * W);
            store(sums + c * W, sum);
        }
        for (int l = g.live.begin; l < g.live.end; ++l) p.crossing[line + here(g.slot + l)] += sums[l];
    }
    transpose<LANES, ZS, LANES, ZS>(w.more, w.itself[g.number]);
    for (int i = 0; i < ZC * LANES; i += W) store(out + i, load(out + i) + load(w.more + i));
}

}  // namespace attnspec
