"""Divisors that come with a call: at least 1, or the call is refused by the name of the input.

Kernels take 1 for a divisor that is not positive, so that none divides by zero where values are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.visible import array
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.evaluate import domain_values, table, value_of

Binders = tuple[tuple[str, e.Domain], ...]


Divisors = tuple[tuple[e.IntExpr, Binders, tuple[str, ...]], ...]
"""Divisors, each with the names that are bound around it and those of the inputs that it reads."""


def divisors(roots: Iterable[e.Node]) -> Divisors:
    """The divisors in expressions that read inputs."""
    return tuple(
        (divisor, binders, tuple(dict.fromkeys(n.name for n in contents.walk(divisor) if isinstance(n, _READS))))
        for divisor, binders in dict.fromkeys(found for root in roots for found in _divisors(root, ()))
    )


_READS = (e.Read, e.Flag, e.Among)


def check_divisors(where: str, divisors: Divisors, sizes: Sizes, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs (arrays or tensors by name) that make a divisor zero or negative. Raises CallError."""
    for divisor, binders, names in divisors:
        if not all(name in inputs for name in names):
            continue
        places = {"b": np.arange(sizes.batch)[:, None], "h": np.arange(sizes.heads)[None, :]}
        env = {**sizes.parameters(0, 0), **places, **{table(name): _array(inputs[name]) for name in names}}
        for bound in _environments(binders, env):
            value, known = value_of(divisor, bound)
            wrong = np.broadcast_to((np.asarray(value) < 1) & known, (sizes.batch, sizes.heads))
            if wrong.any():
                b, h = (int(i) for i in np.argwhere(wrong)[0])
                number = int(np.broadcast_to(value, wrong.shape)[b, h])
                listed = " and ".join(f"`{name}`" for name in names)
                raise CallError(
                    f"{where}: `{divisor}` divides, so it must be at least 1, but input {listed} makes it {number} for "
                    f"batch entry {b}, head {h}"
                )


def _divisors(node: e.Node, binders: Binders) -> Iterator[tuple[e.IntExpr, Binders]]:
    """The divisors that read inputs, each with the names that are bound around it."""
    if isinstance(node, (e.FloorDiv, e.Mod)) and contents.reads(node.right):
        free = contents.free(node.right)
        yield node.right, tuple(binder for binder in binders if binder[0] in free)
    if isinstance(node, (e.Any, e.All, e.Sum)):
        binders = (*binders, (node.var, node.domain))
    for child in node.children():
        yield from _divisors(child, binders)


def _environments(binders: Binders, env: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if not binders:
        yield env
        return
    (name, domain), *rest = binders
    for value in domain_values(domain, env):
        yield from _environments(tuple(rest), {**env, name: value})


def _array(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else array(value)
