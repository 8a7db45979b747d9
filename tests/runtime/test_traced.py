"""torch.compile, torch.export and AOTInductor: what they make of a pattern is eager's, for every length and batch."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import attnspec
from attnspec.codegen.expressions.reads import names
from attnspec.runtime import operators as operator
from attnspec.runtime.attention import Attention
from attnspec.runtime.prepare.operator import made_names, ready_operator
from tests.support.marks import slow

HEADS, KV_HEADS, DIM = 4, 2, 16
SIZES = ((40, 3), (55, 3), (70, 3), (70, 5), (85, 6))  # lengths that the axes below can have, and batches

# Each kind of thing that stands around a kernel by itself; `all` has most of them.
TEXTS: Mapping[str, str] = {
    "mask": "attend causal",
    "integers": "input doc: int[batch, n] sorted  attend causal and doc[q] == doc[k]",
    "offsets": "input starts: int[batch, n] offsets  attend causal and starts[q] == starts[k]",
    "lengths": "input length: int[batch]  attend k < length[b]",
    "booleans": "input keep: bool[batch, heads, n // 5]  attend keep[b, h, k // 5] or q == k",
    "drawn": "input r: int[batch, n] random(0..4, 3)  attend r[b, q] == r[b, k]",
    "scores": "input slope: float[heads]  input bias: float[batch, n]  attend causal  "
    "score s + slope[h] * (k - q) + bias[b, k]",
    "lists": "attend causal  score s + [0.5, 0.25, 0.0, -1.0][h] * (k - q)  sink [0.5, -1.0, 2.0, 0.0][h]",
    "slopes": "attend causal  score s + alibi_slope(h, heads) * (k - q)",
    "order": "order by lsh(buckets = 4, rounds = 2)  attend q.slot // 8 - k.slot // 8 in 0..2  within causal  "
    "normalize k",
    "rotation": "attend causal  rotate rope()",
    "positions": "input doc: int[batch, n] sorted  attend causal and doc[q] == doc[k]  "
    "rotate xpos() at (q - first(doc, q), k - first(doc, k))",
    "sink": "input far: float[n]  attend causal  sink far[q] * (if q > 9 then exp(far[q - 9]) else 1.0)",
    "axes": "axis token[n]  axis pooled[(n + 3) // 4]  token -> token: causal  pooled -> token: q == k // 4",
    "branches": "mix (w, r) in [(8, 1), (32, 2)] weights detached { attend dilated(w, r) }",
    "own lines": "input slope: float[heads]  input far: float[n]  "
    "mix { branch { attend causal  score s + slope[h] * (k - q)  rotate rope() } "
    "branch times 2 { attend |q - k| < 9  normalize k } }  sink slope[h] + far[q]",
    "all": "input doc: int[batch, n] sorted  input keep: bool[batch, heads, n // 5]  input slope: float[heads]  "
    "input far: float[n]  attend causal and doc[q] == doc[k]  attend keep[b, h, k // 5]  "
    "score s + slope[h] * (k - q)  rotate rope() at (q - first(doc, q), k - first(doc, k))  "
    "sink slope[h] * (if q > 9 then exp(far[q - 9]) else 1.0)",
}
# Of each input: what it holds, and which of its dimensions vary.
INPUTS: Mapping[str, tuple[Callable[..., Tensor], dict[int, str]]] = {
    "doc": (lambda n, batch, random: torch.randint(0, 5, (batch, n), generator=random).sort().values, {0: "b", 1: "n"}),
    "starts": (lambda n, batch, random: torch.tensor([[0, n // 3, n // 2, n]] * batch), {0: "b"}),
    "length": (lambda n, batch, random: torch.randint(1, n, (batch,), generator=random), {0: "b"}),
    "keep": (
        lambda n, batch, random: torch.rand(batch, HEADS, n // 5, generator=random) > 0.5,
        {0: "b", 2: "blocks"},
    ),
    "slope": (lambda n, batch, random: torch.randn(HEADS, generator=random), {}),
    "bias": (lambda n, batch, random: torch.randn(batch, n, generator=random), {0: "b", 1: "n"}),
    "far": (lambda n, batch, random: torch.randn(n, generator=random), {0: "n"}),
}


class Layer(torch.nn.Module):
    """An attention with something before and after it."""

    def __init__(self, attend: Attention) -> None:
        super().__init__()
        self.attend = attend

    def forward(self, q: Tensor, k: Tensor, v: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What goes to the attention and what comes from it are changed."""
        out, lse = self.attend(q * 1.5, k, v, return_lse=True, inputs=inputs)
        return out + 1, lse


