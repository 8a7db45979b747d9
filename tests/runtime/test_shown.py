"""How attentions look where people print them: a module, a repr, a notebook, dir."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import attnspec
from attnspec.nn import SpecAttention


def test_a_module_has_its_pattern_in_its_repr_and_no_state() -> None:
    layer = SpecAttention("window", width=8, target="dense")
    assert repr(layer) == "SpecAttention(window(width=8), target=dense)"
    assert "window(width=8)" in repr(torch.nn.Sequential(layer))
    assert not layer.state_dict()
    assert not list(layer.parameters())


def test_a_module_passes_everything_on() -> None:
    layer, attend = SpecAttention("packed"), attnspec.compile("packed")
    q, k, v = torch.randn(3, 1, 2, 20, 8).unbind(0)
    doc = torch.arange(20)[None] // 7
    expected, lse = attend(q, k, v, doc=doc, return_lse=True, scale=0.3)
    for other in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), SpecAttention(attend)):
        out, same = other(q, k, v, inputs={"doc": doc}, return_lse=True, scale=0.3)
        assert torch.equal(out, expected)
        assert torch.equal(same, lse)
    with pytest.raises(TypeError, match="compiled already: width"):
        SpecAttention(attend, width=3)
    with pytest.raises(attnspec.CallError, match="doc"):
        layer(q, k, v)


def test_parameters_are_in_the_repr() -> None:
    assert repr(attnspec.compile("longformer", width=64)) == "<attnspec longformer(width=64, globals=16), target auto>"


def test_notebooks_get_text_and_where_it_can_be_a_picture() -> None:
    attend = attnspec.compile("window", width=64)
    html = attend._repr_html_()
    assert "<svg " in html
    assert "attention window {" in html
    assert "q - k &lt; 64" in attend.spec._repr_html_()
    assert "depends on inputs" in attnspec.compile("packed")._repr_html_()
    assert "<svg" not in attnspec.compile("reformer")._repr_html_()
    for stage in (attend.plan, attend.relation, attend.cost(n=100)):
        assert stage._repr_html_().startswith("<pre>")


def test_dir_offers_what_there_is() -> None:
    assert {"compile", "Attention", "CallError", "read", "shipped"} <= set(dir(attnspec))
