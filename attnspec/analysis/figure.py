"""A picture of a mask with title, axes and legend, as SVG or as an image.

>>> import numpy as np
>>> figure = Figure(np.array([[2, 0], [1, 2]], dtype=np.uint8), "causal, n = 4", 0, 4, 4, LEGEND)
>>> figure.svg().splitlines()[-1]
'</svg>'
"""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from attnspec.analysis.picture import EMPTY, FULL, OPEN, PARTIAL

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 1024
"""Cells in each direction."""
LEGEND: Mapping[int, str] = MappingProxyType(
    {FULL: "every pair", PARTIAL: "some pairs", EMPTY: "none", OPEN: "depends on inputs"}
)
TILES: Mapping[int, str] = MappingProxyType({FULL: "full tiles", PARTIAL: "partial tiles", EMPTY: "skipped"})
"""What the cells mean, and what they do where tiles are drawn."""

_COLOURS = {EMPTY: "#ffffff", PARTIAL: "#8eb4e3", FULL: "#1f4e8c", OPEN: "#e8b86d"}
_LEVELS = 16
_LIGHT, _DARK = (0xDC, 0xE8, 0xF7), (0x4A, 0x7F, 0xC1)
"""Between these partial cells are, where the shares of their pairs are known."""
_WIDTH = 768
_LEFT, _TOP, _RIGHT, _BOTTOM, _FONT = 76, 56, 24, 72, 12


@dataclass(frozen=True, eq=False)
class Figure:
    """Cells (rows, columns) of EMPTY, PARTIAL, FULL or OPEN, with what they stand for.

    ``first`` is the position of query row 0 of ``n_q``; there are ``n`` keys. ``legend`` names the kinds of cells.
    ``shares`` says for partial cells how many of their pairs there are (0 to 1): the more, the darker.
    """

    cells: NDArray[np.uint8]
    title: str
    first: int
    n_q: int
    n: int
    legend: Mapping[int, str]
    shares: NDArray[np.float32] | None = None

    @property
    def _frame(self) -> tuple[int, int]:
        """Width and height of the cells, in pixels: as many whole ones for each as there is room for."""
        columns = self.cells.shape[1]
        width = columns * max(1, _WIDTH // columns)
        return width, max(48, min(2 * width, round(width * self.n_q / self.n)))

    @property
    def _size(self) -> tuple[int, int]:
        width, height = self._frame
        return max(_LEFT + width + _RIGHT, 460 if self.shares is None else 600), _TOP + height + _BOTTOM

    def _texts(self) -> list[tuple[float, float, str, str]]:
        """All that is written: x, y of the middle of the line, how it is aligned (start, middle, end), and the text."""
        width, height = self._frame
        below = _TOP + height
        texts: list[tuple[float, float, str, str]] = [(_LEFT, 16.0, "start", self.title)]
        texts += [(_LEFT + width * at / self.n, _TOP - 12.0, "middle", f"{at:,}") for at in _ticks(self.n, width)]
        texts += [
            (_LEFT - 8.0, _TOP + height * at / self.n_q, "end", f"{self.first + at:,}")
            for at in _ticks(self.n_q, height)
        ]
        texts += [(_LEFT + width / 2, below + 16.0, "middle", "columns: keys; rows: queries; both by position")]
        texts += [(x + 18.0, y, "start", self._name(kind)) for kind, x, y in self._key()]
        return texts

    def _name(self, kind: int) -> str:
        return self.legend[kind] + (" (darker: more)" if kind == PARTIAL and self.shares is not None else "")

    def _key(self) -> list[tuple[int, float, float]]:
        """Where the squares of the legend stand."""
        y = _TOP + self._frame[1] + 44.0
        used = [kind for kind in self.legend if kind != OPEN or bool((self.cells == OPEN).any())]
        return [(kind, _LEFT + (120.0 if self.shares is None else 190.0) * place, y) for place, kind in enumerate(used)]

    def svg(self) -> str:
        """The figure as an SVG document; the cells are an image in it, one pixel each."""
        (width, height), (whole, total) = self._frame, self._size
        png = BytesIO()
        self._cells_image().save(png, "png", optimize=True)
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{total}" viewBox="0 0 {whole} {total}" '
            f'font-family="sans-serif" font-size="{_FONT}">',
            f"<title>{escape(self.title)}</title>",
            f'<rect width="{whole}" height="{total}" fill="#fff"/>',
            f'<image x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}" preserveAspectRatio="none" '
            f'style="image-rendering:pixelated" href="data:image/png;base64,{b64encode(png.getvalue()).decode()}"/>',
            _box(_LEFT, _TOP, width, height, "none"),
        ]
        lines += [_box(x, y - 6, 12, 12, _COLOURS[kind]) for kind, x, y in self._key()]
        lines += [
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="middle">{escape(text)}</text>'
            for x, y, anchor, text in self._texts()
        ]
        return "\n".join([*lines, "</svg>", ""])

    def _cells_image(self) -> Image:
        """The cells, one pixel each, with a palette."""
        from PIL import Image

        colours = [bytes.fromhex(_COLOURS[kind][1:]) for kind in sorted(_COLOURS)]
        cells = self.cells
        if self.shares is not None:  # by the square root: rates of 1 to 64 are all told apart
            levels = np.minimum(np.sqrt(self.shares) * _LEVELS, _LEVELS - 1).astype(np.uint8)
            cells = np.where(cells == PARTIAL, len(colours) + levels, cells)
            scale = np.linspace(_LIGHT, _DARK, _LEVELS).round().astype(np.uint8)
            colours += [bytes(colour) for colour in scale]
        found = Image.fromarray(cells)
        found.putpalette(b"".join(colours))
        return found

    def image(self) -> Image:
        """The figure as an image, RGB."""
        from PIL import Image, ImageDraw, ImageFont

        width, height = self._frame
        out = Image.new("RGB", self._size, "white")
        shown = self._cells_image().convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        out.paste(shown, (_LEFT, _TOP))
        draw, font = ImageDraw.Draw(out), ImageFont.load_default(_FONT)
        draw.rectangle((_LEFT - 1, _TOP - 1, _LEFT + width, _TOP + height), outline="#888888")
        for kind, x, y in self._key():
            draw.rectangle((x, y - 6, x + 12, y + 6), fill=_COLOURS[kind], outline="#888888")
        anchors = {"start": "lm", "middle": "mm", "end": "rm"}
        for x, y, anchor, text in self._texts():
            draw.text((x, y), text, fill="black", font=font, anchor=anchors[anchor])
        return out


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="#888"/>'


def _ticks(length: int, pixels: int) -> list[int]:
    """Round positions, at most one for 80 pixels."""
    most = max(1, pixels // 80)
    return list(range(0, length, next(1 << power for power in itertools.count() if length <= most << power)))
