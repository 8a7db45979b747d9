"""What training over segments keeps, how far gradients flow, and that parts add up to the whole."""

from __future__ import annotations

import copy
import gc
import io
import time

import pytest
import torch
from torch import Tensor

from attnspec.runtime.recurrent.recurrent import Recurrent
from tests.support.recurrent import Layered, Small, close, gradients, mean_loss, tokens, wrapped

HORIZON = "attention a {{ include rmt(slots = 2, segment = 4){} }}"
KEPT = {"rmt": {"slots": 2}, "hmt": {"before": 3, "store": 5, "dim": 5}}


def kept_bytes(model: Recurrent, ids: Tensor) -> int:
    """What a forward pass keeps for the backward pass beside parameters: each storage once, whole."""
    storages: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alive = []

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = model(ids, labels=ids).loss
    assert loss.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("name", ["rmt", pytest.param("hmt", marks=pytest.mark.slow)])
def test_segments_that_run_again_give_the_same_bits_and_keep_little(name: str) -> None:
    """Also with dropout; 64 segments of 32 tokens."""
    model = wrapped(Small(dropout=0.3), name, torch.float32, segment=32, **KEPT[name])
    ids = tokens(2, 64 * 32)
    found = []
    for model.remat in (True, False):
        torch.manual_seed(5)
        loss = model(ids[:, :200], labels=ids[:, :200]).loss
        found.append({"loss": loss, **gradients(model, loss)})
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    model.remat = True
    least = kept_bytes(model, ids)
    model.remat = False
    assert least * 20 <= kept_bytes(model, ids)


def test_what_training_keeps_is_as_the_cost_says() -> None:
    """The carried vectors of each segment, and the ids with what follows them, which were there before."""
    model = wrapped(Small(), "rmt", torch.float32, slots=2, segment=32)
    ids = tokens(3, 64 * 32)
    cost = model.cost(ids.shape[1], batch=3)
    assert cost.kept_bytes == 64 * 3 * 2 * 16 * 4
    assert cost.kept_bytes <= kept_bytes(model, ids) <= cost.kept_bytes + 2 * 8 * ids.numel() + 64 * 64
    assert model(ids).state.bytes == cost.carried_bytes


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_a_horizon_is_blocks_computed_separately(horizon: int) -> None:
    """Each block gets what the one before carried, as plain numbers; 5 segments and a short one."""
    model = wrapped(Small(), HORIZON.format(f" horizon {horizon}"))
    never = copy.deepcopy(model)
    never.recurrence = never._run.recurrence = wrapped(Small(), HORIZON.format("")).recurrence
    ids = tokens(2, 22)
    want, state, total = {}, None, torch.zeros(())
    for start in range(0, 22, 4 * horizon):
        stop = min(start + 4 * horizon + 1, 22)  # one more: the label of the last
        out = never(ids[:, start : start + 4 * horizon], logits=True, state=state)
        logits = out.logits[:, : stop - start - 1]
        labels = ids[:, start + 1 : stop]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / 42
        part = gradients(never, loss) if loss.requires_grad else {}
        want = {key: want.get(key, 0) + g for key, g in part.items()}
        state, total = out.state.detach(), total + loss.detach()
    out = model(ids, labels=ids)
    close({"loss": out.loss, **gradients(model, out.loss)}, {"loss": total, **want})


@pytest.mark.parametrize("text", [HORIZON.format(" horizon 2"), HORIZON.format("")])
def test_parts_add_up_to_a_call(text: str) -> None:
    model = wrapped(Small(), text)
    ids = tokens(2, 22)
    whole = model(ids, labels=ids, logits=True)
    whole.loss.backward()
    want = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    parts = []
    for part in model.segments(ids, logits=True):
        part.loss.backward()
        parts.append(part)
    assert len(parts) == (3 if model.recurrence.horizon else 1)
    close({"loss": sum(part.loss for part in parts)}, {"loss": whole.loss})
    close({"logits": torch.cat([part.logits for part in parts], 1)}, {"logits": whole.logits})
    close({name: p.grad for name, p in model.named_parameters()}, want)


