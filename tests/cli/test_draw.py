"""``attnspec draw``: pictures that show the structure of a pattern, with what their cells mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attnspec
from attnspec.analysis.extent import telling_length
from attnspec.analysis.figure import LEGEND, Figure
from attnspec.analysis.picture import FULL, PARTIAL
from attnspec.codegen.cost.counted import Contents
from attnspec.codegen.cost.visited import SKIPPED, visited
from attnspec.codegen.plan.choose import plan
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from tests.support.command import run

SOLID = {"dense", "rope_2d", "t5_bias"}
CAUSAL = {"alibi", "causal", "hmt", "llama3", "longrope", "memory", "mrope", "rmt", "rmt_both_ways", "rope"}
CAUSAL |= {"transformer_xl_positions", "yarn"}


def test_files(tmp_path: Path) -> None:
    svg, png = tmp_path / "mask.svg", tmp_path / "mask.png"
    assert run("draw", "window", "-o", str(svg)).stdout.endswith(
        "mask.svg: window, n = 4,096, head 0, 1024 x 1024 cells\n"
    )
    assert all(text in svg.read_text() for text in ("window, n = 4,096, head 0", "columns: keys", "some pairs"))
    run("draw", "longformer_dilated", "-o", str(png), "--head", "7", "-n", "5000", "--queries", "70")
    assert Image.open(png).size[0] > 700
    assert "must end in .svg or .png" in run("draw", "window", "-o", "mask.gif", status=2).stderr
    assert "no head 9" in run("draw", "window", "-o", str(png), "--head", "9", status=2).stderr
    assert "visits it" in run("draw", "packed", "-o", str(svg), "-n", "1k", "--tiles").stdout


def test_cells_are_where_the_axes_say() -> None:
    cells = np.zeros((4, 8), dtype=np.uint8)
    cells[1, 6] = FULL
    cells[3, 0] = PARTIAL
    image = np.asarray(Figure(cells, "title", 0, 4, 8, LEGEND).image())
    frame = image[56 : 56 + 384, 76 : 76 + 768]
    assert (frame[96:192, 576:672] == (31, 78, 140)).all()
    assert (frame[288:, :96] == (142, 180, 227)).all()
    assert (frame[:96] == 255).all()


@pytest.mark.parametrize("name", ["window", "dilated", "longformer", "sparse_strided", "neighborhood_2d", "gpt_oss"])
def test_a_length_is_chosen_that_shows_the_structure(name: str) -> None:
    spec = attnspec.read(name)
    n = min(1024, telling_length(spec))
    part = spec.mask(n)[0, 0] if n == telling_length(spec) else spec.mask(telling_length(spec), n_q=64)[0, 0]
    assert 0 < part.mean() < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", attnspec.shipped())
def test_every_shipped_spec_draws_more_than_a_solid_shape(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    run("draw", name, "-o", str(path))
    image = np.asarray(Image.open(path))[57:-73, 77:-25].astype(int)
    white = (image == 255).all(-1)
    if name in SOLID:
        assert not white.any()
        return
    assert 0.02 < white.mean() < 0.995
    rows, columns = np.indices(white.shape)
    triangle = columns / white.shape[1] > rows / white.shape[0]
    partial = (image == (142, 180, 227)).all(-1)
    assert (name in CAUSAL) == ((triangle != white).mean() < 0.02 and partial.mean() < 0.05)


@pytest.mark.slow
def test_windows_of_an_image_are_drawn_pair_by_pair(tmp_path: Path) -> None:
    text = run("draw", "swin", "-n", "3136", "-o", str(tmp_path / "swin.svg")).stdout
    assert "784 x 784 cells" in text


@pytest.mark.parametrize("name", ["window width=100", "dilated width=20 rate=4", "sparse_strided stride=32"])
def test_what_a_kernel_visits_is_a_superset_of_the_mask(name: str) -> None:
    first, *words = name.split()
    spec = attnspec.read(first, params={key: int(value) for key, value in (word.split("=") for word in words)})
    sizes = Sizes(300, 200, 2, 2, 1)
    found = visited(plan(lower(spec, 2)), sizes, 0, 0, Contents({}))
    mask = spec.mask(300, 200, 2)[0, 0] > 0
    assert mask[found == 2].all()
    assert not mask[found == SKIPPED].any()
