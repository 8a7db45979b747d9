"""Hypothesis strategies for score expressions, with the inputs and sizes that they read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnspec.runtime.expressions.real import real as in_torch
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.evaluate import table

SIZES = {"n": 11, "n_q": 9, "heads": 3, "kv_heads": 1, "batch": 2, "m": 4}
_RANDOM = np.random.default_rng(0)
FLOATS: dict[str, NDArray[np.float32]] = {
    "temperature": _RANDOM.uniform(0.5, 2, ()).astype(np.float32),
    "slope": _RANDOM.uniform(-1, 1, 3).astype(np.float32),
    "bias": _RANDOM.uniform(-2, 2, (3, 9, 11)).astype(np.float32),
    "steps": _RANDOM.uniform(-2, 2, (2, 7)).astype(np.float32),
    "nothing": np.zeros((0, 3), np.float32),
}
INTEGERS: dict[str, NDArray[Any]] = {
    "doc": np.sort(_RANDOM.integers(0, 4, (2, 11)), axis=1),
    "top": _RANDOM.integers(-1, 5, (3, 9, 2)),
    "keep": _RANDOM.integers(0, 2, (9, 11)).astype(bool),
}
NAMES = {name: number for number, name in enumerate([*FLOATS, *INTEGERS])}

_LEAVES = st.sampled_from([e.Var(name) for name in ("q", "k", "q", "k", "h", "b", "n", "m")]) | st.builds(
    e.Int, st.integers(-4, 12)
)
_DIVISORS = st.sampled_from([e.Int(1), e.Int(2), e.Int(3), e.Int(7), e.Int(8), e.Add((e.Var("h"), e.Int(1)))])
_SMALL = st.sampled_from([e.Var("q"), e.Var("k"), e.Add((e.Var("k"), e.Mul(e.Int(-1), e.Var("q"))))])


def _more_integers(integers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(integers, min_size=1, max_size=3).map(tuple)
    return (
        st.builds(e.Add, several)
        | st.builds(e.Mul, st.builds(e.Int, st.integers(-3, 3)), integers)
        | st.builds(e.Mul, _SMALL, _SMALL)
        | st.builds(e.FloorDiv, integers, _DIVISORS)
        | st.builds(e.Mod, integers, _DIVISORS)
        | st.builds(e.Pow, st.builds(e.Int, st.integers(-3, 3)), st.builds(e.Int, st.integers(0, 4)))
        | st.builds(e.Min, several)
        | st.builds(e.Max, several)
        | st.builds(e.Abs, integers)
        | st.builds(e.If, predicates(integers), integers, integers)
        | st.builds(e.Index, st.just((4, -1, 7)), st.tuples(integers))
        | st.builds(e.Index, st.just(((1, 2), (3,), (5, 6, 7))), st.tuples(integers, integers))
        | st.builds(e.Sum, st.just("j"), _domains(), st.builds(e.Mul, st.just(e.Var("j")), integers))
        | st.builds(e.Read, st.just("doc"), st.tuples(st.just(e.Var("b")), integers))
        | st.builds(e.Read, st.just("top"), st.tuples(st.just(e.Var("h")), _SMALL, st.just(e.Int(1))))
    )


def _domains() -> st.SearchStrategy[e.Domain]:
    ends = st.builds(e.Int, st.integers(0, 3))
    return st.builds(e.Range, ends, ends) | st.builds(e.Values, st.just((2, 0, 5)))


def predicates(integers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Predicates over integers."""
    compare = st.builds(e.Cmp, st.sampled_from(list(e.COMPARE)), integers, integers)
    flag = st.builds(e.Flag, st.just("keep"), st.tuples(integers, st.just(e.Var("k"))))
    among = st.builds(e.Among, integers, st.just("top"), st.tuples(st.just(e.Var("h")), integers))
    simple = compare | compare | flag | among
    several = st.lists(simple, max_size=3).map(tuple)
    near = st.builds(e.Cmp, st.just("=="), st.just(e.Var("i")), integers)
    far = st.just(e.Range(e.Int(0), e.Int(70)))
    return (
        simple
        | st.builds(e.And, several)
        | st.builds(e.Or, several)
        | st.builds(e.Not, simple)
        | st.builds(e.Iff, simple, simple)
        | st.builds(e.Any, st.just("i"), _domains() | far, near)
        | st.builds(e.All, st.just("i"), _domains(), near)
    )


