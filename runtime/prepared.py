"""What is known of a call before its tensors are looked at: found once for each form of its vectors, and kept."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import reads
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import check_call
from attnspec.runtime.core.form import Form
from attnspec.runtime.core.program import Program, decode, facts
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import check_lists, is_wide, sizes_of
from attnspec.runtime.prepare.inputs import Preparation
from attnspec.runtime.prepare.operator import with_order
from attnspec.runtime.prepare.rotate import Kept, all_angles
from attnspec.runtime.targets import kinds
from attnspec.spec import contents

MOST_HELD = 1 << 16
"""So many numbers of tables of angles are held for a form at most: a quarter of a mebibyte."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A form of a call of one program, with tensors that stand for its vectors. The rest is found when it is asked for.

    Calls of a mask alone want no more than ``scale``, and the text of their pattern is not read.
    """

    program: Program
    q: Tensor
    k: Tensor

    @cached_property
    def scale(self) -> float:
        """The softmax scale where the call gives none."""
        own = None if facts(self.program).bare else spec_of(self.program).scale
        return 1.0 / math.sqrt(self.q.shape[3]) if own is None else float(own)

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes. Raises CallError where no axis lengths fit."""
        return sizes_of(spec_of(self.program), self.q, self.k)

    @cached_property
    def inputs(self) -> Preparation:
        """How inputs are made ready."""
        return Preparation.of(spec_of(self.program), self.sizes, wide=is_wide(self.q, self.k), own=True)

    @cached_property
    def angles(self) -> Kept:
        """By what the rotations turn, if they read no inputs and it is not too much to be held."""
        spec, sizes, numbers = spec_of(self.program), self.sizes, 0
        for rotation in spec.rotations:
            if reads(*rotation.expressions):
                return ()
            free = frozenset().union(*map(contents.free, rotation.expressions))
            each = (sizes.batch if "b" in free else 1) * (sizes.heads if "h" in free else 1)
            numbers += each * (sizes.n + sizes.n_q) * self.q.shape[3]
        if numbers > MOST_HELD:
            return ()
        with torch.inference_mode(False):  # what is kept may later be needed for gradients
            return tuple(all_angles(spec, self.q, self.k, sizes, {}))

    def ready(self, q: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a call of tensors on the CPU, made ready. Raises CallError where they do not fit."""
        found, spec = self.inputs(given, None), self.inputs.spec
        return found if spec.order is None else with_order(spec, q, given, found)


@functools.lru_cache(maxsize=512)
def prepared(
    encoded: str, q_shape: Form, q: torch.dtype, k_shape: Form, k: torch.dtype, v_shape: Form, v: torch.dtype
) -> Prepared:
    """What is known of a call with tensors on the CPU, of these shapes and element types.

    Raises CallError where they do not fit the program.
    """
    program = decode(encoded)
    vectors = [
        torch.empty((), dtype=dtype).expand(shape) for shape, dtype in ((q_shape, q), (k_shape, k), (v_shape, v))
    ]
    check_call(facts(program).name, program.target, kinds(program.target), *vectors)
    if facts(program).lists:
        check_lists(program, q_shape[1], k_shape[1], q_shape[0])
    return Prepared(program, *vectors[:2])
