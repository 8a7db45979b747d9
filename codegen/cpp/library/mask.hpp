// The pattern, evaluated for the pairs of a partial tile: LANES slots on the lanes against the rows of the tile.

namespace attnspec {

struct Range { int begin, end; };

// mask[row][lane] = -1 where the pattern allows the pair, 0 elsewhere and outside lanes [lanes.begin, lanes.end). Returns
// the rows that have a pair at all, rounded outwards to register blocks: nothing else of the tile needs computing.
template <class Pass, bool QUERIES_ON_LANES>
ATTNSPEC_NOINLINE Range mask_tile(int32_t* __restrict mask, const Place& at, int64_t lane0, Range lanes, int64_t row0, int count,
                                  int64_t head, int64_t entry, const Sizes& all) {
    const Sizes sizes = all;
    const Positions<Pass> positions(at);
    const pos h = (pos)head, b = (pos)entry;
    Range live = {count, 0};
    for (int r = 0; r < count; ++r, mask += LANES) {
        const pos row = (pos)(row0 + r), lane = (pos)lane0;
        const pos row_at = QUERIES_ON_LANES ? positions.key(row) : positions.query(row);
        const bool whole = lanes.begin == 0 && lanes.end == LANES;
        if constexpr (Pass::READS) {
            if (whole) {
                for (int c = 0; c < C; ++c) {
                    const vpos x = counting() + lanes_of((pos)(lane + c * W));
                    const vpos at_x = QUERIES_ON_LANES ? positions.queries_from(lane + c * W) : positions.keys_from(lane + c * W);
                    vint on;
                    if constexpr (QUERIES_ON_LANES)
                        on = Pass::allowed_lanes(at_x, row_at, x, row, h, b, sizes);
                    else
                        on = Pass::allowed_lanes(row_at, at_x, row, x, h, b, sizes);
                    *(vint*)(mask + c * W) = on;
                }
            }
        }
        const auto allowed = [&](int l) ATTNSPEC_LAMBDA {
            const pos x = lane + l;
            return QUERIES_ON_LANES ? Pass::allowed(positions.query(x), row_at, x, row, h, b, sizes)
                                    : Pass::allowed(row_at, positions.key(x), row, x, h, b, sizes);
        };
        if (whole) {
            if constexpr (!Pass::READS)
                for (int l = 0; l < LANES; ++l) mask[l] = -(int32_t)(bool)allowed(l);
        } else {
            // Positions outside the call are never shown to the pattern: it may index tensors with them.
            memset(mask, 0, LANES * sizeof(int32_t));
            for (int l = lanes.begin; l < lanes.end; ++l) mask[l] = -(int32_t)(bool)allowed(l);
        }
        vint seen = vint{};
        for (int c = 0; c < C; ++c) seen |= *(const vint*)(mask + c * W);
        if (any(seen)) {
            if (live.end == 0) live.begin = r;
            live.end = r + 1;
        }
    }
    const int padding = round_up(count, R) - count;
    memset(mask, 0, padding * LANES * sizeof(int32_t));
    return {live.begin / R * R, round_up(live.end, R)};
}

}  // namespace attnspec
