"""What is known of a call before its tensors are looked at: found once for each form of its vectors, and kept."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import reads
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import check_call
from attnspec.runtime.core.form import Form
from attnspec.runtime.core.program import decode, facts
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import check_lists, is_wide, sizes_of
from attnspec.runtime.prepare.inputs import Preparation
from attnspec.runtime.prepare.operator import with_order
from attnspec.runtime.prepare.rotate import Kept, all_angles
from attnspec.runtime.targets import kinds
from attnspec.spec import contents
from attnspec.spec.spec import Spec

MOST_HELD = 1 << 16
"""So many numbers of tables of angles are held for a form at most: a quarter of a mebibyte."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A form of a call of one program: its sizes, how inputs are made ready, by what vectors turn.

    ``angles`` are there where nothing but the form decides them, and they are small.
    """

    spec: Spec
    sizes: Sizes
    inputs: Preparation
    angles: Kept

    def ready(self, q: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a call of tensors on the CPU, made ready. Raises CallError where they do not fit."""
        found = self.inputs(given, None)
        return found if self.spec.order is None else with_order(self.spec, q, given, found)


@functools.lru_cache(maxsize=512)
def fits(
    encoded: str, q_shape: Form, q: torch.dtype, k_shape: Form, k: torch.dtype, v_shape: Form, v: torch.dtype
) -> None:
    """Raises CallError where tensors on the CPU, of these shapes and element types, do not fit a program."""
    program = decode(encoded)
    check_call(
        facts(program).name, program.target, kinds(program.target), _of(q_shape, q), _of(k_shape, k), _of(v_shape, v)
    )
    if facts(program).lists:
        check_lists(program, q_shape[1], k_shape[1], q_shape[0])


@functools.lru_cache(maxsize=256)
def prepared(encoded: str, q_shape: Form, k_shape: Form, dtype: torch.dtype) -> Prepared:
    """What is known of a call of a program with tensors on the CPU, of shapes that fit. Raises CallError."""
    spec, q, k = spec_of(decode(encoded)), _of(q_shape, dtype), _of(k_shape, dtype)
    sizes = sizes_of(spec, q, k)
    inputs = Preparation.of(spec, sizes, wide=is_wide(q, k))
    return Prepared(spec, sizes, inputs, _angles(spec, q, k, sizes))


def _of(shape: Form, dtype: torch.dtype) -> Tensor:
    """A tensor of one number that stands for all of a shape."""
    return torch.empty((), dtype=dtype).expand(shape)


def _angles(spec: Spec, q: Tensor, k: Tensor, sizes: Sizes) -> Kept:
    """By what the rotations of a spec turn, if they read no inputs and it is not too much to be held."""
    numbers = 0
    for rotation in spec.rotations:
        if reads(*rotation.expressions):
            return ()
        free = frozenset().union(*map(contents.free, rotation.expressions))
        each = (sizes.batch if "b" in free else 1) * (sizes.heads if "h" in free else 1)
        numbers += each * (sizes.n + sizes.n_q) * q.shape[3]
    if numbers > MOST_HELD:
        return ()
    with torch.inference_mode(False):  # what is kept may later be needed for gradients
        return tuple(all_angles(spec, q, k, sizes, {}))
