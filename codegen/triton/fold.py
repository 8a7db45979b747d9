"""Long lines of generated Python, folded inside brackets, at the shallowest place that fits.

>>> print(folded("if (first & second & f(third, fourth)) | fifth:", 34))
if (first & second &
        f(third, fourth)) | fifth:
"""

from __future__ import annotations

import re
from collections.abc import Iterator

WIDTH = 116
_TOKEN = re.compile(r"""(?P<text>"[^"]*"|'[^']*')|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<place>, | [&|+] )|.""")


def folded(text: str, width: int = WIDTH) -> str:
    """The text with its long lines folded; comments and docstrings stay as they are."""
    return "\n".join(part for line in text.splitlines() for part in _fold(line, width))


def _fold(line: str, width: int) -> Iterator[str]:
    body = line.lstrip()
    places = [] if body.startswith(("#", '"""')) else list(_places(line))
    pad = " " * (len(line) - len(body) + 8)
    start, lead = 0, ""
    while len(lead) + len(line) - start > width:
        ahead = [(depth, at) for depth, at in places if at > start]
        fitting = [(depth, at) for depth, at in ahead if len(lead) + at - start <= width]
        if not ahead:
            break
        depth = min(depth for depth, _ in fitting or ahead[:1])
        cut = max(at for own, at in fitting or ahead[:1] if own == depth)
        yield lead + line[start:cut].rstrip()
        start, lead = cut, pad
    yield lead + line[start:]


def _places(line: str) -> Iterator[tuple[int, int]]:
    """Where a line may be folded, with the depth of brackets there."""
    depth = 0
    for token in _TOKEN.finditer(line):
        depth += bool(token["open"]) - bool(token["close"])
        if depth and token["place"]:
            yield depth, token.end()