def layer(name: str) -> Layer:
    return Layer(attnspec.compile(f"attention a {{ {TEXTS[name]} }}"))


def call(of: Layer, n: int, batch: int, gradients: bool = True) -> tuple[Any, ...]:
    """The arguments of a layer."""
    random = torch.Generator().manual_seed(n + batch)
    kv_heads = HEADS if of.attend.spec.order else KV_HEADS
    vectors = [torch.randn(batch, heads, n, DIM, generator=random) for heads in (HEADS, kv_heads, kv_heads)]
    declared = [i.name for i in of.attend.spec.inputs if i.random is None]
    inputs = {name: INPUTS[name][0](n, batch, random) for name in declared}
    for t in (*vectors, *inputs.values()):
        t.requires_grad_(gradients and t.is_floating_point())
    return *vectors, inputs


def results(of: Callable[..., tuple[Tensor, Tensor]], given: tuple[Any, ...]) -> list[Tensor]:
    """Output, log-sum-exp and the gradients of all that is learned."""
    out, lse = of(*given)
    sources = [t for t in (*given[:3], *given[3].values()) if t.requires_grad]
    return [out, lse, *torch.autograd.grad(out.square().sum() + lse.cos().sum(), sources)]


def agrees(of: Callable[..., Any], eager: Layer, n: int, batch: int) -> None:
    given = call(eager, n, batch)
    torch.testing.assert_close(results(of, given), results(eager, given), atol=5e-5, rtol=5e-5)


def shapes(of: Layer, dims: Mapping[str, Any]) -> tuple[Any, ...]:
    """What torch.export is told of dimensions that vary."""
    given = {i.name: INPUTS[i.name][1] for i in of.attend.spec.inputs if i.random is None}
    vector = {0: dims["b"], 2: dims["n"]}
    return vector, vector, vector, {name: {at: dims[d] for at, d in which.items()} for name, which in given.items()}


@pytest.mark.parametrize("name", [name if name == "lists" else slow(name) for name in TEXTS])
def test_compiled(name: str) -> None:
    """The second length makes a graph for all lengths, the second batch one for all batches; then there is no more."""
    torch.compiler.reset()
    counter, eager = CompileCounterWithBackend("aot_eager"), layer(name)
    whole = torch.compile(eager, fullgraph=True, backend=counter)
    for (n, batch), graphs in zip(SIZES, (1, 2, 2, 3, 3), strict=True):
        agrees(whole, eager, n, batch)
        assert counter.frame_count == graphs


@pytest.mark.parametrize("name", [slow(name) for name in TEXTS])
def test_compiled_dynamic(name: str) -> None:
    """Where dimensions are said to vary there is one graph, and none of them is fixed or bounded by what is traced."""
    for marked in (False, True):
        torch.compiler.reset()
        counter, eager = CompileCounterWithBackend("aot_eager"), layer(name)
        whole = torch.compile(eager, fullgraph=True, backend=counter, dynamic=None if marked else True)
        given = call(eager, *SIZES[0])
        if marked:
            which = _flat(shapes(eager, {"b": 0, "n": 0, "blocks": 0}))
            for t, dims in zip((*given[:3], *given[3].values()), which, strict=True):
                for at in dims:
                    torch._dynamo.mark_dynamic(t, at)
        torch.testing.assert_close(results(whole, given), results(eager, given), atol=5e-5, rtol=5e-5)
        for n, batch in SIZES[1:]:
            agrees(whole, eager, n, batch)
        assert counter.frame_count == 1


