"""Functions are found again where all that they are made of is as it was, and only there."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import sys
from types import ModuleType
from typing import NamedTuple

import pytest
import torch

from attnspec import CallError
from attnspec.flex import spec_of
from attnspec.runtime.flex.known import CallSizes, pattern
from attnspec.runtime.flex.structure import structure

SIZES = CallSizes(1, 2, 40, 40)
STORE = {"width": 4}


class Listed(list):  # type: ignore[type-arg]
    """A list with attributes."""

    width = 4


class ByName(type):
    """A class of classes that make up their attributes."""

    def __getattr__(cls, name):
        if name not in STORE:
            raise AttributeError(name)
        return STORE[name]


class Made(metaclass=ByName):
    """One of them."""


class Sizes(NamedTuple):
    """A tuple that computes."""

    times: int

    @property
    def width(self):
        """What it computes."""
        return self.times * STORE["width"]


def narrow(of):
    return lambda b, h, q, k: q - k < of.width


def imports(b, h, q, k):
    import some_module_of_mine  # type: ignore[import-not-found]

    return q - k < some_module_of_mine.width


def by_itself(b, h, q, k):
    return q - k < by_itself.width


by_itself.width = 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("function", "owner"),
    [
        (narrow(listed := Listed()), listed),
        (narrow(tensor := torch.zeros(4)), tensor),
        (by_itself, by_itself),
        (narrow(Made), STORE),
        (narrow(Sizes(2)), STORE),
        (imports, module := ModuleType("some_module_of_mine")),
    ],
)
def test_a_number_that_changes_makes_another_function(function, owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module.__name__, module)
    change = STORE.__setitem__ if owner is STORE else lambda name, value: setattr(owner, name, value)
    change("width", 4)
    before = structure(function)
    assert structure(function) == before
    change("width", 9)
    assert structure(function) is None or structure(function) != before
    assert before is not None or function in (imports,)


def both(one, other):
    return lambda b, h, q, k: one[q] == other[k]


def test_views_of_one_tensor_may_be_two_tensors_later() -> None:
    doc = torch.arange(40) // 10
    other = doc.flip(0).contiguous()
    assert list(pattern(both(doc[:], doc[:]), None, SIZES).inputs) == ["one"]
    for pair in ((doc[:], other), (other, doc[:])):
        found = pattern(both(*pair), None, SIZES).inputs
        assert found["one"] is pair[0]
        assert found["other"] is pair[1]


@pytest.mark.parametrize(
    "count", [lambda t: t.nonzero().shape[0], lambda t: t.unique().numel(), lambda t: len(t[t.bool()])]
)
def test_how_many_entries_there_are_is_counted_in_each_call(count) -> None:
    marks = torch.tensor([0, 0, 1, 2])

    def near(b, h, q, k):
        return q - k < count(marks)

    before = pattern(near, None, SIZES).attention
    marks.copy_(torch.tensor([0, 0, 0, 0]))
    assert pattern(near, None, SIZES).attention is not before


LIKE = torch.zeros(2)


class Bounds:
    """Tensors that are attributes of a class."""

    widths = torch.tensor([3, 5])


def held_in_place(b, h, q, k):
    found = torch.arange(2) * 1
    return q - k < found.add_(Bounds.widths)[h]


def told_by_a_comparison(b, h, q, k):
    return q >= k if torch.allclose(Bounds.widths * 1.0, LIKE) else k >= q


def told_by_a_text(b, h, q, k):
    return q >= k if str(Bounds.widths) == str(LIKE.long()) else k >= q


@pytest.mark.parametrize(
    "function",
    [lambda b, h, q, k: q - k < Bounds.widths.max(), held_in_place, told_by_a_comparison, told_by_a_text],
)
def test_what_follows_from_tensors_without_a_name_is_computed_in_each_call(function) -> None:
    LIKE.copy_(Bounds.widths)
    before = pattern(function, None, SIZES).attention
    Bounds.widths.add_(4)
    assert pattern(function, None, SIZES).attention.spec.pred != before.spec.pred


@pytest.mark.parametrize(
    "score",
    [
        lambda s, b, h, q, k: torch.where(q >= k, s, -float("inf")),
        lambda s, b, h, q, k: s * torch.tensor([1.0, 0.5])[h],
        lambda s, b, h, q, k: s * torch.stack([s, q - k])[h],
    ],
)
def test_numbers_that_a_function_makes_are_its_own(score, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pattern(None, score, SIZES)
    monkeypatch.setattr("attnspec.runtime.flex.known.imported", None)
    assert pattern(None, score, SIZES).attention is before.attention


def test_what_is_chosen_of_what_is_computed_is_looked_at_for_other_sizes() -> None:
    def two(s, b, h, q, k):
        return torch.stack([s, s * 0.5])[h]

    pattern(None, two, SIZES)
    with pytest.raises(CallError, match="`what is computed` has 2 entries in dimension 0 and is read by `h`"):
        pattern(None, two, SIZES._replace(heads=3))


def test_functions_are_looked_at_outside_the_transforms_of_torch() -> None:
    texts = []

    def whole(x, function):
        texts.append(spec_of(function, 1, 1, 8, 8).text)
        return x * 1.0

    torch.func.grad(whole)(torch.tensor(1.0), lambda b, h, q, k: (q >= k) | (k < 7))
    assert "attend q >= k\n    attend k < 7\n" in texts[0]
    bounds = torch.tensor([[3, 4], [5, 6]])
    with pytest.raises(CallError, match="`bound`, around a function, is mapped or differentiated"):
        torch.vmap(lambda bound: whole(bound, lambda b, h, q, k: q < bound[b]))(bounds)
