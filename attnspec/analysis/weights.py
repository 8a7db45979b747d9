"""What two patterns say of the weights of their pairs: scores, sinks, rotations, and what else is no question of sets.

What they carry from segment to segment is among it.

It is compared as it is written once names are resolved and parameters bound: texts that differ may mean the same. (A
decay by the same factor at each step is compared as the score that it is.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from attnspec.analysis.scores import same_scores
from attnspec.spec.spec import Spec, with_values

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "order": "orders",
        "normalize": "normalization",
        "rotate": "rotations",
        "scale": "scales",
        "score": "scores",
        "sink": "sinks",
        "linear": "features",
        "divide": "divisors",
        "decay": "decays",
        "delta": "corrections",
        **dict.fromkeys(("recur", "carry", "recall", "horizon"), "segments"),
    }
)
"""The first words of lines that say how pairs weigh, or segments follow, and what a difference in them is called."""


@dataclass(frozen=True)
class Difference:
    """Lines of two patterns that are not the same; empty text where one has no such line."""

    what: str
    first: str
    second: str


def differences(first: Spec, second: Spec) -> tuple[Difference, ...]:
    """In which lines about weights, or about segments, two patterns differ.

    >>> from attnspec.check.check import check_text
    >>> a, b = (check_text(f"attention a {{ score s + {slope} * (k - q) }}") for slope in (0.5, 0.25))
    >>> print(*differences(a, b))
    Difference(what='scores', first='score s + 0.5 * (k - q)', second='score s + 0.25 * (k - q)')
    """
    mine, other = _lines(first), _lines(second)
    if first.composed or second.composed:
        found = [*_of_branches(first, second), *_unlike(mine, other, ("sinks",))]
    else:
        alike = ("scores", "decays") if mine["decays"] != other["decays"] and same_scores(first, second) else ()
        found = list(_unlike(mine, other, [what for what in mine if what not in alike]))
    if first.detached != second.detached and first.mixture and second.mixture:
        said = [f"mix{' weights detached' if spec.detached else ''}" for spec in (first, second)]
        found.append(Difference("gradients of the mixture", *said))
    if first.align != second.align and any(mine[what] for what in ("rotations", "scores", "sinks", "decays")):
        found.append(Difference("positions of queries", f"align {first.align}", f"align {second.align}"))
    return tuple(found)


def _unlike(
    mine: Mapping[str, str], other: Mapping[str, str], kinds: Iterable[str], of: str = ""
) -> Iterator[Difference]:
    yield from (Difference(what + of, mine[what], other[what]) for what in kinds if mine[what] != other[what])


def _of_branches(first: Spec, second: Spec) -> Iterator[Difference]:
    """The same branch by branch, with the lines that hold for all, where they may have lines of their own."""
    branches = [spec.alone or (spec,) for spec in (first, second)]
    counting = [spec.counting or ("",) for spec in (first, second)]
    for number, (one, two) in enumerate(zip(*branches, strict=False)):
        mine, other = ({**_lines(spec), "sinks": ""} for spec in (one, two))
        yield from _unlike(mine, other, mine, f" of branch {number}")
    for number, (said, other_said) in enumerate(zip(*counting, strict=False)):
        if said != other_said:
            yield Difference(f"the weight of branch {number}", said, other_said)
    if len(branches[0]) != len(branches[1]):
        yield Difference("numbers of branches", *(str(len(found)) for found in branches))


def _lines(spec: Spec) -> dict[str, str]:
    """The lines of each kind, one below the other."""
    lines: dict[str, list[str]] = {what: [] for what in _WORDS.values()}
    for line in str(with_values(spec)).splitlines():
        word = line.split(maxsplit=1)[0]
        if word in _WORDS:
            lines[_WORDS[word]].append(line.strip())
    return {what: "\n".join(texts) for what, texts in lines.items()}
