"""Published attention without softmax, token by token: states and sums as the papers write them, no masks.

q, k and v are (batch, heads, n, dim); everything is differentiable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import elu, pad

Steps = Callable[[int], Tensor]


def over_tokens(q: Tensor, step: Steps) -> Tensor:
    """What each token gives, (batch, heads, dim_v), one behind the other."""
    return torch.stack([step(t) for t in range(q.shape[2])], 2)


def state_of(k: Tensor, v: Tensor) -> Tensor:
    """A state of zeros, (batch, heads, dim, dim_v)."""
    return k.new_zeros((*k.shape[:2], k.shape[3], v.shape[3]))


def outer(k: Tensor, v: Tensor) -> Tensor:
    return k[..., :, None] * v[..., None, :]


def read(q: Tensor, state: Tensor) -> Tensor:
    return (q[..., None, :] @ state)[..., 0, :]


def linear(q: Tensor, k: Tensor, v: Tensor, keys: Sequence[Sequence[int]]) -> Tensor:
    """Katharopoulos et al., 2020, equation 5, over the keys of each row."""
    q, k = elu(q) + 1, elu(k) + 1

    def step(t: int) -> Tensor:
        weights = [(q[:, :, t] * k[:, :, j]).sum(-1, keepdim=True) for j in keys[t]]
        return sum(w * v[:, :, j] for w, j in zip(weights, keys[t], strict=True)) / sum(weights)  # type: ignore[return-value]

    return over_tokens(q, step)


def recurrent(q: Tensor, k: Tensor, v: Tensor, kept: Steps) -> Tensor:
    """``S_t = kept_t * S_(t-1) + k_t v_t``, ``o_t = q_t S_t``: RetNet, Mamba-2 and gated linear attention."""
    state = state_of(k, v)

    def step(t: int) -> Tensor:
        nonlocal state
        state = kept(t) * state + outer(k[:, :, t], v[:, :, t])
        return read(q[:, :, t], state)

    return over_tokens(q, step)


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, kept: Steps) -> Tensor:
    """Yang et al., 2025, equation 10: forget, then correct. Without forgetting it is DeltaNet."""
    unit_q, unit_k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    state = state_of(k, v)

    def step(t: int) -> Tensor:
        nonlocal state
        state = kept(t) * state
        new = beta[:, :, t, None] * (v[:, :, t] - read(unit_k[:, :, t], state))
        state = state + outer(unit_k[:, :, t], new)
        return read(unit_q[:, :, t], state)

    return over_tokens(q, step)


def performer_features(x: Tensor, rows: Tensor, eps: float, keys: bool, through: bool) -> Tensor:
    """The features of performer-pytorch (eps of 1e-4) and of the authors' code in JAX (1e-6, through the largest)."""
    x = x * x.shape[-1] ** -0.25
    dashed = x @ rows.T
    largest = dashed.amax((-1, -2), keepdim=True) if keys else dashed.amax(-1, keepdim=True)
    largest = largest if through else largest.detach()
    return rows.shape[0] ** -0.5 * (torch.exp(dashed - (x**2).sum(-1, keepdim=True) / 2 - largest) + eps)


def performer(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, kind: str) -> Tensor:
    """As in the three published forms: bidirectional, causal, and that of the authors."""
    google = kind == "performer_google"
    eps = 1e-6 if google else 1e-4
    a, b = (performer_features(x, rows, eps, x is k, google) for x in (q, k))
    if kind == "performer_causal":  # causal_linear_attention_noncuda
        sums = b.cumsum(-2)
        below = torch.einsum("...nd,...nd->...n", a, sums + 1e-6)
        context = torch.einsum("...nd,...ne->...nde", b, v).cumsum(-3)
        return torch.einsum("...nde,...nd->...ne", context, a) / below[..., None]
    below = torch.einsum("...nd,...d->...n", a, b.sum(-2))
    if google:
        below = below + 2e-6 * (below.abs() <= 1e-6)
    return torch.einsum("...de,...nd->...ne", torch.einsum("...nd,...ne->...de", b, v), a) / below[..., None]


