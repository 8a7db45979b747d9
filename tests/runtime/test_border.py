"""Wrong calls are refused with an error that names the tensor and the sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import attnspec
from tests.support.oracle import agree, tensors


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


GOOD = (1, 4, 10, 8)
CASES = {
    "rank": ((zeros(4, 10, 8), zeros(*GOOD), zeros(*GOOD)), r"causal: q must have 4 dimensions .* not \(4, 10, 8\)"),
    "dtype": ((zeros(*GOOD, dtype=torch.float64), zeros(*GOOD), zeros(*GOOD)), "q is torch.float64"),
    "integers": ((zeros(*GOOD), zeros(*GOOD, dtype=torch.int64), zeros(*GOOD)), "k is torch.int64"),
    "mixed": ((zeros(*GOOD), zeros(*GOOD, dtype=torch.bfloat16), zeros(*GOOD)), "one dtype.*float32.*bfloat16"),
    "batch": ((zeros(2, 4, 10, 8), zeros(*GOOD), zeros(*GOOD)), r"batch sizes differ: q \(2, 4, 10, 8\), k \(1, 4"),
    "dim": ((zeros(1, 4, 10, 16), zeros(*GOOD), zeros(*GOOD)), r"one head size: q \(1, 4, 10, 16\)"),
    "length": ((zeros(*GOOD), zeros(*GOOD), zeros(1, 4, 11, 8)), "same heads and length"),
    "heads": ((zeros(1, 6, 10, 8), zeros(*GOOD), zeros(*GOOD)), "6 heads cannot be shared among 4 key heads"),
    "no heads": ((zeros(1, 0, 10, 8), zeros(1, 0, 10, 8), zeros(1, 0, 10, 8)), "0 heads"),
    "too wide": ((zeros(1, 4, 10, 300), zeros(1, 4, 10, 300), zeros(*GOOD)), "head size of q and k is 300"),
    "device": ((zeros(*GOOD).to("meta"), zeros(*GOOD), zeros(*GOOD)), "q is on meta"),
    "no tensor": (([[0.0]], zeros(*GOOD), zeros(*GOOD)), "q must be a tensor, not list"),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_tensors(name: str) -> None:
    tensors, message = CASES[name]
    with pytest.raises(attnspec.CallError, match=message):
        attnspec.compile("causal")(*tensors)  # type: ignore[call-overload]


def test_triton_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(attnspec.CallError, match='target="triton" is for tensors on a GPU; these are on the CPU'):
        attnspec.compile("causal", target="triton")(zeros(*GOOD), zeros(*GOOD), zeros(*GOOD))


def test_a_list_must_cover_the_heads() -> None:
    attend = attnspec.compile("attention a(rates = [1, 2]) { attend q % rates[h] == 0 }")
    attend(zeros(1, 2, 10, 8), zeros(1, 2, 10, 8), zeros(1, 2, 10, 8))
    with pytest.raises(attnspec.SpecError, match="a list of 2 is read at 2 for head 2 of 8"):
        attend(zeros(1, 8, 10, 8), zeros(1, 8, 10, 8), zeros(1, 8, 10, 8))


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="target must be one of auto, cpp, triton, dense"):
        attnspec.compile("causal", target="cuda")
    with pytest.raises(ValueError, match="multiples of 16"):
        attnspec.compile("causal", tile=(60, 64))
    with pytest.raises(ValueError, match="powers of two, not 48 x 64"):
        attnspec.compile("causal", target="triton", tile=(48, 64))
    with pytest.raises(attnspec.SpecError, match="widht"):
        attnspec.compile("window", widht=3)
    with pytest.raises(FileNotFoundError, match="did you mean causal"):
        attnspec.compile("casual")
    with pytest.raises(FileNotFoundError, match="no file nowhere"):
        attnspec.compile("nowhere.attn")


def test_a_divisor_must_be_positive_for_every_head() -> None:
    attend = attnspec.compile("attention a { attend (q - k) % h == 0 }")
    for use in (lambda: attend.mask(5, heads=2), lambda: attend(*(zeros(1, 2, 10, 8) for _ in range(3)))):
        with pytest.raises(attnspec.SpecError, match="a divisor is 0 for head 0"):
            use()  # type: ignore[no-untyped-call]


def test_a_list_inside_a_head_group_need_not_cover_the_other_heads() -> None:
    text = "attention a(rates = [1, 2]) { attend q == k  for h in 0..2 { attend (q - k) % rates[h] == 0 } }"
    attend = attnspec.compile(text)
    agree(attend, *tensors(40, heads=4))
    assert attend.mask(4, heads=4).sum((2, 3)).tolist() == [[16, 8, 4, 4]]


def test_wrong_sizes() -> None:
    attend = attnspec.compile("window", width=16)
    for n in (-1, 1.5, 10**30):
        with pytest.raises(ValueError, match="n must be an integer between 0 and"):
            attend.cost(n=n)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="n must be an integer between 0 and"):
            attend.mask(n=n)  # type: ignore[arg-type]


def test_a_path_object_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.attn").write_text("attention a { attend causal }")
    assert attnspec.compile(tmp_path / "a.attn").mask(2)[0, 0].int().tolist() == [[1, 0], [1, 1]]
    with pytest.raises(TypeError, match="given twice"):
        attnspec.compile("window", params={"width": 2}, width=3)


def test_parameters_of_other_libraries() -> None:
    assert attnspec.compile("window", width=np.int64(3)).mask(9).sum() == 24
    assert attnspec.compile("window", width=torch.tensor(3)).mask(9).sum() == 24
    with pytest.raises(TypeError, match=r"not 2.5|not \(1\+2j\)"):
        attnspec.compile("window", width=1 + 2j)
    with pytest.raises(attnspec.SpecError, match="E020"):
        attnspec.compile("window", width=2.5)


def test_parameters_whose_names_are_options() -> None:
    attend = attnspec.compile("attention a(tile = 3) { attend q // tile == k // tile }", params={"tile": 2})
    assert attend.mask(4)[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
