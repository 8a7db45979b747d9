"""What the benchmark compares with is the same pattern; timings themselves are never tested."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

import attnspec
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.cost.roofline import Device, predict
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.tiles import Tile
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from attnspec.runtime.bench.clock import race
from attnspec.runtime.bench.peers import Making, bias, flex, masked
from attnspec.runtime.bench.race import bench
from attnspec.runtime.bench.setup import Setup, examples, inputs
from attnspec.runtime.bench.verify import results_of, sampled, verify
from attnspec.runtime.dense.softmax import dense
from attnspec.runtime.expressions.functions import mask_function, score_function, why_not
from attnspec.runtime.expressions.real import real
from attnspec.runtime.modules.byte_model import train
from attnspec.runtime.prepare.example import example
from attnspec.runtime.prepare.inputs import prepare
from attnspec.spec.real import Score, Total
from tests.support.strategies import Case, cases

Tables = dict[str, torch.Tensor]


def grid(sizes: Sizes) -> tuple[torch.Tensor, ...]:
    grids = (torch.arange(s) for s in (sizes.batch, sizes.heads, sizes.n_q, sizes.n))
    return torch.meshgrid(*grids, indexing="ij")


def flex_mask(spec: attnspec.Spec, sizes: Sizes, tables: Tables | None = None) -> torch.Tensor:
    return mask_function(spec, sizes, tables)(*grid(sizes))


@given(cases())
def test_the_mask_function_for_flex_is_the_pattern(case: Case) -> None:
    spec = case.spec()
    assert torch.equal(flex_mask(spec, case.sizes()), torch.from_numpy(spec.mask(case.n, case.n_q, case.heads)))


@pytest.mark.slow
def test_flex_and_sdpa_compute_the_same_as_the_kernel() -> None:
    """The contenders of the benchmark agree, so that it compares like with like."""
    attend = attnspec.compile("longformer", width=40, globals=3)
    setup = Setup(Sizes(256, 256, 2, 2, 1), 32, torch.float32, False, 3)
    q, k, v, _ = inputs(setup)
    want = attend(q, k, v)
    for make in (masked, flex):
        torch.testing.assert_close(make(Making(attend, setup, {}))(q, k, v), want, atol=1e-5, rtol=1e-5)


INPUTS = {
    "documents": "input doc: int[batch, n] sorted attend doc[q] == doc[k] and k <= q",
    "document-local": (
        "input doc: int[n] offsets attend window(20) at (q - first(doc, q), k - first(doc, k)) within q <= last(doc, k)"
    ),
    "lengths": "input length: int[batch] within k < length",
    "outside": "input doc: int[batch, n] attend doc[q - 7] != doc[k + 3] attend not doc[k + 3] >= 0",
    "lists": (
        "input top: int[batch, heads, 8, 2] attend k // 8 in top[b, h, q // 8] attend k // 8 not in top[1, 0, q // 8]"
    ),
    "flags": "input keep: bool[n // 8, n // 8] attend keep[q // 8, k // 8] attend keep[q, k]",
    "random": "input r: int[n // 8, 2] random(0..n // 8, 7) attend k // 8 in r[q // 8]",
    "a choice by an input": "input doc: int[n] attend [5, 6, 7][doc[q]] == k attend (if doc[k] > 3 then q else k) < 9",
    "axes": "axis token[n] axis memory[4] token -> token: causal token -> memory: true memory -> memory: q == k",
}


def of(body: str, n: int, heads: int = 2, batch: int = 2) -> tuple[attnspec.Spec, Sizes, Tables]:
    """A pattern, the sizes of a call, and example inputs."""
    spec = attnspec.read(f"attention a {{ {body} }}")
    m = n - 4 if spec.axes else None
    sizes = Sizes(n, n, heads, heads, batch, spec.align == "end", m)
    return spec, sizes, example(spec, sizes, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("body", INPUTS.values(), ids=INPUTS)
def test_the_mask_function_reads_inputs(body: str) -> None:
    spec, sizes, given = of(body, 64)
    arrays = {name: t.numpy() for name, t in given.items()}
    want = torch.from_numpy(spec.mask(64, 64, 2, 2, inputs=arrays))
    assert torch.equal(flex_mask(spec, sizes, prepare(spec, sizes, given)).expand(want.shape), want)
    assert want.any()


SCORES = (
    "score s + alibi_slope(h, heads) * (k - q)",
    "score softcap(s, 5.0)",
    "input table: float[heads, 9] score s + table[h, clamp(k - q + 4, 0, 8)]",
    "input table: float[heads, 8] score s + table[h, t5_bucket(k - q, 8, 32, true)]",
    "input steps: float[batch, 7] score s * steps[b, q] + steps[b, k - 3]",
    "input doc: int[n] sorted score if doc[q] == doc[k] then s else s - 2 * |q - k|",
    "score s + [3, 1, 4][q % 4] / 2",
)


@pytest.mark.parametrize("line", SCORES)
def test_the_score_function_for_flex_is_the_score_line(line: str) -> None:
    spec, sizes, given = of(f"attend q >= 0 {line}", 12)
    tables = prepare(spec, sizes, given)
    score = torch.randn(sizes.batch, sizes.heads, 12, 12, generator=torch.Generator().manual_seed(1))
    b, h, q, k = (t.numpy() for t in grid(sizes))
    arrays = {f"{name}[]": t.numpy() for name, t in tables.items()}
    env = {**sizes.parameters(0, 0), **arrays, "b": b, "h": h, "q": q, "k": k}
    written = score_function(spec, sizes, tables)
    assert written is not None
    torch.testing.assert_close(written(score, *grid(sizes)), real(spec.score, env, tables, score))


@pytest.mark.slow  # FlexAttention takes seconds to compile
@pytest.mark.parametrize(
    "body",
    [
        "attend window(40) score s + alibi_slope(h, heads) * (k - q)",
        "attend window(40) score softcap(s, 5.0) scale 0.3",
        "input top: int[batch, heads, n // 64, 1] attend k // 64 in top[b, h, q // 64] attend q == k",
    ],
)
def test_contenders_agree_where_there_are_scores_and_inputs(body: str) -> None:
    attend = attnspec.compile(f"attention a {{ {body} }}")
    setup = Setup(Sizes(256, 256, 2, 2, 1), 32, torch.float32, False, 3)
    given = examples(attend.spec, setup)
    q, k, v, _ = inputs(setup)
    want = attend(q, k, v, return_lse=False, **given)
    contenders = [flex] if bias(attend.spec) is None else [masked, flex]
    for make in contenders:
        torch.testing.assert_close(make(Making(attend, setup, given))(q, k, v), want, atol=1e-5, rtol=1e-5)


def test_what_peers_cannot_express_is_said() -> None:
    cannot = {
        "attend causal sink 1.0": "cannot express a sink",
        "mix w in [4, 8] { attend window(w) }": "cannot express a mixture",
        "order by lsh(buckets = 4) attend q.bucket == k.bucket": "cannot express a computed order",
    }
    for body, reason in cannot.items():
        assert why_not(of(body, 16)[0]) == reason
    found = bench(attnspec.compile("attention a { attend causal sink 1.0 }"), _setup(), flex=True)
    assert found.missing == dict.fromkeys(("SDPA mask", "FlexAttention"), "cannot express a sink")
    capped = bench(attnspec.compile("attention a { attend causal score softcap(s, 9.0) }"), _setup(), flex=False)
    assert capped.missing["SDPA mask"] == "cannot express its score lines"


def _setup() -> Setup:
    return Setup(Sizes(64, 64, 2, 2, 1), 16, torch.float32, False, 3)


def test_a_bias_is_what_is_added_to_the_score() -> None:
    assert bias(of("attend causal", 16)[0]) == ()
    assert bias(of("attend causal score softcap(s, 5.0)", 16)[0]) is None
    assert bias(of("attend causal score s + s", 16)[0]) is None
    spec = of("attend causal score s + (k - q) * 0.5", 16)[0]
    added = bias(spec)
    assert added
    assert Score() not in added
    assert isinstance(spec.score, Total)


def test_preparation_is_measured_where_there_are_inputs() -> None:
    assert bench(attnspec.compile("causal"), _setup(), flex=False).preparation is None
    text = "attention a { input doc: int[batch, n] sorted attend doc[q] == doc[k] }"
    found = bench(attnspec.compile(text), _setup(), flex=False)
    assert found.preparation is not None
    assert len(found.preparation.seconds) == 3
    assert found.share is not None
    assert found.share > 0


EXACT = {
    "mixture": "mix (w, r) in [(8, 1), (16, 2)] { attend causal and q // w == k // w and k % r == 0 }",
    "detached": "mix weights detached { branch { attend window(5) } branch times 2 { attend k % 8 == 0 } } sink 0.5",
    "sink": "input logit: float[heads] attend window(9) sink logit[h]",
    "scores": (
        "input slope: float[heads] attend window(9) and q > 3 score s + slope[h] * (k - q) score softcap(s, 3.0) "
        "rotate rope(theta = 100) scale 0.4"
    ),
    "a score of live pairs only": "attend k < q score s + log(q - k)",
    "documents": "input doc: int[batch, n] sorted attend doc[q] == doc[k] normalize q normalize k",
    "order": (
        "order by lsh(buckets = 4, rounds = 2) "
        "attend q.bucket == k.bucket and (q != k or q.slot == 3) and 0 <= q.slot // 8 - k.slot // 8 <= 1"
    ),
}


@pytest.mark.parametrize("body", EXACT.values(), ids=EXACT)
def test_verification_in_blocks_is_the_dense_oracle(body: str) -> None:
    """What ``attnspec run`` compares kernels with, against the whole matrix at once."""
    from attnspec.runtime.bench import verify as module
    from attnspec.runtime.dense.pairs import counted
    from attnspec.runtime.prepare.order import hash_buckets

    spec, sizes, given = of(body, 40)
    generator = torch.Generator().manual_seed(3)
    q, k, v, dout = (torch.randn(2, 2, 40, 8, generator=generator, dtype=torch.float64) for _ in range(4))
    dout[1:] = 0
    given = {name: t.double().requires_grad_() if t.is_floating_point() else t for name, t in given.items()}
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    ready = prepare(spec, sizes, given, real=torch.float64)
    more = {} if spec.order is None else {"buckets": hash_buckets(q, spec.order)}
    plain = {name: t.detach() for name, t in {**given, **more}.items()}
    out, _ = dense(spec, *leaves, None, ready, counted(spec, sizes, plain), sizes)
    learned = {name: t for name, t in given.items() if t.is_floating_point()}
    gradients = torch.autograd.grad(out, [*leaves, *learned.values()], dout)
    names = ("dq", "dk", "dv", *(f"d{name}" for name in learned))
    results = {"out": out.detach(), **dict(zip(names, gradients, strict=True))}
    block, module._BLOCK = module._BLOCK, 40 * 7  # several blocks, the last one short
    module.TOLERANCE[torch.float64] = 1e-10
    try:
        found = verify(spec, sizes, (q, k, v, dout), results, given, (0, 1))
    finally:
        module._BLOCK = block
        del module.TOLERANCE[torch.float64]
    assert found.agrees, found.errors
    assert set(found.errors) == set(results)
    assert found.heads == (0, 1)


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
    found = cost(plan(lower(attnspec.read("causal")), Tile(64, 64)), sizes, 64, 64, 4)
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


def test_a_budget_ends_rounds_for_those_who_are_slow() -> None:
    clock = iter([1.0, 50.0, 1.0, 1.0, 1.0])
    found = race({"fast": lambda: None, "slow": lambda: None}, 3, clock=lambda _: next(clock), budget=40.0)
    assert found["slow"].seconds == (50.0,)
    assert found["fast"].seconds == (1.0, 1.0, 1.0)


def test_rows_are_sampled_only_in_long_calls() -> None:
    assert sampled(2048) == (slice(0, 2048),)
    blocks = sampled(10_003)
    rows = [row for block in blocks for row in range(block.start, block.stop)]
    assert rows == sorted(set(rows))
    assert (rows[0], rows[-1]) == (0, 10_002)
    assert 400 < len(rows) <= 512


def test_sampled_rows_find_a_wrong_result() -> None:
    spec, sizes = attnspec.read("window", params={"width": 9}), Sizes(2100, 2100, 1, 1)
    q, k, v, dout = (torch.randn(1, 1, 2100, 8, generator=torch.Generator().manual_seed(i)) for i in range(4))
    rows = sampled(2100)
    looked = torch.zeros(2100, 1)
    for block in rows:
        looked[block] = 1
    call = attnspec.compile("window", width=9), (q, k, v, dout * looked), {}
    results = results_of(*call)
    assert verify(spec, sizes, call[1], results, {}, (0,), blocks=rows).agrees
    for name in results:
        broken = {**results, name: results[name].clone()}
        broken[name][0, 0, 2099] += 0.1
        assert not verify(spec, sizes, call[1], broken, {}, (0,), blocks=rows).agrees
