"""A cache of a mixture that is computed branch by branch gives what a call with all keys gives."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.marks import slow
from tests.support.oracle import TOLERANCE, close

BATCH, KEY_HEADS, HEADS, DIM, N = 2, 2, 4, 8, 30
CASES = {
    "streaming_cache": str(attnspec.read("streaming_cache", params={"start": 2, "recent": 6})),
    "lolcats": str(attnspec.read("lolcats", params={"width": 5})),
    "shares": """attention shares {
        input gate: float[batch, heads, n]
        mix {
            branch share 1.0 - sigmoid(gate[b, h, q]) { attend window(8)  rotate rope()  score s - 0.1 * (q - k) }
            branch share if q < 8 then 0.0 else sigmoid(gate[b, h, q]) {
                attend k // 8 < q // 8  linear elu(x) + 1  divide total
            }
        }
    }""",
    "sums and a sink": """attention sums {
        input logit: float[heads]
        mix {
            branch { attend window(5)  rotate rope() }
            branch { attend k // 5 <= q // 5 - 1  linear exp(x)  decay -0.2  divide total }
        }
        sink logit[h]
    }""",
}


def inputs_of(text: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    gate, logit = torch.randn(BATCH, HEADS, N), torch.randn(HEADS)
    return {name: t for name, t in (("gate", gate), ("logit", logit)) if f"input {name}" in text}


@pytest.mark.parametrize("name", [name if name == "shares" else slow(name) for name in CASES])
@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16)])
def test_rows_are_those_of_the_whole_sequence(name: str, dtype: torch.dtype) -> None:
    attend, inputs = attnspec.compile(CASES[name]), inputs_of(CASES[name])
    q, k, v = (torch.randn(BATCH, h, N, DIM).to(dtype) for h in (HEADS, KEY_HEADS, KEY_HEADS))
    want = attnspec.compile(CASES[name], target="dense")(*(t.double() for t in (q, k, v)), inputs=inputs)
    cache, at = attnspec.Cache(attend, batch=BATCH, kv_heads=KEY_HEADS, heads=HEADS, dim=DIM, dtype=dtype), 0
    for count in (7, 1, 1, 6, 3, 1, 11):
        end = at + count
        cache.append(k[:, :, at:end], v[:, :, at:end])
        given = {name: t[:, :, :end] if t.dim() == 3 else t for name, t in inputs.items()}
        out = cache.attend(q[:, :, at:end], inputs=given)
        close("rows", out, want[:, :, at:end], 2 * TOLERANCE[dtype])
        assert (cache.n, out.dtype) == (end, dtype)
        at = end
    held = [sum(map(len, runs)) for runs in cache.positions]
    assert len(held) == 2
    assert min(held) < N
    order = torch.tensor([1, 0])
    cache.reorder(order)
    close(
        "the last again",
        cache.attend(q[order][:, :, -1:], inputs={name: t[order] if t.dim() == 3 else t for name, t in inputs.items()}),
        want[order][:, :, -1:],
        2 * TOLERANCE[dtype],
    )
    cache.reset()
    assert cache.n == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "attention a { mix { branch { attend k <= q - 4  linear favor(x, features = 16, stable = none)  divide total }"
        " branch { attend window(4) } } }",
        "attention a { input projection: float[batch, 4]  mix { branch { attend k <= q - 4  linear exp(x)  divide total"
        " } branch { attend window(4)  score s * projection[b, h] } } }",
    ],
)
def test_a_projection_is_one_for_random_features_and_else_an_input(text: str) -> None:
    attend, q = attnspec.compile(text), torch.randn(BATCH, HEADS, N, DIM)
    k, v = torch.randn(2, BATCH, KEY_HEADS, N, DIM).unbind(0)
    given = torch.randn((16, DIM) if "favor" in text else (BATCH, HEADS))
    want = attnspec.compile(text, target="dense")(*(t.double() for t in (q, k, v)), projection=given)
    close("call", attend(q, k, v, projection=given), want, 2 * TOLERANCE[torch.float32])
    cache = attnspec.Cache(attend, batch=BATCH, kv_heads=KEY_HEADS, heads=HEADS, dim=DIM)
    for at in (slice(0, N - 1), slice(N - 1, N)):
        cache.append(k[:, :, at], v[:, :, at])
        out = cache.attend(q[:, :, at], projection=given)
        close("rows", out, want[:, :, at], 2 * TOLERANCE[torch.float32])


@pytest.mark.parametrize("target", ["auto", "dense"])
def test_a_projection_that_nothing_takes_is_refused(target: str) -> None:
    attend = attnspec.compile(CASES["lolcats"], target=target)
    with pytest.raises(CallError, match="there is no input `projection`"):
        attend(*torch.zeros(3, 1, 2, 4, 8).unbind(0), projection=torch.zeros(2))


def test_what_cannot_be_kept_is_refused() -> None:
    ways = {"batch": 1, "kv_heads": 2, "dim": 8}
    with pytest.raises(CallError, match="no caches of keys"):
        attnspec.Cache(attnspec.compile("infini", target="dense"), **ways)
    cache = attnspec.Cache(attnspec.compile(CASES["shares"]), **ways)
    with pytest.raises(CallError, match="no log-sum-exp"):
        cache.attend(torch.zeros(1, 2, 1, 8), return_lse=True, gate=torch.zeros(1, 2, 1))
    with pytest.raises(CallError, match="the cache is empty"):
        cache.attend(torch.zeros(1, 2, 1, 8), gate=torch.zeros(1, 2, 1))
    assert str(cache) == "Cache(shares: 0 tokens, ring of 7; a state and up to 7 keys, 0 bytes)".replace(
        "0 bytes", f"{cache.bytes} bytes"
    )
