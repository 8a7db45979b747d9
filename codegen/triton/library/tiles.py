"""What the kernels below share."""

import triton
import triton.language as tl

# ---- text of generated kernels from here on ----
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
INF: tl.constexpr = tl.constexpr(float("inf"))
EMPTY: tl.constexpr = tl.constexpr(-(1 << 31))  # in a list of positions: a slot without one


@triton.jit
def as_index(x):
    """An integer as int64, in which tiles are counted and addresses computed."""
    return tl.full((), x, tl.int64)


@triton.jit
def rows_in(rel, first, size):
    """0 <= first + rel < size for a tile's own offsets: compared in 32 bits, as these are small."""
    low = tl.minimum(tl.maximum(-first, 0), 1 << 30).to(tl.int32)
    high = tl.minimum(tl.maximum(size - first, 0), 1 << 30).to(tl.int32)
    return (rel >= low) & (rel < high)


@triton.jit
def load(at, live, GUARD: tl.constexpr):
    """Entries of a tensor; zeros where they are not live, if that may be so."""
    if GUARD:
        return tl.load(at, mask=live, other=0.0)
    return tl.load(at)


@triton.jit
def positions(listed, slot, begin, end):
    """The positions of slots in a list that holds those from begin to end; EMPTY elsewhere."""
    return tl.load(listed + (slot - begin), mask=(slot >= begin) & (slot < end), other=EMPTY)


@triton.jit
def softmax_step(s, top, total, TIMES: tl.constexpr):
    """Weights of a tile's scores, each 2^TIMES times, new maximum and sum of each row, factor of the old sum."""
    new = tl.maximum(top, tl.max(s, 1))
    base = tl.where(new == -INF, 0.0, new)
    p = (s - base[:, None]) * UNIT
    if TIMES != 0.0:
        p += TIMES
    p = tl.exp2(p)
    factor = tl.exp2((top - base) * UNIT)
    return p, new, total * factor + tl.sum(p, 1), factor


@triton.jit
def boundary(data, size, x, OVER: tl.constexpr):
    """The first place in a sorted row from which on values are at least x (more than x, if OVER)."""
    low = as_index(0)
    high = as_index(size)
    while low < high:
        middle = (low + high) // 2
        entry = tl.load(data + middle)
        if OVER:
            before = entry <= x
        else:
            before = entry < x
        low = tl.where(before, middle + 1, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def places_of(here, here_size, first, last, there, there_size):
    """The first and last place where a sorted row has a value that another has from ``first`` to ``last``."""
    first = tl.maximum(first, 0)
    last = tl.minimum(last, here_size - 1)
    inside = (first <= last) & (there_size > 0)
    low = tl.load(here + first, mask=inside, other=0)
    high = tl.load(here + last, mask=inside, other=0)
    begin = boundary(there, there_size, low, False)
    end = boundary(there, there_size, high, True) - 1
    return tl.where(inside, begin, 0), tl.where(inside, end, -1)


@triton.jit
def apart(one_lo, one_hi, other_lo, other_hi):
    """Two ranges of tiles as two that do not meet, in order: the first and last of each; the second may be empty."""
    without, alone = one_hi < one_lo, other_hi < other_lo
    low, high = tl.where(without, other_lo, one_lo), tl.where(without, other_hi, one_hi)
    other_lo, other_hi = tl.where(alone, low, other_lo), tl.where(alone, high, other_hi)
    near_hi = tl.where(other_lo < low, other_hi, high)
    far_lo = tl.maximum(low, other_lo)
    end = tl.maximum(high, other_hi)
    meet = far_lo <= near_hi + 1
    return tl.minimum(low, other_lo), tl.where(meet, end, near_hi), tl.where(meet, end + 1, far_lo), end


@triton.jit
def run_of(here, here_size, first, last, there, there_size):
    """As places_of, where the row has one value from ``first`` to ``last``; nothing (0 to -1) elsewhere."""
    inside = (first >= 0) & (last < here_size) & (first <= last) & (there_size > 0)
    low = tl.load(here + first, mask=inside, other=0)
    high = tl.load(here + last, mask=inside, other=0)
    one = inside & (low == high)
    begin = boundary(there, there_size, low, False)
    end = boundary(there, there_size, low, True) - 1
    return tl.where(one, begin, 0), tl.where(one, end, -1)


@triton.jit
def prepare(
    OUT, DO, DLSE, DELTA, o_b, o_h, o_r, o_e, g_b, g_h, g_r, g_e, n_q, heads,
    DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """For backward, of each row: delta = rowsum(dO * O) - dlse."""
    at = tl.program_id(0).to(tl.int64)
    tiles = (n_q + (ROWS - 1)) // ROWS
    rows = (at % tiles) * ROWS + tl.arange(0, ROWS)
    line = at // tiles
    h = line % heads
    b = line // heads
    live = rows < n_q
    d = tl.arange(0, WIDTH)
    mask = live[:, None] & (d < DIM)[None, :]
    o = tl.load(OUT + b * o_b + h * o_h + rows[:, None] * o_r + d[None, :] * o_e, mask=mask, other=0.0)
    g = tl.load(DO + b * g_b + h * g_h + rows[:, None] * g_r + d[None, :] * g_e, mask=mask, other=0.0)
    delta = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1)
    own = line * n_q + rows
    if DLSE is not None:
        delta -= tl.load(DLSE + own, mask=live, other=0.0)
    tl.store(DELTA + own, delta, mask=live)
