"""What is no formula of positions is refused, with the user's own line."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

import inspect
import random

import numpy as np
import pytest
import torch
from torch.utils.dlpack import from_dlpack, to_dlpack

from attnspec import CallError
from attnspec.flex import spec_of
from attnspec.runtime.flex.tables import Table, Tables
from attnspec.runtime.flex.trace import Place

DOC = torch.tensor([0, 0, 1, 1])
FLOATS = torch.rand(4)
TRAINED = torch.nn.Parameter(torch.rand(4))
NOWHERE = torch.zeros(4, dtype=torch.long, device="meta")
COUNTS = [0]


def counts(b, h, q, k):
    COUNTS[0] += 1
    return q - k < COUNTS[0]


def fills(b, h, q, k):
    seen = torch.zeros(2, dtype=torch.bool)
    seen[0] = q > k
    return seen.any()


def changes_a_part(b, h, q, k):
    pair = torch.stack([q, k])
    pair[0].add_(1)
    return pair[0] > pair[1]


IF = "a mask has no `if`"
MASKS = {
    "if": (lambda b, h, q, k: q > k if h > 0 else q < k, IF),
    "and": (lambda b, h, q, k: q > k and k > 2, IF),
    "a chain": (lambda b, h, q, k: 0 <= q - k < 3, IF),
    "a range": (lambda b, h, q, k: sum(q == i for i in range(k)) > 0, IF),
    "int()": (lambda b, h, q, k: q - k <= [1, 2][int(h)], IF),
    "a list": (lambda b, h, q, k: q - k <= [1, 2][h], IF),
    "a tensor of positions": (lambda b, h, q, k: torch.tensor([q, k]).sum() > 5, IF),
    "numpy": (lambda b, h, q, k: torch.from_numpy(np.asarray(q)) > k, IF),
    "tolist": (lambda b, h, q, k: DOC.tolist()[q.tolist()] > k, IF),
    "a counter": (counts, "does not do the same"),
    "random numbers": (lambda b, h, q, k: q - k < random.random() * 100, "does not do the same"),
    "torch's random numbers": (lambda b, h, q, k: torch.rand(()) > 0.5, "random numbers"),
    "dropout": (lambda b, h, q, k: torch.bernoulli((q > k) * 0.5) > 0, "random numbers"),
    "a tensor around it": (lambda b, h, q, k: DOC.add_(1)[q] > k, "side effects"),
    "an entry of one": (lambda b, h, q, k: DOC.__setitem__(0, 3) or DOC[q] > k, "side effects"),
    "a tensor filled by positions": (fills, "in place"),
    "a part in place": (changes_a_part, "in place"),
    "an operation": (lambda b, h, q, k: torch.bincount(q.view(1))[0] > 0, "aten.bincount"),
    "cosines": (lambda b, h, q, k: torch.cos(q * 0.1) > 0, "aten.cos"),
    "a divisor that is read": (lambda b, h, q, k: q // (DOC[k] + 1) > 1, "divisor"),
    "floats": (lambda b, h, q, k: FLOATS[q] > 0.5, "`FLOATS` is torch.float32"),
    "quotients": (lambda b, h, q, k: q / 2 >= k, "compares reals"),
    "bits without end": (lambda b, h, q, k: (q ^ k) == 1, "take as many bits as matter"),
    "shifted small integers": (lambda b, h, q, k: DOC.to(torch.uint8)[q] << 7 > k, "torch.uint8, which numbers may"),
    "what is no small integer": (lambda b, h, q, k: DOC.to(torch.uint8)[q] > -1, "-1 is no number of torch.uint8"),
    "cut integers": (lambda b, h, q, k: (k - q).to(torch.uint8) < 3, "torch.uint8, which numbers may overflow"),
    "rounded positions": (lambda b, h, q, k: q.half() == k.half(), "torch.float16, which rounds positions"),
    "small integers": (lambda b, h, q, k: DOC.to(torch.uint8)[q] - 2 > k, "torch.uint8, which numbers may overflow"),
    "a short table": (lambda b, h, q, k: DOC[:3][q] > k, "has 3 entries in dimension 0 and is read by `q`, which"),
    "a short table of blocks": (lambda b, h, q, k: DOC[:1][k // 2] > q, "is read by `k // 2`, which reaches 1"),
    "an index of bytes": (lambda b, h, q, k: DOC[DOC.to(torch.uint8)[q]] == k, r"selects as a mask does.*index\.long"),
    "rounded reals": (lambda b, h, q, k: (q * 0.3).floor() > k, "made whole"),
    "a number": (lambda b, h, q, k: q - k, "returns an integer"),
    "a row": (lambda b, h, q, k: q == DOC, r"returns \[4\] numbers"),
    "no result": (lambda b, h, q, k: None, "returns NoneType"),
    "a mistake": (lambda b, h, q, k: DOC[q] == unknown, "name 'unknown' is not defined"),  # type: ignore[name-defined] # noqa: F821
    "three arguments": (lambda b, q, k: q >= k, r"takes \(b, h, q_idx, kv_idx\)"),
}
SCORES = {
    "a product of vectors": (
        lambda s, b, h, q, k: s + torch.dot(TRAINED[:2], DOC[:2][q].float() * TRAINED[:2]),
        "aten",
    ),
    "seen by its score": (lambda s, b, h, q, k: torch.where(s > 0, s, -float("inf")), "hangs on its score"),
    "infinite": (lambda s, b, h, q, k: s + float("inf"), "infinity"),
    "no number": (lambda s, b, h, q, k: s * float("nan"), "nan"),
    "a copy of what is trained": (lambda s, b, h, q, k: s + (TRAINED * 2)[k], "`TRAINED` requires grad"),
    "a score without its gradient": (lambda s, b, h, q, k: s - s.detach(), "gradients are kept from a score"),
    "a tensor without its gradient": (lambda s, b, h, q, k: s + TRAINED[k].detach(), "gradients are kept from"),
    "no gradients": (torch.no_grad()(lambda s, b, h, q, k: s * TRAINED[k]), "gradients are kept from"),
    "four arguments": (lambda b, h, q, k: q * 1.0, "a score_mod takes"),
}


@pytest.mark.parametrize(("mask", "message"), MASKS.values(), ids=MASKS.keys())
def test_masks(mask, message: str) -> None:
    before = DOC.clone()
    with pytest.raises(CallError, match=message) as caught:
        spec_of(mask, 1, 1, 4, 4)
    first = inspect.getsourcelines(mask)[1]
    assert str(caught.value).startswith(f"{__file__}:")
    assert first <= int(str(caught.value).split(":")[1]) <= first + 3
    assert torch.equal(DOC, before)


@pytest.mark.parametrize(("score", "message"), SCORES.values(), ids=SCORES.keys())
def test_scores(score, message: str) -> None:
    with pytest.raises(CallError, match=message) as caught:
        spec_of(score_mod=score)
    assert f"{__file__}:{inspect.getsourcelines(score)[1]}" in str(caught.value)


@pytest.mark.slow  # (PyTorch takes seconds to load what it does on this device)
def test_tensors_without_values() -> None:
    with pytest.raises(CallError, match="`NOWHERE` is on the device meta"):
        spec_of(lambda b, h, q, k: NOWHERE[q] == 0)


def test_tensors_on_two_devices() -> None:
    tables = Tables({})
    for device in ("cpu", "meta"):  # there need not be another here
        tables.found[device] = Table(device, torch.zeros(4, device=device), Place("mine.py", 3))
    with pytest.raises(CallError, match=r"mine\.py:3: `meta` is on meta and `cpu` on cpu: move them to one device"):
        tables.check_devices()


def test_what_tracing_does_not_see_shows_at_some_pair() -> None:
    with pytest.raises(CallError, match=r"at b = 0, h = \d, q_idx = \d, kv_idx = \d the function gives (True|False)"):
        spec_of(lambda b, h, q, k: from_dlpack(to_dlpack(q)) - k < 3, 1, 2, 8, 8)
    with pytest.raises(CallError, match="does something that tracing does not see"):
        spec_of(None, 1, 2, 8, 8, score_mod=lambda s, b, h, q, k: s + from_dlpack(to_dlpack(k)))


@pytest.mark.parametrize("what", [3, "causal", None])
def test_what_is_no_function(what: object) -> None:
    with pytest.raises(CallError, match="mask_mod"):
        spec_of(what)  # type: ignore[arg-type]