def latte(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dolga et al., 2024, equation 8: a softmax over positions of each latent, up to the token."""

    def step(t: int) -> Tensor:
        over_keys = k[:, :, : t + 1].softmax(2)
        return read(q[:, :, t].softmax(-1), over_keys.mT @ v[:, :, : t + 1])

    return over_tokens(q, step)


def latte_bidirectional(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dolga et al., 2024, equation 6."""
    return q.softmax(-1) @ (k.softmax(2).mT @ v)


def retention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Sun et al., 2023, equations 5 and 6: complex rotations of neighbouring entries, decays by head."""
    n, dim = q.shape[2:]
    theta = 10000.0 ** (-torch.arange(0, dim, 2, dtype=q.dtype) / dim)
    turns = torch.polar(torch.ones(n, dim // 2, dtype=q.dtype), torch.arange(n, dtype=q.dtype)[:, None] * theta)
    turned = [torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2) for x in (q, k)]
    gamma = 1 - 2.0 ** (-5 - torch.arange(q.shape[1], dtype=q.dtype))
    return recurrent(*turned, v, lambda t: gamma[:, None, None])


def infini(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, segment: int) -> Tensor:
    """Munkhdalai et al., 2024, equations 2 to 9: local softmax of rotated vectors, a memory read before writing."""
    n, dim = q.shape[2:]
    angles = torch.arange(n, dtype=q.dtype)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2, dtype=q.dtype) / dim)
    cos, sin = (torch.cat([x, x], -1) for x in (angles.cos(), angles.sin()))
    turned_q, turned_k = (x * cos + torch.cat([-x[..., dim // 2 :], x[..., : dim // 2]], -1) * sin for x in (q, k))
    memory, z, outs = state_of(k, v), k.new_zeros(*k.shape[:2], dim, 1), []
    for at in range(0, n, segment):
        here = slice(at, min(at + segment, n))
        scores = turned_q[:, :, here] @ turned_k[:, :, here].mT / dim**0.5
        below = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        local = scores.masked_fill(~below, -torch.inf).softmax(-1) @ v[:, :, here]
        a, b = elu(q[:, :, here]) + 1, elu(k[:, :, here]) + 1
        new = v[:, :, here]
        if at:
            share = torch.sigmoid(gate)[:, None, None]
            local = share * (a @ memory) / (a @ z) + (1 - share) * local
            new = new - (b @ memory) / (b @ z)
        outs.append(local)
        memory, z = memory + b.mT @ new, z + b.sum(2)[..., None]
    return torch.cat(outs, 2)


def lolcats(q: Tensor, k: Tensor, v: Tensor, width: int) -> Tensor:
    """Zhang et al., 2025, equation 7: exponentials in a window and features before it, over one sum."""
    a, b = (torch.cat([x.softmax(-1), (-x).softmax(-1)], -1) for x in (q, k))

    def step(t: int) -> Tensor:
        near = slice(max(0, t - width + 1), t + 1)
        scores = torch.exp((q[:, :, t, None] * k[:, :, near]).sum(-1) / q.shape[-1] ** 0.5)
        weights = torch.cat([(a[:, :, t, None] * b[:, :, : near.start]).sum(-1), scores], -1)
        return read(weights, v[:, :, : t + 1]) / weights.sum(-1, keepdim=True)

    return over_tokens(q, step)


def forgetting(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    """Lin et al., 2025, equation 4: scores with the sums of the logarithms of forget gates."""
    n = q.shape[2]
    sums = torch.stack([pad(gate[..., j + 1 : i + 1], (0, 1)).sum(-1) for i in range(n) for j in range(n)], -1)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + sums.unflatten(-1, (n, n))
    return scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf).softmax(-1) @ v
