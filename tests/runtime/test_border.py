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
    "device": ((zeros(*GOOD).to("meta"), zeros(*GOOD), zeros(*GOOD)), "on one device; they are on meta, cpu and cpu"),
    "no tensor": (([[0.0]], zeros(*GOOD), zeros(*GOOD)), "q must be a tensor, not list"),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_tensors(name: str) -> None:
    tensors, message = CASES[name]
    with pytest.raises(attnspec.CallError, match=message):
        attnspec.compile("causal")(*tensors)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dropout_p", "no argument `dropout_p`: there is no dropout"),
        ("is_causal", "write `within causal`"),
        ("enable_gqa", "a multiple of the key heads"),
        ("attn_mask", "`attend keep"),
        ("window_size", "`window` with `width=`"),
        ("softmax_scale", "it is called `scale`"),
        ("lenght", "no input `lenght`; did you mean `length`"),
    ],
)
@pytest.mark.parametrize("target", ["auto", "dense"])
def test_arguments_of_other_functions(name: str, message: str, target: str) -> None:
    pattern = "padded" if name == "lenght" else "causal"
    with pytest.raises(attnspec.CallError, match=message):
        attnspec.compile(pattern, target=target)(*(zeros(*GOOD),) * 3, **{name: torch.tensor(1)})


def test_float64_is_dense() -> None:
    q = zeros(*GOOD, dtype=torch.float64)
    with pytest.raises(attnspec.CallError, match=r'q is torch.float64; .*target="dense" takes float64'):
        attnspec.compile("causal")(q, q, q)
    out, lse = attnspec.compile("causal", target="dense")(q, q, q, return_lse=True)
    assert out.dtype == lse.dtype == torch.float64


def test_a_learned_scale_is_not_dropped() -> None:
    q, k, v = tensors(20)
    scale = torch.tensor(0.3, requires_grad=True)
    for name in ("causal", "softcap"):
        with pytest.raises(attnspec.CallError, match=r"scale gets no gradient.*attend\(q \* scale"):
            attnspec.compile(name)(q, k, v, scale=scale)
        with pytest.raises(attnspec.CallError, match="scale is a number"):
            attnspec.compile(name)(q, k, v, scale=torch.ones(2))
    attend = attnspec.compile("causal")
    (wanted,) = torch.autograd.grad(attnspec.compile("causal", target="dense")(q, k, v, scale=scale).sum(), scale)
    (found,) = torch.autograd.grad(attend(q * scale, k, v, scale=1.0).sum(), scale)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(attend(q, k, v, scale=scale.detach()), attend(q, k, v, scale=0.3))


@pytest.mark.parametrize("name", ["causal", "alibi"])
def test_tangents_are_not_dropped(name: str) -> None:
    """Forward-mode differentiation is refused by kernels, and right in plain PyTorch."""
    q, k, v = (t.detach() for t in tensors(20, heads=8))
    attend, dense = attnspec.compile(name), attnspec.compile(name, target="dense")
    with pytest.raises(NotImplementedError, match=r'forward-mode.*target="dense"'):
        torch.func.jvp(lambda x: attend(q, x, v), (k,), (k,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(v, torch.ones_like(v))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            attend(q, k, dual)
        attend(q, k, v)  # nothing to drop
    _, tangent = torch.func.jvp(lambda x: dense(q, k, x), (v,), (torch.ones_like(v),))
    torch.testing.assert_close(tangent, torch.ones_like(v))


def test_a_parameter_that_is_called_as_an_option() -> None:
    text = "attention a(tile = 4) { attend q // tile == k // tile }"
    with pytest.raises(TypeError, match=r"goes into params=\{'tile': 8\}"):
        attnspec.compile(text, tile=8)  # type: ignore[arg-type]
    assert attnspec.compile(text, params={"tile": 8}).spec.params


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


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1e39])
def test_scales_that_float32_has_not(scale: float) -> None:
    q, k, v = torch.randn(3, 1, 1, 5, 8).unbind(0)
    with pytest.raises(attnspec.CallError, match=r"scale is .*, which is no number that float32 has"):
        attnspec.compile("causal")(q, k, v, scale=scale)
