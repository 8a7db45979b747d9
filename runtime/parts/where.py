"""Where a part lies in its score matrix: checked, and completed by what its tensors and the pattern tell.

>>> import attnspec
>>> q, k = torch.empty(2, 8, 64, 16), torch.empty(2, 2, 100, 16)
>>> part_of(attnspec.compile("causal").program.encoded, q, k, Asked(q_start=300, k_start=0, n=4096))
Part(q_start=300, k_start=0, h_start=0, b_start=0, n=4096, n_q=4096, heads=8, kv_heads=2, batch=2)
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.relation.sizes import MOST
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.form import Form
from attnspec.runtime.core.program import decode, facts, spec
from attnspec.runtime.core.request import Part
from attnspec.runtime.prepare.inputs import reads
from attnspec.spec import contents

UNKNOWN = -1
"""Stands for a number that the caller does not say. (Schemas of operators have no lists in which some are missing.)"""


class Asked(NamedTuple):
    """What a caller says of where a part lies: the fields of a Part, UNKNOWN where they are left out."""

    q_start: int
    k_start: int
    n: int
    h_start: int = UNKNOWN
    b_start: int = UNKNOWN
    n_q: int = UNKNOWN
    heads: int = UNKNOWN
    kv_heads: int = UNKNOWN
    batch: int = UNKNOWN

    @classmethod
    def of(cls, name: str, **given: object) -> Asked:
        """From arguments, None where they are left out. Raises CallError for what is no number, or a negative one."""
        numbers: dict[str, int] = {}
        for label, number in given.items():
            if number is None:
                continue
            whole = number if type(number) is int else _whole(name, label, number)
            if whole < 0 and label != "q_start":
                raise CallError(f"{name}: {label} must not be negative; it is {whole}")
            numbers[label] = whole
        return cls(**numbers)


def part_of(program: str, q: Tensor, k: Tensor, asked: Asked) -> Part:
    """The part that these tensors are. Raises CallError where it lies outside the whole, or where that is not known."""
    return _part_of(program, q.shape, k.shape, asked)


@functools.lru_cache(maxsize=512)
def _part_of(program: str, q_shape: Form, k_shape: Form, asked: Asked) -> Part:
    (batch, heads, rows, _), (_, kv_heads, keys, _) = q_shape, k_shape
    n, known_of, read = asked.n, facts(decode(program)), _read(program)
    name, align = known_of.name, known_of.align
    if not 0 <= n <= MOST:
        raise CallError(f"{name}: n, the length of the whole sequence, must be between 0 and 2**33, not {n}")
    if asked.k_start + keys > n:
        raise CallError(f"{name}: k has {keys} keys from k_start = {asked.k_start} on, which is beyond n = {n}")
    n_q = asked.n_q
    if n_q == UNKNOWN:
        if "n_q" in read:
            raise CallError(_unknown(name, "n_q", "the number of queries of the whole"))
        n_q = n if align == "end" else max(n, asked.q_start + rows)
    first = n - n_q if align == "end" else 0
    if not first <= asked.q_start <= asked.q_start + rows <= first + n_q:
        raise CallError(
            f"{name}: q has {rows} rows from q_start = {asked.q_start} on; queries stand at positions {first} to "
            f"{first + n_q - 1} (n = {n}, n_q = {n_q})"
        )
    known = {"q_start": asked.q_start, "k_start": asked.k_start, "n": n, "n_q": n_q}
    for start, start_is, held in (
        ("h_start", asked.h_start, {"heads": heads, "kv_heads": kv_heads}),
        ("b_start", asked.b_start, {"batch": batch}),
    ):
        known[start] = max(0, start_is)
        for label, count in held.items():
            whole, own = getattr(asked, label), 0 if label == "kv_heads" else known[start]
            if whole == UNKNOWN:
                if start_is != UNKNOWN and label in read:
                    raise CallError(_unknown(name, label, f"how many there are in the whole, as {start} is given"))
                whole = own + count
            if own + count > whole:
                what = {"heads": "query heads", "kv_heads": "key heads", "batch": "batch entries"}[label]
                raise CallError(f"{name}: there are {count} {what} from {own} on, which is beyond {label} = {whole}")
            known[label] = whole
    return Part(**known)


def _whole(name: str, label: str, number: object) -> int:
    if isinstance(number, Tensor) and number.numel() == 1 and not number.is_floating_point():
        number = number.item()
    if isinstance(number, bool) or not isinstance(number, int | torch.SymInt):
        raise CallError(f"{name}: {label} is a number of positions, heads or batch entries, not {number!r}")
    return number  # type: ignore[return-value]


def _unknown(name: str, label: str, what: str) -> str:
    return f"{name}: the pattern reads `{label}`, which a part does not tell: give {label}=, {what}"


@functools.lru_cache(maxsize=256)
def _read(program: str) -> frozenset[str]:
    """The sizes that mean something in a pattern, of those that a part does not tell."""
    checked = spec(decode(program))
    nodes = [*checked.roots, *(size for declared in checked.inputs for size in declared.sizes)]
    nodes += [end for i in checked.inputs if i.random is not None for end in (i.random.low, i.random.high)]
    found = frozenset(name for node in nodes for name in contents.free(node))
    if "alibi.slope" in reads(checked):
        found |= {"heads"}
    if not all(axis.queries and axis.keys for axis in checked.axes):
        found |= {"n_q"}
    return found & {"n_q", "heads", "kv_heads", "batch"}
