"""What is planned for ranks: the schedule, what it comes to, and what was weighed against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnspec.codegen.ranks.figures import Figures
from attnspec.codegen.ranks.machines import DEFAULT, Machine
from attnspec.codegen.ranks.planned import Schedule
from attnspec.codegen.ranks.times import operations
from attnspec.codegen.ranks.usual import Usual
from attnspec.relation.relation import inputs_of, scalar_names
from attnspec.spec.units import count, plural, quantity, seconds
from attnspec.spec.writing import Shown

FAST = 1.01
"""A candidate is faster than one before it if that takes so many times as long."""


@dataclass(frozen=True)
class Candidate:
    """A way to deal out positions and work, or in ``why`` the reason why it was not weighed."""

    name: str
    figures: Figures | None = None
    why: str = ""

    @property
    def seconds(self) -> float:
        """Of forward and backward."""
        return float("inf") if self.figures is None else self.figures.seconds


@dataclass(frozen=True)
class RankPlan(Shown):
    """A schedule for ranks, and why it is this one. ``usual`` are what other tools do, on the same machine."""

    schedule: Schedule
    machine: Machine
    dtype: str
    candidates: tuple[Candidate, ...]
    usual: tuple[Usual, ...]
    chosen: int
    reason: str

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return self.schedule.ranks

    @property
    def figures(self) -> Figures:
        """What the schedule comes to."""
        found = self.candidates[self.chosen].figures
        assert found is not None
        return found

    @property
    def speed(self) -> float:
        """How many times as long one rank alone would compute."""
        pairs, widths = self.figures.pairs // max(1, self.schedule.sizes.batch), self.schedule.widths
        alone = pairs * sum(operations(widths, backward) for backward in (False, True)) / self.machine.flops[self.dtype]
        return alone / self.figures.seconds if self.figures.seconds else 1.0

    @property
    def open_inputs(self) -> tuple[str, ...]:
        """The inputs that say which of the counted pairs there are."""
        relation = self.schedule.relation
        atoms = [atom for item in relation.classes for atom in item.unknown]
        return (*inputs_of(atoms), *(scalar_names(relation.spec) if relation.reads_scalars else ()))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without items and messages."""
        f = self.figures
        return {
            "ranks": self.ranks,
            "machine": self.machine.name,
            "dtype": self.dtype,
            "inputs": list(self.open_inputs),
            "prices": self.machine.origin,
            "shards": self.schedule.shards.kind,
            "rows": self.schedule.shards.rows,
            "steps": self.schedule.steps,
            **figures_dict(f),
            "all_gather_bytes": self.schedule.gathered,
            "by_rank": {
                "forward": f.forward.whole.tolist(),
                "backward": f.backward.whole.tolist(),
                "compute": f.forward.compute.tolist(),
                "messages": f.forward.messages.tolist(),
            },
            "chosen": self.candidates[self.chosen].name,
            "reason": self.reason,
            "candidates": [
                {"name": one.name, "why": one.why, **({} if one.figures is None else figures_dict(one.figures))}
                for one in self.candidates
            ],
            "usual": [
                {"name": one.name, "why": one.why}
                | ({} if one.why else {"forward": one.forward, "backward": one.backward, "received": one.received})
                for one in self.usual
            ],
        }

    def row(self) -> tuple[str, ...]:
        """The cells of a table over numbers of ranks."""
        f = self.figures
        best = min((one for one in self.usual if not one.why), key=lambda one: one.forward + one.backward)
        return (
            f"{self.ranks:,}",
            self.candidates[self.chosen].name,
            f"{f.balance:.3f}",
            quantity(f.received, "B"),
            seconds(f.forward.seconds),
            seconds(f.backward.seconds),
            f"{self.speed:,.1f}x",
            f"{best.name} {seconds(best.forward)}",
        )

    def __str__(self) -> str:
        f = self.figures
        lines = {
            "work": f"{count(f.pairs)} pairs, {f.balance:.3f} largest over mean",
            "receives": self._received(),
            "memory": f"keys held at most {f.held:,} of {self.schedule.sizes.n:,}",
            "time": f"{_passes(f)}; {_shown(f)}",
            "candidates": "   ".join(map(candidate_text, self.candidates)),
            "usual": "   ".join(map(usual_text, self.usual)),
            "chosen": self.reason,
            "prices": self.machine.origin,
        }
        if self.open_inputs:
            said = ", ".join(f"`{name}`" for name in self.open_inputs)
            lines["inputs"] = f"all of this at most: each call says what {said} holds"
        return written(self.ranks, self.schedule.shards, self.machine, lines)

    def _received(self) -> str:
        f = self.figures
        if self.ranks == 1:
            return "nothing: there is one rank"
        if not f.messages:
            return "nothing: no rank needs what another holds"
        gathered = self.schedule.gathered
        share = f"{f.received / gathered:.1%} of all keys" if gathered else ""
        messages = plural(f.messages, "message")
        return (
            f"{quantity(f.received, 'B')} a rank at most ({share}), {messages}; {quantity(f.returned, 'B')} in backward"
        )


def written(ranks: int, shared: object, machine: Machine, lines: dict[str, str]) -> str:
    """What a plan says, line by line, each behind its name; the first is how ranks share the sequence, and on what."""
    others = " (--machine names another)" if machine.name == DEFAULT else ""
    lines = {f"ranks {ranks:,}": f"{shared}, {machine}{others}", **lines}
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in lines.items())


def figures_dict(f: Figures) -> dict[str, Any]:
    """The figures that are one number each."""
    return {
        "pairs": f.pairs,
        "balance": f.balance,
        "received": f.received,
        "received_backward": f.returned,
        "received_messages": f.messages,
        "keys_held": f.held,
        "forward": f.forward.seconds,
        "backward": f.backward.seconds,
    }


def candidate_text(one: Candidate) -> str:
    """``zigzag 3.3 ms``."""
    return f"{one.name}: {one.why}" if one.figures is None else f"{one.name} {seconds(one.seconds)}"


def usual_text(one: Usual) -> str:
    """``ring 97 ms``."""
    return f"{one.name}: {one.why}" if one.why else f"{one.name} {seconds(one.forward + one.backward)}"


def _passes(f: Figures) -> str:
    return f"{seconds(f.forward.seconds)} forward, {seconds(f.backward.seconds)} backward"


def _shown(f: Figures) -> str:
    """What of the forward pass is communication."""
    compute, messages = float(f.forward.compute.max()), float(f.forward.messages.max())
    if not f.messages:
        return "all of it computing"
    hidden = "hidden" if f.forward.seconds <= FAST * compute else f"computing alone would take {seconds(compute)}"
    return f"messages of {seconds(messages)} forward, {hidden}"
