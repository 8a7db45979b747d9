"""Generated mask functions mean what they compute, pair by pair; what they read outside of tensors counts nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from attnspec import CallError
from attnspec.flex import spec_of
from tests.support.flex_dense import mask_of
from tests.support.flex_point import meaning

SIZES = (2, 3, 6, 7)
TABLES = {
    "doc": torch.tensor([0, 0, 1, 1, 2, 2, 2]),
    "starts": torch.tensor([0, 2, 4, 7]),
    "any_": torch.tensor([3, -1, 0, -4, 6], dtype=torch.int32),
    "few": torch.tensor([[0, 2, 1], [2, -1, 0]]),
    "one": torch.tensor([2]),
    "flags": torch.tensor([True, False, True, True, False, True, False]),
    "heads_": torch.tensor([[True, False, True]]),
}
LENGTHS = {"doc": (7,), "starts": (4,), "any_": (5,), "few": (2, 3), "one": (1,), "flags": (7,), "heads_": (1, 3)}


@dataclass(frozen=True)
class Guessed:
    """A tensor that holds something where it has no entry: PyTorch's has an error there."""

    tensor: Tensor
    beyond: int

    def __getitem__(self, at: Any) -> Tensor:
        """An entry, or a guess."""
        found = self.tensor
        outside = torch.tensor(False)
        inside = []
        for i, size in zip(at if isinstance(at, tuple) else (at,), found.shape, strict=True):
            place = torch.as_tensor(i)
            outside = outside | (place < -size) | (place >= size)
            inside.append(place % size)
        return torch.where(outside, torch.tensor(self.beyond, dtype=found.dtype), found[tuple(inside)])


def _index(number: str, size: int) -> st.SearchStrategy[str]:
    ways = ("{x}", "({x}).clamp(0, {m})", "({x}) % {n}", "({x}).abs()", "torch.where((0 <= {x}) & ({x} < {n}), {x}, 0)")
    return st.sampled_from(ways).map(lambda way: way.format(x=number, n=size, m=size - 1))


def _read(numbers: st.SearchStrategy[str], *names: str) -> st.SearchStrategy[str]:
    def entry(name: str) -> st.SearchStrategy[str]:
        at = [numbers.flatmap(lambda x, size=size: _index(x, size)) for size in LENGTHS[name]]  # type: ignore[misc]
        return st.tuples(*at).map(lambda parts: f"{name}[{', '.join(parts)}]")

    return st.sampled_from(names).flatmap(entry)


def _numbers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, st.sampled_from(["+", "-", "* 2 -", "// 2 +", "% 3 -", "// -2 -"]), inner)
    chosen = st.tuples(inner, st.sampled_from(["<", "==", ">="]), inner, inner, inner)
    return st.one_of(
        _read(inner, "doc", "starts", "any_", "few", "one"),
        two.map(lambda x: f"({' '.join(x)})"),
        chosen.map(lambda x: f"torch.where({x[0]} {x[1]} {x[2]}, {x[3]}, {x[4]})"),
        st.tuples(inner, inner).map(lambda x: f"torch.maximum({x[0]}, {x[1]})"),
    )


NUMBERS = st.recursive(st.sampled_from(["q", "k", "q", "k", "b", "h", "(q - k)"]), _numbers, max_leaves=5)
COMPARED = st.tuples(NUMBERS, st.sampled_from(["==", "<", ">=", "!="]), NUMBERS).map(lambda x: f"({' '.join(x)})")
NEAR = st.sampled_from(["(q >= k)", "((q - k).abs() < 3)", "(q < 5)"])
CONDITIONS = st.recursive(
    st.one_of(COMPARED, NEAR, _read(NUMBERS, "flags", "heads_")),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("&|^"), inner).map(lambda x: f"({' '.join(x)})"), inner.map("(~{})".format)
    ),
    max_leaves=4,
)


@pytest.mark.slow
@given(CONDITIONS)
def test_pairs_are_those_of_the_function_or_it_is_refused(source: str) -> None:
    def mask(tables: dict[str, Any]) -> Any:
        return eval(f"lambda b, h, q, k: {source}", {"torch": torch, **tables})

    try:
        found = spec_of(mask(TABLES), *SIZES)
    except CallError:
        assume(False)
    for beyond in (0, 1, 5):
        guessed = {name: Guessed(t, beyond) for name, t in TABLES.items()}
        wanted = mask_of(mask(guessed), *SIZES)
        assert torch.equal(torch.from_numpy(meaning(found, *SIZES).copy()), wanted), f"{source}\n{found.text}"
