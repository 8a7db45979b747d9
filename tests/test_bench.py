"""What the benchmark compares with is the same pattern; timings themselves are never tested."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

import attnspec
from attnspec.codegen.cost import cost
from attnspec.codegen.plan import Tile
from attnspec.codegen.roofline import Device, predict
from attnspec.codegen.tile import tile
from attnspec.lower import lower
from attnspec.runtime.bench import Setup, bench
from attnspec.runtime.clock import race
from attnspec.runtime.flex import mask_function
from attnspec.runtime.train import train
from attnspec.sizes import Sizes
from tests.strategies import Case, cases


def flex_mask(spec: attnspec.Spec, sizes: Sizes) -> torch.Tensor:
    grids = (torch.arange(s) for s in (sizes.batch, sizes.heads, sizes.n_q, sizes.n))
    b, h, q, k = torch.meshgrid(*grids, indexing="ij")
    return mask_function(spec, sizes)(b, h, q, k)


@given(cases())
def test_the_mask_function_for_flex_is_the_pattern(case: Case) -> None:
    spec = case.spec()
    sizes = Sizes(case.n, case.n_q, case.heads, case.heads, 1, spec.align == "end")
    assert torch.equal(flex_mask(spec, sizes), torch.from_numpy(spec.mask(case.n, case.n_q, case.heads)))


def test_flex_and_sdpa_compute_the_same_as_the_kernel() -> None:
    """The contenders of the benchmark agree, so that it compares like with like."""
    from attnspec.runtime import bench as module

    attend = attnspec.compile("longformer", width=40, globals=3)
    setup = Setup(Sizes(256, 256, 2, 2, 1), 32, torch.float32, False, 3)
    q, k, v, _ = module.inputs(setup)
    want = attend(q, k, v)
    for make in (module._masked, module._flex):
        torch.testing.assert_close(make(attend, setup)(q, k, v), want, atol=1e-5, rtol=1e-5)


def test_bench_names_everyone_and_why_someone_is_missing() -> None:
    attend = attnspec.compile("causal")
    setup = Setup(Sizes(64, 64, 2, 1, 1), 16, torch.float32, True, 3)
    found = bench(attend, setup, flex=True)
    assert set(found.timings) == {"attnspec", "SDPA causal", "SDPA mask"}
    assert found.missing == {"FlexAttention": "no backward on the CPU"}
    assert found.ratio("FlexAttention") is None


def test_race_interleaves_and_does_not_count_the_first_round() -> None:
    calls: list[str] = []
    ticks: list[int] = []
    found = race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, lambda: ticks.append(1))
    assert calls == ["a", "b"] * 4
    assert len(ticks) == 8
    assert all(len(t.seconds) == 3 and t.spread[0] <= t.median <= t.spread[1] for t in found.values())


def test_predictions_are_the_roofline() -> None:
    sizes = Sizes(4096, 4096, 8, 8)
    found = cost(tile(lower(attnspec.read("causal")), Tile(64, 64)), sizes, 64, 64, 4)
    assert found.pairs == 8 * 4096 * 4097 // 2
    assert found.flops == 4 * 64 * found.computed
    assert found.backward_flops * 2 == 5 * found.flops
    moved = 4 * (4 * 8 * 4096 * 64) + 4 * 8 * 4096
    assert found.bytes == moved
    fast = predict(found, Device("d", {"float32": 1e12}, 1e15, ""), "float32")
    slow = predict(found, Device("d", {"float32": 1e18}, 1e9, ""), "float32")
    assert fast is not None
    assert slow is not None
    assert (fast.bound, slow.bound) == ("compute", "memory")
    assert fast.forward == pytest.approx(found.flops / 1e12)
    assert slow.forward == pytest.approx(moved / 1e9)
    assert predict(found, Device("d", {}, 1e9, ""), "float32") is None


def test_training_learns_and_is_repeatable() -> None:
    data = bytes(range(50)) * 100
    runs = [[s.bits for s in train(data, attnspec.compile("causal"), 64, 25)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert sum(runs[0][-5:]) < sum(runs[0][:5]) / 2
    with pytest.raises(ValueError, match="at least 65 are needed"):
        next(train(b"short", attnspec.compile("causal"), 64, 1))
