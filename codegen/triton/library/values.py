"""What the generated functions of predicates and scores call: on scalars and on blocks of any shape alike."""

import triton
import triton.language as tl

# ---- text of generated kernels from here on ----


@triton.jit
def floor_div(a, b):
    """Division that rounds downwards, by a positive divisor."""
    rest = a % b
    return a // b - tl.where(rest < 0, 1, 0)


@triton.jit
def floor_mod(a, b):
    """The remainder of floor_div: never negative."""
    rest = a % b
    return rest + tl.where(rest < 0, b, 0)


@triton.jit
def power(a, b):
    """A ** b for a scalar b."""
    result = (a + b) * 0 + 1
    for _ in range(b):
        result = result * a
    return result


@triton.jit
def in_range(at, size):
    """0 <= at < size, as a mask for loads: the interpreter takes no scalar comparison for one."""
    return tl.full((), True, tl.int1) & (at >= 0) & (at < size)


@triton.jit
def among(row, size, inside, item):
    """Whether an integer that is not negative is one of ``size`` entries from ``row`` on."""
    possible = tl.cast(item >= 0, tl.int1) & inside
    found = possible & (item < 0)
    for at in range(size):
        found = found | (tl.load(row + at, mask=inside, other=-1) == item)
    return found & possible


@triton.jit
def sign(x):
    """-1, 0 or 1; NaN stays NaN."""
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, x))


@triton.jit
def tanh(x):
    """As in ``cpp/real.hpp``, to 6e-7, relative: exactly -1 or 1 from 8 on, so that the derivative is 0 there."""
    x = tl.where(x > 8.0, 8.0, tl.where(x < -8.0, -8.0, x))
    y = x * x
    above = 1.142843175325784e-05 * y + 0.002951024669838129
    under = 2.459213170474078e-07 * y + 0.00023866928800002902
    above = above * y + 0.12925663815255303
    under = under * y + 0.023815557860840816
    above = above * y + 0.9999998542939567
    under = under * y + 0.4625887939365475
    under = under * y + 1.0
    return tl.where(y == 64.0, x * 0.125, x * above / under)


@triton.jit
def guarded(g, x):
    """G * x, and 0 where g is: a pair that is masked adds nothing, whatever x is there."""
    return tl.where(g != 0.0, g * x, 0.0)