def _flat(dims: tuple[Any, ...]) -> list[dict[int, Any]]:
    return [*dims[:3], *dims[3].values()]


@pytest.mark.parametrize("strict", [False, slow(True)])
@pytest.mark.parametrize("name", [name if name in ("mask", "axes") else slow(name) for name in TEXTS])
def test_exported(name: str, strict: bool) -> None:
    """Exported without gradients, saved and loaded: for every length and batch, and gradients all the same."""
    eager, dims = layer(name), {d: torch.export.Dim(d) for d in ("b", "n", "blocks")}
    exported = torch.export.export(
        eager, call(eager, *SIZES[0], gradients=False), dynamic_shapes=shapes(eager, dims), strict=strict
    )
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file)
    agrees(exported.module(), eager, *SIZES[1])
    for n, batch in SIZES[2:]:
        agrees(loaded.module(), eager, n, batch)


@pytest.mark.slow
def test_loaded_elsewhere(tmp_path: Path) -> None:
    """A process that imports what compiles has the operators."""
    eager = layer("all")
    given = call(eager, *SIZES[0], gradients=False)
    torch.export.save(torch.export.export(eager, given), tmp_path / "layer.pt2")
    torch.save((given, eager(*given)), tmp_path / "given.pt")
    text = (
        "import sys, torch; from attnspec import compile; given, want = torch.load(sys.argv[1] + '/given.pt'); "
        "got = torch.export.load(sys.argv[1] + '/layer.pt2').module()(*given); torch.testing.assert_close(got, want)"
    )
    subprocess.run([sys.executable, "-c", text, str(tmp_path)], check=True)


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor wants a C++ compiler")
@pytest.mark.parametrize("name", [slow(name) for name in TEXTS])
def test_ahead_of_time(name: str, tmp_path: Path) -> None:
    eager = layer(name)
    dims = dict.fromkeys(("b", "n", "blocks"), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        exported = torch.export.export(
            eager, call(eager, *SIZES[0], gradients=False), dynamic_shapes=shapes(eager, dims)
        )
        path = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "layer.pt2"))
        whole = torch._inductor.aoti_load_package(path)
        for n, batch in SIZES:
            given = call(eager, n, batch, gradients=False)
            torch.testing.assert_close(tuple(whole(*given)), eager(*given), atol=5e-5, rtol=5e-5)


def test_compiled_dense_breaks_the_graph() -> None:
    """Masks are evaluated in Python."""
    attend, (q, k, v, inputs) = attnspec.compile("packed", target="dense"), call(layer("integers"), 20, 1)
    torch.testing.assert_close(torch.compile(attend, backend="eager")(q, k, v, **inputs), attend(q, k, v, **inputs))


LOOKED_AT: dict[str, Callable[..., Tensor]] = {
    "weights": lambda attend, q, k, given: attend.weights(q, k, rows=[0, -1], inputs=given),
    "column_sums": lambda attend, q, k, given: attend.column_sums(q, k, inputs=given),
    "rotated": lambda attend, q, k, given: attend.rotated(q, k, inputs=given)[1],
    "frequencies": lambda attend, q, k, given: q * attend.frequencies(8, **given)[0].inv_freq.sum(),
}


@pytest.mark.parametrize("name", LOOKED_AT)
def test_looking_breaks_the_graph(name: str) -> None:
    text = "attention a { input f: float[4]  attend causal  rotate rope(frequencies = f) at (q, k / 2) }"
    attend, look, f = attnspec.compile(text), LOOKED_AT[name], torch.rand(4, requires_grad=True)
    q, k = torch.randn(2, 1, 2, 20, 8).unbind(0)

    def sums(q: Tensor, k: Tensor) -> Tensor:
        return look(attend, q, k, {"f": f}).float().sin() + 1

    torch.testing.assert_close(torch.compile(sums, backend="eager")(q, k), sums(q, k))


