"""Random features of the exponential (FAVOR+: Choromanski et al., 2021), and the projections they are made with."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.device import lasting, on_device
from attnspec.spec.feature import Favor, size
from attnspec.spec.spec import Spec


def projection(of: Favor, dim: int, given: Tensor | None, device: torch.device, name: str) -> Tensor:
    """The directions that vectors are projected on, (features, dim): those of the call, else drawn from the seed.

    Drawn on the CPU in float64, the same on every device. Raises CallError where the given ones do not fit.
    """
    shape = (size(of, dim), dim)
    if given is None:
        make = _kept if lasting() else drawn
        return on_device(make, *shape, of.seed, of.scaling, device=device)
    if tuple(given.shape) != shape or not given.is_floating_point():
        raise CallError(f"{name}: projection must be (features, dim) = {shape} of reals, not {tuple(given.shape)}")
    return given


def by_branch(
    branches: Sequence[Spec], inputs: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], list[Mapping[str, Tensor]]]:
    """The inputs of a mixture without the projection of a call, and those of each of its branches.

    A projection goes to those with random features. (Where none has some it is an input like others.)
    """
    if "projection" in inputs:
        random = [any(part.favors for part in one.weighings) for one in branches]
        if any(random):
            rest = {name: t for name, t in inputs.items() if name != "projection"}
            return rest, [inputs if own else rest for own in random]
    return inputs, [inputs] * len(branches)


def drawn(features: int, dim: int, seed: int, scaling: str) -> Tensor:
    """Blocks of orthogonal rows, (features, dim), float64: the last one cut, rows scaled by ``scaling``.

    As published they are those of a QR factorization as it comes: the signs of its diagonal are not mended, so that
    directions lean a little and products of features are not the exponential on average.

    >>> rows = drawn(6, 4, 0, "sqrt")
    >>> torch.allclose(rows[:4] @ rows[:4].T, 4 * torch.eye(4, dtype=torch.float64))
    True

    ``"norm"`` gives each row the length of a Gaussian vector of ``dim`` entries, ``"sqrt"`` the root of ``dim``.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64, device="cpu")
    blocks = [torch.linalg.qr(normal(dim, dim)).Q.T for _ in range(0, features, dim)]
    rows = torch.cat(blocks)[:features]
    lengths = normal(features, dim).norm(dim=-1, keepdim=True) if scaling == "norm" else math.sqrt(dim)
    return rows * lengths


@functools.lru_cache(maxsize=64)
def _kept(features: int, dim: int, seed: int, scaling: str) -> Tensor:
    with torch.inference_mode(False):  # what is kept may later be needed for gradients
        return drawn(features, dim, seed, scaling)


class Features(NamedTuple):
    """The features of vectors (.., n, dim), (.., n, features), the gates of a running maximum, (.., n), and its end.

    That is the maximum of all keys, (..), running or not; both are None where there is none.
    """

    values: Tensor
    gates: Tensor | None = None
    last: Tensor | None = None


def favor(of: Favor, x: Tensor, rows: Tensor, keys: bool, logs: bool = False, since: Tensor | None = None) -> Features:
    """The features of vectors (.., n, dim).

    ``x`` is scaled by ``dim ** -0.25``, then with ``kernel = softmax``
    ``features ** -0.5 * (exp(W x - |x| ** 2 / 2 - c) + eps)``, with ``kernel = relu`` ``relu(W x) + eps``. For queries
    c is the largest entry of ``W x`` of the row. For keys it is, with ``stable = all``, that of all positions of the
    head (as published: with eps above 0 the future then has a part in the past); with ``running`` that of the positions
    so far: what is weighed later is less by ``exp`` of the sum of the gates, which are 0 or negative. With ``none`` c
    is 0 on both sides. A key that is no number counts as zeros there: it may be one that no row sees. No gradient goes
    through c, unless ``through_max``. ``logs``: the logarithms of the features, with ``kernel = softmax``. ``since``
    (..) is the running maximum of what came before, if anything did; with ``all`` that of all positions, of which these
    are some.
    """
    projected = (x * x.shape[-1] ** -0.25) @ rows.to(x.dtype).T
    if of.kernel == "relu":
        return Features(torch.relu(projected) + of.eps)
    half = x.square().sum(-1, keepdim=True) * (0.5 * x.shape[-1] ** -0.5)
    gates = last = None
    if of.stable == "none" or not x.shape[-2]:
        largest = projected.new_zeros(())
    elif not keys:
        largest = projected.amax(-1, keepdim=True)
    elif of.stable == "all":
        last = _of_keys(projected).amax(-1) if since is None else since
        largest = last[..., None, None]
    else:
        so_far = _of_keys(projected).cummax(-1).values
        so_far = so_far if since is None else torch.maximum(so_far, since[..., None])
        first = so_far[..., :1] if since is None else since[..., None]
        gates, last = torch.cat([first, so_far[..., :-1]], -1) - so_far, so_far[..., -1]
        gates, last = (t if of.through_max else t.detach() for t in (gates, last))
        largest = so_far[..., None]
    if not of.through_max:
        largest = largest.detach()
    exponents = projected - half - largest
    if logs:
        least = exponents.new_tensor(of.eps).log()
        return Features(torch.logaddexp(exponents, least) - 0.5 * math.log(rows.shape[0]), gates, last)
    return Features(rows.shape[0] ** -0.5 * (torch.exp(exponents) + of.eps), gates, last)


def _of_keys(projected: Tensor) -> Tensor:
    """The largest entry of each key, (.., n); 0 where it is no number."""
    return projected.amax(-1).nan_to_num(0.0, 0.0, 0.0)
