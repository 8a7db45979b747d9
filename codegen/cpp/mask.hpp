// The pattern, evaluated for the pairs of a partial tile: LANES positions on the lanes against the rows of the tile.

namespace attnspec {

struct Range { int begin, end; };

// mask[row][lane] = -1 where the pattern allows the pair, 0 elsewhere and outside lanes [lanes.begin, lanes.end). Returns
// the rows that have a pair at all, rounded outwards to register blocks: nothing else of the tile needs computing.
template <class Class, bool QUERIES_ON_LANES>
ATTNSPEC_NOINLINE Range mask_of_class(int32_t* __restrict mask, int64_t lane0, Range lanes, int64_t row0, int count,
                                      int64_t head, int64_t batch, Sizes sizes) {
    const pos h = (pos)head, b = (pos)batch;
    Range live = {count, 0};
    for (int r = 0; r < count; ++r, mask += LANES) {
        const pos row = (pos)(row0 + r), lane = (pos)lane0;
        if (lanes.begin == 0 && lanes.end == LANES)
            for (int l = 0; l < LANES; ++l)
                mask[l] = -(int32_t)(bool)(QUERIES_ON_LANES ? Class::allowed(lane + l, row, h, b, sizes)
                                                            : Class::allowed(row, lane + l, h, b, sizes));
        else {
            // Positions outside the call are never shown to the pattern: it may index tensors with them.
            memset(mask, 0, LANES * sizeof(int32_t));
            for (int l = lanes.begin; l < lanes.end; ++l)
                mask[l] = -(int32_t)(bool)(QUERIES_ON_LANES ? Class::allowed(lane + l, row, h, b, sizes)
                                                            : Class::allowed(row, lane + l, h, b, sizes));
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

// The class of a head is found once per tile, outside the loops over its pairs.
template <class Pattern, bool QUERIES_ON_LANES>
static Range mask_tile(int32_t* mask, int64_t lane0, Range lanes, int64_t row0, int count, int64_t head, int64_t batch,
                       const Sizes& sizes) {
    return Pattern::visit(head, [&](auto c) {
        return mask_of_class<decltype(c), QUERIES_ON_LANES>(mask, lane0, lanes, row0, count, head, batch, sizes);
    });
}

}  // namespace attnspec