def test_parts_of_what_is_detached_are_segments() -> None:
    model = wrapped(Layered(), "transformer_xl", segment=4, length=6)
    ids = tokens(2, 22)
    assert len([part.loss.backward() for part in model.segments(ids)]) == 6
    mine = {name: p.grad for name, p in model.named_parameters()}
    close(mine, gradients(model, model(ids, labels=ids).loss))


def test_a_stream_goes_on_inside_a_horizon() -> None:
    """The boundary is at a multiple of segments of the stream, not of the call."""
    model = wrapped(Small(), HORIZON.format(" horizon 2"))
    ids = tokens(2, 22)
    first = model(ids[:, :4])
    assert [part.state.segments for part in model.segments(ids[:, 4:], state=first.state)] == [2, 4, 6]


def test_it_is_saved_loaded_copied_and_moved() -> None:
    model = wrapped(Small(), "hmt", segment=8, before=3, store=5, dim=5)
    ids = tokens(2, 30)
    want = model(ids, labels=ids).loss
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    other = wrapped(Small(), "hmt", segment=8, before=3, store=5, dim=5)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert torch.equal(other(ids, labels=ids).loss, want)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(ids, labels=ids).loss, want)
    twin.float()
    close({"loss": twin(ids, labels=ids).loss.double()}, {"loss": want}, 1e-5)
    assert twin(ids).state["written"].dtype == torch.float32
    twin.bfloat16()
    close({"loss": twin(ids, labels=ids).loss.double()}, {"loss": want}, 0.1)
    twin.to("meta")
    assert twin(ids.to("meta"), labels=ids.to("meta")).loss.is_meta
    assert set(model.own.state_dict()) == {
        "initial.written",
        "recall.prompt",
        "recall.query.weight",
        "recall.key.weight",
    }


def test_autocast() -> None:
    model = wrapped(Small(), "rmt", torch.float32, slots=2, segment=8)
    ids = tokens(2, 30)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(ids, labels=ids)
    out.loss.backward()
    assert out.loss.dtype == torch.float32
    assert out.state["written"].dtype == torch.float32
    close({"loss": out.loss}, {"loss": model(ids, labels=ids).loss}, 0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_nothing_is_kept_without_gradients() -> None:
    model = wrapped(Small(), "rmt", slots=2, segment=8)
    with torch.no_grad():
        out = model(tokens(2, 30), labels=tokens(2, 30), logits=True)
    assert not any(t.requires_grad for t in (out.loss, out.logits, *out.state.tensors))


@pytest.mark.slow
def test_a_segment_takes_the_same_time_however_many_there_are() -> None:
    model = wrapped(Small(), "rmt", torch.float32, slots=2, segment=32)

    def each(segments: int) -> float:
        ids = tokens(1, segments * 32)
        start = time.process_time()
        model(ids, labels=ids).loss.backward()
        return (time.process_time() - start) / segments

    each(8)
    gc.collect()
    gc.disable()  # the collector walks over all there is, which grows with the graph
    try:
        times = [(each(32), each(512)) for _ in range(4)]
    finally:
        gc.enable()
    short, long = map(min, zip(*times, strict=True))
    assert long <= 1.4 * short


def test_the_loss_is_that_of_the_logits() -> None:
    """No label is moved twice, also where a segment ends."""
    model = wrapped(Small(), "rmt", slots=2, segment=8)
    ids = tokens(3, 24)
    labels = ids.clone()
    labels[:, :9] = labels[0] = -100  # the first that is counted is the label of the first segment's last token
    labels[1, 8] = 3
    out = model(ids, labels=labels, logits=True)
    close({"loss": out.loss}, {"loss": mean_loss(out.logits, labels)})
    assert model(ids, labels=torch.full_like(ids, -100)).loss.isnan()
