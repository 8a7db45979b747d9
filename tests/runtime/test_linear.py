"""Weights that are products of features, on the CPU: compiled patterns against their dense meaning in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import attnspec
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.linear.operators import attend_linear
from attnspec.runtime.linear.plain import Plain
from attnspec.runtime.linear.work import Work
from tests.support.linear import as_dense
from tests.support.marks import slow
from tests.support.oracle import tensors

NORMALIZED = "attention a { attend causal  normalize q  normalize k  linear relu(x)  divide total }"
DOC = torch.arange(150)[None].repeat(2, 1) // 37
GATED = """attention a {{
    input gate: float[batch, heads, n]
    attend {}
    linear {}
    {}
    decay gate[b, h, t]
}}"""
CASES: dict[str, tuple[str, dict[str, Tensor]]] = {
    "elu": ("linear", {}),
    "window": ("linear_window", {}),
    "dilated": ("linear_dilated", {}),
    "documents": ("linear_documents", {"doc": DOC}),
    "bidirectional": ("performer", {}),
    "performer": ("performer_causal", {}),
    "guarded": ("performer_google", {}),
    "constant": ("tost", {}),
    "undivided": ("attention a { attend causal  linear relu(x) scale 0.3  normalize q }", {}),
    "learned": (
        """attention a {
            input w: float[heads, dim]  input floor: float[heads]  input log_scale: float[heads]
            attend causal
            linear q: exp(-x * w[h, c])
            linear k: softmax(x * exp(log_scale[h]))
            divide max(total, floor[h]) + mass * mass
            rotate rope()
        }""",
        {"w": torch.rand(4, 16), "floor": torch.rand(4), "log_scale": torch.rand(4)},
    ),
    "gaps": ("attention a { attend k < q and q % 3 == 0  linear sigmoid(x)  divide exp(-total) + 0.1 }", {}),
    "mixture": (
        "attention a { mix { branch { attend window(20) } branch times 2 { attend causal } } "
        "linear [softmax(x), softmax(-x)]  divide total }",
        {},
    ),
    "gated": ("mamba2", {"log_a": -torch.rand(2, 4, 150)}),
    "by head": ("retention", {}),
    "gated window": (GATED.format("window(70)", "elu(x) + 1", "divide total"), {"gate": -torch.rand(2, 4, 150)}),
    "gated, dilated": (
        GATED.format("dilated(20, 4)", "exp(x)", "divide total + 1.0"),
        {"gate": -torch.rand(2, 4, 150)},
    ),
    "gated, in columns": (
        GATED.format("segment(32)  attend k % 32 >= 24  within causal", "x", ""),
        {"gate": -torch.rand(2, 4, 150)},
    ),
    "gated documents": (
        """attention a {
            input doc: int[batch, n] sorted  input gate: float[batch, heads, n]
            attend causal and doc[q] == doc[k]  linear relu(x)  decay gate[b, h, t]  divide total
        }""",
        {"doc": DOC, "gate": -torch.rand(2, 4, 150)},
    ),
    "running": ("attention a { attend causal  linear favor(x, stable = running)  divide total }", {}),
}
QUICK = ("elu",)


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in CASES])
def test_features_and_divisors(name: str) -> None:
    text, inputs = CASES[name]
    as_dense(text, *tensors(150, 150, 4, 2, 2, dim_v=24), inputs=inputs)
    if not any(t.shape[-1] == 150 for t in inputs.values()):
        as_dense(text, *tensors(90, 33, 4, 4, 1, dim_v=24), inputs=inputs)


@pytest.mark.slow
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_states_that_pay_only_after_several_tiles(kv_heads: int) -> None:
    """One of 128 by 128 does not pay for any single tile of rows."""
    as_dense(CASES["window"][0], *tensors(1500, 1500, 4, kv_heads, 1, dim=128, dim_v=128))


def _gates(name: str, n: int) -> Tensor:
    """Logarithms of steps: of a kind, one for each of n positions."""
    some = torch.rand(1, 2, n)
    kinds = {"none": 0 * some, "little": -1e-3 * some, "strong": -2 - 6 * some, "stronger": -12 - 8 * some}
    kinds |= {"-60": -60 - some, "resets": torch.where(some < 0.05, float("-inf"), -0.1)}
    return {**kinds, "-60 or none": torch.where(some < 0.3, -60.0, 0.0)}[name]


@pytest.mark.parametrize("pattern", ["causal", slow("window(150)")])
@pytest.mark.parametrize("name", [*map(slow, ("-60 or none", "none", "little", "strong", "stronger", "-60", "resets"))])
def test_gradients_of_steps_however_strong_they_are(name: str, pattern: str) -> None:
    """They may be a billion times less than those of values: the largest of them is what counts."""
    torch.manual_seed(0)
    n = 500
    gate = _gates(name, n).requires_grad_()
    text = GATED.format(pattern, "elu(x) + 1", "divide total")
    given = [t.detach() for t in tensors(n, dim_v=24)]
    up = torch.randn(1, 2, n, 24)
    exact = gate.detach().double().requires_grad_()
    out = attnspec.compile(text)(*given, gate=gate)
    (got,) = torch.autograd.grad(out, gate, up)
    doubles = [t.double() for t in given]
    (want,) = torch.autograd.grad(attnspec.compile(text, target="dense")(*doubles, gate=exact), exact, up.double())
    assert float((got - want).norm() / want.norm()) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, slow(torch.float16)])
def test_types(dtype: torch.dtype) -> None:
    """Features are in float32 whatever the vectors are in."""
    as_dense("linear", *tensors(150, 150, 4, 2, dtype=dtype))


def test_the_logarithm_of_the_total() -> None:
    as_dense("linear", *tensors(150, 150, 4, 2, 2, dim_v=24), return_lse=True)


@pytest.mark.slow
def test_rows_without_keys_are_zeros() -> None:
    q, k, v = tensors(60)
    out, lse = attnspec.compile("attention a { attend k < q - 9  linear relu(x) + 1  divide total }")(
        q, k, v, return_lse=True
    )
    assert (out[:, :, :10] == 0).all()
    assert torch.equal(lse.isneginf(), torch.arange(60).expand_as(lse) < 10)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), (q, k, v)))


def test_the_operator() -> None:
    """Its schema, its shapes in a trace, torch.compile without graph breaks, and gradients of what was compiled."""
    attend = attnspec.compile("linear")
    q, k, v = tensors(150, 150, 4, 2, 2, dim_v=24)
    for totals in (True, False):
        given = [q, k, v], [], None, attend.program.encoded, totals
        torch.library.opcheck(attend_linear, given, test_utils=("test_schema", "test_faketensor"))
    whole: Any = torch.compile(lambda *x: attend(*x).square(), fullgraph=True, backend="aot_eager")
    for a, b in zip(
        *(torch.autograd.grad(f(q, k, v).sum(), (q, k, v)) for f in (whole, lambda *x: attend(*x).square())),
        strict=True,
    ):
        assert torch.equal(a, b)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(attend(q, k, v).sum(), q, create_graph=True)[0].sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16)])
def test_short_ways_to_kernels_lead_to_the_same_ones(dtype: torch.dtype) -> None:
    program = attnspec.compile("linear").program.encoded
    plain = Plain.of(program)
    assert plain is not None
    q, k, v = (t.detach() for t in tensors(150, 140, 4, 2, 2, dim_v=24, dtype=dtype))
    work = Work.of([q, k, v], [], 0.5, program)
    found = plain.forward([q, k, v], 0.5, True)
    assert found is not None
    assert all(map(torch.equal, found, work.forward(True)))
    upstream = *found, torch.randn(found[0].shape).to(dtype), torch.randn(found[1].shape)
    assert all(map(torch.equal, plain.backward([q, k, v], 0.5, *upstream), work.backward(*upstream, [])))
    for text in ("linear_documents", "performer", "retention"):
        assert Plain.of(attnspec.compile(text).program.encoded) is None, text


@pytest.mark.parametrize("spec", ["linear", slow("linear_window"), slow("linear_dilated"), slow(NORMALIZED)])
def test_memory_beyond_tensors_and_states_is_constant(spec: str) -> None:
    """Sums of weights are divided by and forgotten, but for gradients and for who asks for them."""
    attend = attnspec.compile(spec)

    def beyond(n: int, **options: Any) -> int:
        q, k, v = (t.detach() for t in tensors(n, n, 4, 2, 2, dim_v=24))
        attend(q, k, v)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            found = attend(q, k, v, **options)
        events = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore
        return sum(max(size, 0) for size in events) - (found[0] if options else found).nbytes

    assert beyond(160) == beyond(1600)
    assert beyond(1600, return_lse=True) - beyond(160, return_lse=True) >= 2 * 4 * 1440 * 4


def test_what_kernels_cannot_do_is_refused() -> None:
    q, k, v = tensors(20)
    attend = attnspec.compile("linear")
    with pytest.raises(CallError, match='target="dense"'):
        torch.func.grad(lambda x: attend(x, k, v).sum())(q)
    with pytest.raises(CallError, match="no scores of which one is the largest"):
        attend(q, k, v, return_max=True)
    with pytest.raises(attnspec.SpecError, match="E409"):
        attnspec.compile("attention a { attend causal  linear relu(x)  divide each total  decay -0.1 * c }")
    with pytest.raises(CallError, match="float32, bfloat16 and float16"):
        attend(q.double(), k.double(), v.double())
    with pytest.raises(CallError, match="never later than"):
        attnspec.compile("attention a { linear exp(x)  decay -1.0 }")(q, k, v)
    with pytest.raises(CallError, match="so it must be 0 or negative"):
        attnspec.compile("mamba2")(q, k, v, log_a=torch.ones(1, 2, 20))
    nowhere = torch.where(torch.arange(20) == 7, torch.nan, torch.zeros(1, 2, 20))
    for name, given in (("mamba2", {"log_a": nowhere}), ("forgetting", {"gate": nowhere})):
        with pytest.raises(CallError, match=r"\(0, 0, 7\).* is no number"):
            attnspec.compile(name)(q, k, v, inputs=given)
    with pytest.raises(CallError, match="gives 16 features and"):
        attnspec.compile("attention a { linear q: x  linear k: [x, x] }")(q, k, v)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [slow("linear"), slow("performer_causal"), slow("mamba2"), slow("forgetting"), slow("latte"), "retention"]
)
def test_emit_shows_the_kernels_that_run(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their whole text, of both passes: the head size is one that no other test has."""
    from click.testing import CliRunner

    from attnspec.cli.commands.emit import command
    from attnspec.codegen.cpp import kernel

    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path))
    texts: list[str] = []
    write = kernel.kernel
    monkeypatch.setattr(kernel, "kernel", lambda plan, key: texts.append(write(plan, key)) or texts[-1])
    attend, (q, k, v) = attnspec.compile(name), tensors(40, 40, 1, 1, dim=10)
    gates = {item.name: torch.full((1, 1, 40), -0.1, requires_grad=True) for item in attend.spec.inputs}
    attend(q, k, v, **gates).sum().backward()
    made = {*texts}
    for more in ((), ("--backward",)):
        done = CliRunner().invoke(command, [name, "--stage", "cpp", "--dim", "10", *more])
        assert done.output in made, done.output.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("line", ["30.0 * softplus(x)  divide total + 0.5", "1e-4 * softplus(x)  divide total + 1e-9"])
def test_sums_beyond_half_precision_are_divided_first(line: str) -> None:
    """fp16 ends at 65,504, and with few digits below 6e-5."""
    q, k, v = tensors(1500, heads=1, dim=8, dim_v=5, dtype=torch.float16)
    with torch.no_grad():
        v += 3.0
    as_dense(f"attention a {{ attend causal  linear {line} }}", q, k, v)
