"""Patterns of features over ranks that exchange states: outputs, states and gradients of one device."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.distributed.linear_plan import state_exchange, state_shards
from tests.support.linear import TOLERANCE
from tests.support.marks import slow
from tests.support.state_cases import CASES, PACKED
from tests.support.state_ranks import exchange_of, on_one, over_ranks
from tests.support.states import BATCH, HEADS, KV_HEADS, Case, N

NO_STATES = {
    "performer": Case("attention a { linear favor(x, features = 8)  divide total }"),
    "performer_google": Case(
        "attention a { linear favor(x, features = 8, eps = 1e-2, through_max = true)  divide guarded(total, 1e-6) }"
    ),
    "performer_causal": Case(
        "attention a { attend causal  linear favor(x, features = 8)  divide total + 1e-6 * mass }"
    ),
    "latte_bidirectional": Case("latte_bidirectional"),
    "all keys": Case("attention a { linear elu(x) + 1  divide total  rotate rope() }"),
    "all keys, each": Case("attention a { linear softmax(x)  divide each total + 1.0 }"),
    "window": Case("attention a { attend window(7)  linear elu(x) + 1  divide total }"),
    "wide window": Case("attention a { attend window(31)  linear elu(x) + 1  divide total }"),
    "window and gates": Case(
        "attention a { input g: float[batch, heads, n]  attend window(9)  linear elu(x) + 1  divide total"
        "  decay g[b, h, t] }",
        inputs={"g": ()},
    ),
    "window of a running maximum": Case(
        "attention a { attend window(9)  linear favor(x, features = 5, stable = running, eps = 0.1)  divide total }"
    ),
    "dilated": Case("attention a { attend dilated(3, 4)  linear elu(x) + 1  divide total }"),
    "far": Case("attention a { attend k <= q - 5  linear [softmax(x), softmax(-x)]  divide total }"),
    "far, each": Case("attention a { attend k <= q - 5  linear exp(x)  divide each total }"),
}
"""Calls of these give no state, and yet ranks exchange some."""
ALL = {**CASES, **NO_STATES, **{f"packed, {name}": case for name, case in PACKED.items()}}
QUICK = {("gated_delta", 3), ("latte", 4), ("performer_google", 3), ("far", 4), ("packed, gates", 3)}


def _states(name: str) -> bool:
    return name in CASES and "cu" not in CASES[name].text


def _refused(name: str) -> bool:
    return "through_max" in ALL[name].text and "running" in ALL[name].text


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        (name, ranks) if (name, ranks) in QUICK else slow(name, ranks)
        for name in ALL
        for ranks in (2, 3, 4, 7)
        if not _refused(name)
    ],
)
def test_ranks_give_what_one_device_gives(name: str, ranks: int) -> None:
    case = ALL[name]
    n = N // case.cut * case.cut if _states(name) else N
    inputs = {name: t.clamp(max=n) if name == "cu" else t for name, t in case.given("random", n).items()}
    whole = on_one(case.text, inputs, n, "dense", torch.float64, state=_states(name))
    over_ranks(whole, ranks, (1e-10, 1e-10), seed=ranks, shared=ranks != 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in ALL if not _refused(name) and name not in ("each and gates", "each and delta")]
)  # which have no kernels on one device
def test_kernels(name: str) -> None:
    case = ALL[name]
    n = N // case.cut * case.cut if _states(name) else N
    inputs = {name: t.clamp(max=n) if name == "cu" else t for name, t in case.given("random", n).items()}
    whole = on_one(case.text, inputs, n, "cpp", torch.float32, state=_states(name))
    over_ranks(whole, 3, TOLERANCE[torch.float32])


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["resets", "zeros", "large", "mixed"])
@pytest.mark.parametrize("name", ["mamba2", "gla", "gated_delta", "each and gates"])
def test_gates_of_any_size(name: str, regime: str) -> None:
    whole = on_one(CASES[name].text, CASES[name].given(regime), N, "dense", torch.float64, state=True)
    over_ranks(whole, 4, (1e-10, 1e-10))


def test_how_states_travel() -> None:
    def way(text: str) -> str:
        return exchange_of(on_one(text, {}, N, "dense", torch.float64, state=False), 4).way

    assert way("attention a { attend causal  linear x }") == "scan"
    assert way("attention a { attend window(5)  linear x }") == "nothing"
    assert way("attention a { attend causal and k // 4 >= q // 4 - 1  linear x }") == "shift"
    assert way("attention a { attend k // 4 < q // 4  linear elu(x) + 1  divide total  delta 0.5 }") == "chain"
    assert way("attention a { attend causal  linear x  delta 0.5 }") == "scan"
    assert way("attention a { linear x }") == "sum"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attention a { attend k <= q or k < 4  linear x }", "at the beginning|to be kept|not seen as those"),
        ("attention a { linear x  decay -0.1 }", "keys come from both sides"),
        ("attention a { attend causal  linear favor(x, stable = running, through_max = true) }", "gradient"),
        ("causal", "softmax keeps keys and values"),
    ],
)
def test_why_ranks_cannot_exchange_states(text: str, said: str) -> None:
    with pytest.raises(CallError, match=said):
        state_shards(attnspec.compile(text).program, N, 3, HEADS, KV_HEADS, BATCH)


def test_shards_begin_where_sequences_can_be_cut() -> None:
    program = attnspec.compile("attention a { attend k // 4 < q // 4  linear x }").program
    dealt = state_shards(program, N, 3, HEADS, KV_HEADS, BATCH)
    assert [runs[0].start for runs in dealt.held] == [0, 16, 32]
    other = attnspec.compile("attention a { attend causal  linear x }").program
    dealt = state_shards(other, N, 3, HEADS, KV_HEADS, BATCH)
    with pytest.raises(CallError, match="begin at multiples of 4 positions"):
        state_exchange(program, dealt, HEADS, KV_HEADS, BATCH, 8, 8)