INTEGER = st.recursive(_LEAVES, _more_integers, max_leaves=5)
PREDICATE = predicates(INTEGER)
_NUMBER = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 3.0]).map(r.Real)
_ENTRY = (
    st.just(r.RealRead("temperature", ()))
    | st.builds(r.RealRead, st.just("slope"), st.tuples(st.just(e.Var("h"))))
    | st.builds(r.RealRead, st.just("bias"), st.tuples(st.just(e.Var("h")), st.just(e.Var("q")), INTEGER))
    | st.builds(r.RealRead, st.just("steps"), st.tuples(st.just(e.Var("b")), INTEGER))
    | st.builds(r.RealRead, st.just("nothing"), st.tuples(INTEGER, st.just(e.Int(1))))
)


def _more_reals(reals: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.builds(r.Total, st.lists(reals, min_size=1, max_size=3).map(tuple))
        | st.builds(r.Product, reals, reals)
        | st.builds(r.Quotient, reals, reals)
        | st.builds(r.Apply, st.sampled_from(sorted(r.FUNCTIONS)), reals)
        | st.builds(r.Apply, st.just("tanh"), reals)
        | st.builds(r.Choose, PREDICATE, reals, reals)
    )


REAL = st.recursive(st.just(r.Score()) | _NUMBER | _ENTRY | st.builds(r.Cast, INTEGER), _more_reals, max_leaves=6)


def environment(q: Any, k: Any, h: int, b: int) -> dict[str, Any]:
    """The variables and inputs at pairs of positions."""
    env: dict[str, Any] = {"q": q.astype(np.int64), "k": k.astype(np.int64)}
    env.update({name: np.array([value]) for name, value in ({"h": h, "b": b} | SIZES).items()})
    env.update({table(name): array for name, array in (FLOATS | INTEGERS).items()})
    return env


def reference(
    node: r.RealExpr, q: Any, k: Any, s: Any, g: Any, h: int, b: int, dtype: torch.dtype
) -> tuple[NDArray[Any], NDArray[Any], list[NDArray[Any]]]:
    """The values at pairs in torch; the gradients by the score and by each float input, where g is not 0."""
    env = environment(q, k, h, b)
    floats = {name: torch.tensor(array, dtype=dtype, requires_grad=True) for name, array in FLOATS.items()}
    score = torch.tensor(s, dtype=dtype, requires_grad=True)
    value = in_torch(node, env, floats, score) + 0 * score.detach()
    live = torch.tensor(g != 0)
    if value.requires_grad:
        value[live].backward(torch.tensor(g, dtype=dtype)[live])
    grads = [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in (score, *floats.values())]
    return value.detach().numpy(), grads[0], grads[1:]


def agree(ours: Any, exact: Any, rough: Any) -> None:
    """Ours is as close to the exact values as single precision allows, which ``rough`` shows.

    Not closer than 1e-4: ``1 - tanh(x) ** 2`` loses digits, by chance more or fewer than what it is compared with.
    """
    exact, rough = (np.where(np.isfinite(x), x, np.nan) for x in (exact, rough))
    known = ~np.isnan(exact) & ~np.isnan(rough) & (np.abs(exact) < 1e30)
    noise = np.abs(exact - rough)[known].max(initial=0)
    wrong = known & ~(np.abs(ours - exact) <= 2e-5 * np.abs(exact) + 30 * noise + 1e-4)
    assert not wrong.any(), (np.asarray(ours)[wrong][:4], np.asarray(exact)[wrong][:4], noise)
