"""The transforms of torch.func over kernels give what loops and plain autograd give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import attnspec
from attnspec.runtime.attention import Attention
from tests.support.marks import slow
from tests.support.targets import compiled

V, B, H, N = 3, 2, 4, 10
"""Entries of the mapped dimension and of the batch, heads, length."""


def vectors(kv_heads: int = 2, dim_v: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (V, B, H, N, 8), (V, B, kv_heads, N, 8), (V, B, kv_heads, N, dim_v)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)  # type: ignore[return-value]


def integers(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


def reals(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def close(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, atol=5e-5, rtol=5e-5)


def loss_of(attend: Attention, names: tuple[str, ...]) -> Callable[..., Tensor]:
    """A function of vectors and inputs that is linear in neither result."""

    def loss(q: Tensor, k: Tensor, v: Tensor, *inputs: Tensor) -> Tensor:
        out, lse = attend(q, k, v, return_lse=True, inputs=dict(zip(names, inputs, strict=True)))
        return out.sin().sum() + lse.nan_to_num(neginf=0.0).cos().sum()

    return loss


BIAS = "score s + bias[h, q, k] }"
# The pattern, its inputs as each sample has them or all share them, and which are each sample's own.
CASES: Mapping[str, tuple[str, dict[str, Tensor], tuple[str, ...]]] = {
    "mask": ("causal", {}, ()),
    "documents": ("packed", {"doc": integers(3, V, B, N).sort(-1).values}, ("doc",)),
    "documents of all": ("packed", {"doc": integers(3, B, N).sort(-1).values}, ()),
    "offsets": ("packed_offsets", {"cu_seqlens": torch.tensor([[0, 4, 10], [0, 0, 10], [0, 9, 10]])}, ("cu_seqlens",)),
    "lengths": ("padded", {"length": integers(N, V, B)}, ("length",)),
    "blocks": (
        "attention a { input keep: bool[batch, n_q // 2, n // 2]  attend causal and keep[b, q // 2, k // 2] }",
        {"keep": integers(2, V, B, N // 2, N // 2).bool()},
        ("keep",),
    ),
    "one list for all": (
        "attention a { input t: int[n, 2]  attend causal and k in t[q] }",
        {"t": integers(N, V, N, 2)},
        ("t",),
    ),
    "drawn": ("attention a { input t: int[batch, n, 2] random(0..n, 3)  attend causal and k in t[b, q] }", {}, ()),
    "bias": (f"attention a {{ input bias: float[heads, n_q, n]  {BIAS}", {"bias": reals(H, N, N)}, ()),
    "own bias": (f"attention a {{ input bias: float[heads, n_q, n]  {BIAS}", {"bias": reals(V, H, N, N)}, ("bias",)),
    "bias of entries": (
        "attention a { input bias: float[batch, n_q, n]  score s + bias[b, q, k] }",
        {"bias": reals(V, B, N, N)},
        ("bias",),
    ),
    "sink": ("attention a { input logit: float[heads]  attend causal  sink logit[h] }", {"logit": reals(H)}, ()),
    "own sink": (
        "attention a { input logit: float[heads]  input far: float[n_q]  attend causal  sink logit[h] + far[q] }",
        {"logit": reals(V, H), "far": reals(V, N)},
        ("logit", "far"),
    ),
    "constant sink": ("attention a { attend causal  sink 0.5 }", {}, ()),
    "lines of branches": (
        "attention a { input gate: float[heads]  sink gate[h]  "
        "mix { branch times 2 { attend causal  score s * gate[h]  rotate rope() } "
        "branch { attend q - k in 0..3  normalize k } } }",
        {"gate": reals(V, H)},
        ("gate",),
    ),
    "entries by number": ("attention a { attend causal and q - k <= 3 + b }", {}, ()),
    "number of entries": ("attention a { attend causal and q - k <= 3 * batch }", {}, ()),
    "rotation": ("rope", {}, ()),
    "positions": (
        "attention a { input place: int[batch, n]  attend causal  rotate xpos() at (place[q], place[k]) }",
        {"place": integers(200, V, B, N)},
        ("place",),
    ),
    "slopes": ("alibi", {}, ()),
    "branches": (
        "attention a { mix (w, r) in [(4, 1), (8, 2)] weights detached { attend dilated(w, r) } }",
        {},
        (),
    ),
    "order": (
        "attention a { order by lsh(buckets = 4, rounds = 2)  attend q.slot // 4 - k.slot // 4 in 0..2  normalize k }",
        {},
        (),
    ),
    "buckets": (
        "attention a { order by lsh(buckets = 4, rounds = 2)  attend q.slot // 4 - k.slot // 4 in 0..2 }",
        {"buckets": integers(4, V, B, H, 2, N)},
        ("buckets",),
    ),
}
QUICK = ("documents", "own sink", "entries by number")


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in CASES])
def test_samples(name: str) -> None:
    """vmap, vmap over grad (gradients of each sample), and grad over vmap (their sum where samples share an input)."""
    text, inputs, own = CASES[name]
    attend = attnspec.compile(text)
    loss = loss_of(attend, tuple(inputs))
    given = (*vectors(H if attend.spec.order else 2), *inputs.values())
    dims = (0, 0, 0, *(0 if item in own else None for item in inputs))
    wanted = tuple(i for i, t in enumerate(given) if t.is_floating_point())
    values, gradients = [], []
    for sample in range(V):
        mine = [t if dim is None else t[sample] for t, dim in zip(given, dims, strict=True)]
        mine = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(mine)]
        values.append(loss(*mine))
        gradients.append(torch.autograd.grad(values[-1], [mine[i] for i in wanted]))
    each = [torch.stack(of) for of in zip(*gradients, strict=True)]
    close(vmap(loss, in_dims=dims)(*given), torch.stack(values))
    close(list(vmap(grad(loss, argnums=wanted), in_dims=dims)(*given)), each)
    whole = grad(lambda *t: vmap(loss, in_dims=dims)(*t).sum(), argnums=wanted)(*given)
    close(list(whole), [t if dims[i] == 0 else t.sum(0) for i, t in zip(wanted, each, strict=True)])


@pytest.mark.parametrize("name", ["mask", "own sink", slow("own bias"), slow("entries by number"), slow("branches")])
def test_jacobians(name: str) -> None:
    """Jacobians map the backward operator, in which only the gradient of the output is mapped."""
    text, inputs, own = CASES[name]
    given = [t[0, :, :, :4] for t in vectors()]
    shared = {item: (t[0] if item in own else t)[..., :4] for item, t in inputs.items()}
    if "bias" in shared:
        shared["bias"] = shared["bias"][:, :4]
    wanted = tuple(range(3 + len(shared)))

    def of(target: str) -> Callable[..., Tensor]:
        attend = attnspec.compile(text, target=target)
        return lambda q, k, v, *t: attend(q, k, v, inputs=dict(zip(shared, t, strict=True)))[:, :1]

    given += shared.values()
    close(jacrev(of("auto"), argnums=wanted)(*given), jacrev(of("dense"), argnums=wanted)(*given))
    out, pull = vjp(of("auto"), *given)
    close(pull(out), vjp(of("dense"), *given)[1](out))


@pytest.mark.parametrize("target", ["cpp", slow("triton")])
def test_every_dimension_can_be_mapped(target: str) -> None:
    attend, (q, k, v) = compiled("causal", target), vectors()
    want = torch.stack([attend(*t) for t in zip(q, k, v, strict=True)])
    close(
        vmap(attend, in_dims=(2, 1, 4), out_dims=3)(q.movedim(0, 2), k.movedim(0, 1), v.movedim(0, 4)),
        want.movedim(0, 3),
    )
    close(vmap(vmap(attend))(q[None], k[None], v[None]), want[None])
    shared = torch.stack([attend(t, k[0], v[0]) for t in q])
    close(vmap(attend, in_dims=(0, None, None))(q, k[0], v[0]), shared)
    q.requires_grad_()
    close(
        torch.autograd.grad(vmap(attend)(q, k, v).sin().sum(), q),
        torch.autograd.grad(torch.stack([attend(*t) for t in zip(q, k, v, strict=True)]).sin().sum(), q),
    )


def test_gradients_of_each_sample_of_a_module() -> None:
    """As differentially private training asks for them."""

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.attend = torch.nn.Linear(8, 24), attnspec.compile("window", width=4)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.inner(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            return self.attend(q, k, v).transpose(1, 2).flatten(-2)

    layer, samples = Layer(), reals(V, N, 8)
    parameters = {name: t.detach() for name, t in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(layer, parameters, (sample[None],)).sin().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, samples)
    for number, sample in enumerate(samples):
        wanted = torch.autograd.grad(layer(sample[None]).sin().sum(), list(layer.parameters()))
        close([t[number] for t in found.values()], list(wanted))


def test_functionalize() -> None:
    attend, (q, k, v) = attnspec.compile("causal"), vectors()
    close(torch.func.functionalize(attend)(q[0], k[0], v[0]), attend(q[0], k[0], v[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask", "documents", "rotation", "positions", "own sink"])
def test_compiled_vmap(name: str) -> None:
    text, inputs, own = CASES[name]
    attend, given = attnspec.compile(text), (*vectors(), *inputs.values())

    def call(q: Tensor, k: Tensor, v: Tensor, *more: Tensor) -> Tensor:
        return attend(q, k, v, inputs=dict(zip(inputs, more, strict=True)))

    mapped = vmap(call, in_dims=(0, 0, 0, *(0 if item in own else None for item in inputs)))
    close(torch.compile(mapped, fullgraph=True, backend="aot_eager")(*given), mapped(*given))


def test_what_kernels_do_not_have_is_an_error_inside_transforms() -> None:
    attend, (q, k, v) = attnspec.compile("causal"), vectors()
    loss = loss_of(attend, ())
    one = q[0], k[0], v[0]
    for use in (
        lambda: jvp(attend, one, one),
        lambda: jvp(vmap(attend), (q, k, v), (q, k, v)),
        lambda: vmap(lambda *t: jvp(attend, t, t)[1])(q, k, v),
        lambda: jacfwd(attend)(*one),
        lambda: hessian(loss)(*one),
    ):
        with pytest.raises(NotImplementedError, match=r'forward-mode.*target="dense" has them'):
            use()
    for use in (lambda: grad(lambda t: grad(loss)(t, *one[1:]).sum())(one[0]), lambda: jacrev(jacrev(loss))(*one)):
        with pytest.raises(NotImplementedError, match=r'second derivatives.*target="dense" has them'):
            use()


def test_inputs_are_checked_inside_transforms() -> None:
    attend, (q, k, v) = attnspec.compile("packed"), vectors()
    doc = integers(3, V, B, N)
    for given, message in (
        ({}, "input `doc` is missing"),
        ({"doc": doc.float()}, "must hold integers"),
        ({"doc": doc[..., 1:]}, "has the shape"),
        ({"docs": doc}, "did you mean `doc`"),
        ({"doc": doc.sort(descending=True).values}, "sorted"),
    ):
        with pytest.raises(attnspec.CallError, match=message):
            vmap(lambda q, k, v, given: attend(q, k, v, **given))(q, k, v, given)


OF_ALL = {  # integers, which dense may not map
    "positions of all": (CASES["positions"][0], {"place": integers(9, B, N)}, ()),
    "divisors of all": (
        "attention a { input c: int[batch]  attend q // c[b] == k // c[b] }",
        {"c": integers(9, B) + 1},
        (),
    ),
}


@pytest.mark.parametrize("name", ["documents of all", "sink", "own sink", *OF_ALL])
def test_dense_is_transformed(name: str) -> None:
    """What errors name as the way out: forward mode and second derivatives, with inputs."""
    text, inputs, own = {**CASES, **OF_ALL}[name]
    attend, fused = attnspec.compile(text, target="dense"), attnspec.compile(text)
    given = [*(t[0] for t in vectors()), *(t[0] if item in own else t for item, t in inputs.items())]
    wanted = tuple(i for i, t in enumerate(given) if t.is_floating_point())
    dense_loss, loss = loss_of(attend, tuple(inputs)), loss_of(fused, tuple(inputs))
    gradients = grad(loss, argnums=wanted)(*given)
    tangents = [given[i] for i in wanted]

    def of(*floats: Tensor) -> Tensor:
        whole = list(given)
        for i, t in zip(wanted, floats, strict=True):
            whole[i] = t
        return dense_loss(*whole)

    _, along = jvp(of, tuple(tangents), tuple(tangents))
    close(along, torch.stack([(g * t).sum() for g, t in zip(gradients, tangents, strict=True)]).sum())
    step = 1e-3
    ahead, behind = (grad(loss)(given[0] * (1 + sign * step), *given[1:]) for sign in (1, -1))
    _, pull = vjp(lambda q: grad(dense_loss)(q, *given[1:]), given[0])
    (second,) = pull(given[0])  # the Hessian is symmetric
    torch.testing.assert_close(second, (ahead - behind) / (2 * step), atol=2e-2, rtol=2e-2)


def test_dense_says_what_it_cannot_map() -> None:
    attend, given = attnspec.compile("packed", target="dense"), vectors()
    with pytest.raises(attnspec.CallError, match='target="dense" evaluates masks in Python'):
        vmap(lambda q, k, v, doc: attend(q, k, v, doc=doc))(*given, integers(1, V, B, N))


def test_largest_scores_are_mapped() -> None:
    attend, given = attnspec.compile("causal"), vectors()
    each = [attend(*sample, return_max=True) for sample in zip(*given, strict=True)]
    close(vmap(lambda *t: attend(*t, return_max=True))(*given), tuple(map(torch.stack, zip(*each, strict=True))))
