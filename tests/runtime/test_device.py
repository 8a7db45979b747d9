"""Devices by name, and what is made ready for calls on one: tried on the CPU."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime.bench.versions import versions
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.device import DeviceError, capturing, device_of
from attnspec.runtime.prepare.example import example
from attnspec.runtime.prepare.formula import value
from attnspec.runtime.prepare.inputs import prepare
from attnspec.runtime.prepare.positions import places
from tests.support.command import read_json, run

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said where there is no GPU")


@no_gpu
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(DeviceError, match="there is no CUDA device here"):
        device_of("cuda")
    with pytest.raises(DeviceError, match="the devices are cpu and cuda"):
        device_of("tpu")
    assert not capturing()
    for words in (("bench", "window"), ("bench", "--suite"), ("bench", "--ceilings"), ("run", "window")):
        done = run(*words, "--device", "cuda", status=2)
        assert "there is no CUDA device here" in done.stderr
        assert "Traceback" not in done.stderr


def test_versions_name_what_a_measurement_depends_on() -> None:
    found = versions(torch.device("cpu"))
    assert found["torch"] == torch.__version__
    assert {"device", "triton", "date"} <= found.keys()


def test_the_element_type_follows_the_device() -> None:
    assert "bfloat16 on cuda" in " ".join(run("bench", "--help").stdout.split())
    found = read_json("bench", "window", "width=20", "-n", "64", "--no-flex", "--runs", "3")
    assert (found[0]["dtype"], found[0]["device"]) == ("float32", "cpu")


def test_inputs_must_be_where_q_is() -> None:
    spec, sizes = attnspec.read("packed"), Sizes(8, 8)
    given = {"doc": torch.zeros(1, 8, dtype=torch.int64)}
    assert prepare(spec, sizes, given, device=torch.device("cpu")).keys() == {"doc"}
    with pytest.raises(CallError, match="is on cpu, but q is on meta: move it there"):
        prepare(spec, sizes, given, device=torch.device("meta"))


ROTATED = [
    "input doc: int[batch, n] sorted attend doc[q] == doc[k] rotate rope() at (q - first(doc, q), k - first(doc, k))",
    "input pos: int[n] within causal rotate rope() at (pos[q - 3], pos[k])",
    "input pos: int[heads, n] within causal rotate rope() at (pos[h, q] * 2 + h, pos[h, k])",
    "input pos: int[batch, n] within causal rotate rope() "
    "at (if pos[b, q] > 4 then pos[b, q] + h else b, min(pos[b, k], 7))",
    "input pos: int[3, batch, n] within causal rotate rope() at (pos[pair % 3, b, q] + pair, pos[0, b, k] / 3)",
    "input pos: float[batch, n] within causal rotate rope() "
    "at (if q > 6 then exp(pos[b, q]) / 7 else q, if pos[b, k] > 0 then pos[b, k] else k / 3 + h)",
]


@pytest.mark.parametrize("body", ROTATED)
@pytest.mark.parametrize("n_q", [12, 5])
def test_positions_on_a_device_are_those_on_the_cpu(body: str, n_q: int) -> None:
    spec, sizes = attnspec.read(f"attention a {{ {body} }}"), Sizes(12, n_q, 3, 3, 2, True)
    tables = prepare(spec, sizes, example(spec, sizes, torch.Generator().manual_seed(0)))
    (rotation,) = spec.rotations
    for expr, side in ((rotation.q, "q"), (rotation.k, "k")):
        want = places(expr, side, sizes, tables, 4)
        assert isinstance(want, torch.Tensor)
        rows = range(12 - n_q, 12) if side == "q" else range(12)
        got = value(expr, sizes, tables, {side: rows, "pair": range(4)}, device=torch.device("cpu"), eager=False)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got.expand(want.shape), want, rtol=0, atol=0)


def test_tables_are_not_kept_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnspec.runtime.core.device import lasting
    from attnspec.runtime.prepare import rotate, tables

    (rotation,) = attnspec.read("rope", params={"theta": 977}).rotations
    x = torch.zeros(1, 1, 5, 8)
    monkeypatch.setattr(tables, "capturing", lambda: True)
    first = rotate.angles(x, range(5), rotation, "q")
    assert rotate.angles(x, range(5), rotation, "q")[0].data_ptr() != first[0].data_ptr()
    monkeypatch.setattr(tables, "capturing", lambda: False)
    kept = rotate.angles(x, range(5), rotation, "q")
    monkeypatch.setattr(tables, "capturing", lambda: True)
    again = rotate.angles(x, range(5), rotation, "q")
    assert again[0].data_ptr() == kept[0].data_ptr(), "what was kept before is used"
    assert torch.equal(kept[0], first[0])
    assert lasting()
    with torch._subclasses.FakeTensorMode():
        assert not lasting()
