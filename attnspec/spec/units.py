"""Times and large numbers for people."""

from __future__ import annotations


def seconds(value: float) -> str:
    """A time for people."""
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 999.5 else f"{value:,.0f} s"


def quantity(value: float, unit: str = "") -> str:
    """A large number for people: 1.23 G, or 1.23 GB of the unit B."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}{unit}".rstrip()
        value /= 1000
    return f"{value:.3g} Z{unit}"


def share(value: float) -> str:
    """A share that is 100% only if it is all."""
    return "over 99.9%" if 0.9995 <= value < 1.0 else f"{value:.1%}"


def count(value: int) -> str:
    """A number of things for people: exact while it can be read."""
    return f"{value:,}" if value < 10**9 else quantity(value)


def plural(number: int, what: str) -> str:
    """1 layer, 2 layers."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def beats(measured: float, least: float) -> bool:
    """Whether a time is less than the least that ceilings allow, and by more than noise."""
    return measured < 0.95 * least


BEATEN = (
    "faster than this machine's ceilings allow: they were measured while it was busy. Measure them again with "
    "`attnspec bench --ceilings`, or forget them with `attnspec bench --ceilings --forget`"
)


def ranges(numbers: tuple[int, ...]) -> str:
    """0-3, 5."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
