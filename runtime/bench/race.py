"""A pattern against PyTorch's own attention on the same tensors, in one process and one interleaved run."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from attnspec.runtime.attention import Attention
from attnspec.runtime.bench.clock import Timing, race
from attnspec.runtime.bench.peers import Making, make, peers, reason
from attnspec.runtime.bench.predicted import Predicted, predicted
from attnspec.runtime.bench.setup import Peer, Setup, call_of, clock_of, examples, inputs
from attnspec.runtime.prepare.inputs import prepare

Tick = Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """The timings by contender (``attnspec`` first), and why others are missing.

    ``preparation`` is what checking and completing the inputs takes of each call of attnspec; None if there are none.
    ``notes`` say how a peer was run, by its name: SDPA's backend; ``FlexAttention mask`` is the time in seconds of
    building its block mask, which is not counted. ``predicted`` is what attnspec's call should take.
    """

    timings: dict[str, Timing]
    missing: dict[str, str]
    preparation: Timing | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    predicted: Predicted | None = None

    @property
    def share(self) -> float | None:
        """The preparation's share of the time of attnspec's calls."""
        return None if self.preparation is None else self.preparation.median / self.timings["attnspec"].median

    def ratio(self, peer: str) -> float | None:
        """How many times faster than a peer, by medians."""
        return self.timings[peer].median / self.timings["attnspec"].median if peer in self.timings else None


@dataclass(frozen=True)
class Contenders:
    """Calls that have run once, by name, and why others are missing; ``notes`` as in :class:`Outcome`.

    ``given`` are the inputs of the pattern.
    """

    given: Mapping[str, Tensor]
    calls: dict[str, Callable[[], object]]
    missing: dict[str, str]
    notes: dict[str, str]


def contenders(
    attend: Attention,
    setup: Setup,
    flex: bool,
    tick: Tick,
    autotune: bool = False,
    names: Sequence[str] | None = None,
) -> Contenders:
    """Compile and call a pattern and its peers (all there are, or the ones of these ``names``).

    All get the same example inputs. What a pattern rotates or normalizes is part of attnspec's call, and not of the
    others': they get vectors as if that were done.
    """
    tensors, given, spec = inputs(setup), examples(attend.spec, setup), attend.spec
    call: Callable[..., Tensor] = attend
    making = Making(attend, setup, given, autotune)
    tick("compiling the kernel")
    found = Contenders(
        given, {"attnspec": call_of(lambda q, k, v: call(q, k, v, **given), tensors, setup)}, {}, making.notes
    )
    found.calls["attnspec"]()
    for name in peers(setup.device) if names is None else names:
        tick(f"preparing {name}")
        why = reason(name, setup, spec, flex)
        if why is None:
            why = _prepare(found.calls, name, functools.partial(make, name, making), tensors, setup)
        if why is not None:
            found.missing[name] = why
    return found


def bench(
    attend: Attention,
    setup: Setup,
    flex: bool,
    tick: Tick = lambda _: None,
    autotune: bool = False,
    names: Sequence[str] | None = None,
    expected: Predicted | None = None,
    budget: float = math.inf,
) -> Outcome:
    """Time a pattern and its peers on the device of the setup.

    Mask building and compilation are not counted for anyone. ``tick`` is told what happens; ``autotune`` lets
    FlexAttention try its kernels' schedules too; ``names`` are the peers, all if None; ``expected`` is the prediction
    where it is known already; ``budget`` the seconds that rounds may take, as :func:`race` deals them out.
    """
    made, spec, clock = contenders(attend, setup, flex, tick, autotune, names), attend.spec, clock_of(setup.device)
    with _quiet():
        timings = race(made.calls, setup.runs, lambda: tick("timing"), clock, budget)
        preparation = None
        if spec.inputs:
            prepare(spec, setup.sizes, made.given)
            work = {"preparation": lambda: prepare(spec, setup.sizes, made.given)}
            preparation = race(work, setup.runs, clock=clock)["preparation"]
    if expected is None:
        tick("predicting")
        expected = predicted(attend, setup, made.given)
    return Outcome(timings, made.missing, preparation, made.notes, expected)


def _prepare(
    found: dict[str, Callable[[], object]],
    name: str,
    make: Callable[[], Peer],
    tensors: tuple[Tensor, ...],
    setup: Setup,
) -> str | None:
    """Add a peer that has run once; the reason if it cannot: a peer's failure must not end a suite."""
    logging.disable(logging.CRITICAL)  # a peer that fails to compile prints its whole graph
    try:
        call = call_of(make(), tensors, setup)
        call()
    except Exception as error:
        return f"failed: {type(error).__name__}"
    finally:
        logging.disable(logging.NOTSET)
    found[name] = call
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    import gc

    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