def test_compiled_largest_scores_of_one_tensor() -> None:
    attend, (q, *_) = attnspec.compile("causal"), call(layer("mask"), 20, 1)
    whole = torch.compile(attend, fullgraph=True, backend="aot_eager")
    got, want = (f(q, q, q, return_max=True) for f in (whole, attend))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(out.sin().sum(), q) for out, _ in (got, want)))


def test_wrong_inputs_are_named_when_a_graph_runs() -> None:
    """What a trace cannot know: values, and shapes of other calls."""
    eager = layer("scores")
    dims = {d: torch.export.Dim(d) for d in ("b", "n")}
    q, k, v, inputs = call(eager, *SIZES[0], gradients=False)
    found = shapes(eager, dims)
    found[3]["bias"][1] = torch.export.Dim("m")
    exported = torch.export.export(eager, (q, k, v, inputs), dynamic_shapes=found).module()
    with pytest.raises(attnspec.CallError, match=r"`bias` has the shape \(3, 41\)"):
        exported(q, k, v, {**inputs, "bias": torch.zeros(3, 41)})
    eager = layer("integers")
    q, k, v, inputs = call(eager, *SIZES[0], gradients=False)
    exported = torch.export.export(eager, (q, k, v, inputs)).module()
    with pytest.raises(attnspec.CallError, match="sorted"):
        exported(q, k, v, {"doc": inputs["doc"].flip(1)})


@pytest.mark.parametrize("clause", ["score s + [0.5, 0.25][h] * (k - q)", "sink [0.5, 0.25][h]"])
def test_lists_that_are_too_short_are_named_when_a_graph_runs(clause: str) -> None:
    attend = attnspec.compile(f"attention a {{ attend causal  {clause} }}")
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    q, k, v, _ = call(layer("mask"), 20, 1)
    with pytest.raises(attnspec.CallError, match="no entry for head 2"):
        compiled(q, k, v)


def test_wrong_inputs_are_named_when_a_graph_is_made() -> None:
    q, k, v, inputs = call(eager := layer("integers"), *SIZES[0], gradients=False)
    for given, message in (
        ({}, "`doc` is missing"),
        ({"doc": inputs["doc"].float()}, "must hold integers"),
        ({"doc": inputs["doc"][:, 1:]}, "has the shape"),
        ({"doc": inputs["doc"], "docs": inputs["doc"]}, "did you mean `doc`"),
    ):
        with pytest.raises(Exception, match=message):
            torch.export.export(eager, (q, k, v, given))


def test_the_rules_of_operators() -> None:
    """torch.library.opcheck: schemas, shapes, gradients and traces, static and dynamic."""
    attend = layer("all").attend
    program = attend.program.encoded
    q, k, v, inputs = call(Layer(attend), 20, 1)
    given = [t.detach() for t in (q, k, *inputs.values())]
    torch.library.opcheck(ready_operator, (given, list(inputs), program, False))
    made = ready_operator(given, list(inputs), program, False)
    found = dict(zip(made_names(attend.spec), made, strict=True))
    whole = [q.detach(), k.detach(), *found.values()]
    torch.library.opcheck(torch.ops.attnspec.angles.default, (whole, list(found), program))
    found |= {"slope": inputs["slope"], "far": inputs["far"]}
    arguments: tuple[Any, ...] = ([*whole[:2], *found.values()], list(found), program)
    torch.library.opcheck(torch.ops.attnspec.sink.default, arguments)
    sink = torch.ops.attnspec.sink.default(*arguments).detach()
    kernel = [found[name] for name in names(attend.spec)]
    torch.library.opcheck(operator.attend, (q, k, v, kernel, None, sink, 0.25, program, True))
