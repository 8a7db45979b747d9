"""What FlopCounterMode counts of a call: the operations that live pairs take, by the conventions of PyTorch's SDPA.

>>> import attnspec
>>> from torch.utils.flop_counter import FlopCounterMode
>>> q = torch.randn(1, 2, 100, 16)
>>> with FlopCounterMode(display=False) as counter:
...     _ = attnspec.compile("causal")(q, q, q)
>>> counter.get_total_flops()  # 2 heads, 5,050 pairs, 16 + 16 multiply-adds
646400

Forward is two products, 2 * (dim + dim_v) for each pair, backward five, 2 * (3 * dim + 2 * dim_v), as
``sdpa_flop_count`` and ``sdpa_backward_flop_count`` of ``torch.utils.flop_counter`` have it. Which pairs are counted
where they depend on inputs: see :func:`attnspec.runtime.pairs.pairs`. Score lines, rotations and hashing are not
counted, as PyTorch counts no other elementwise operations. Of weights that are products of features what their kernels
compute is counted, states included: see ``attend.cost``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.core.request import Call

_MODULE = "torch.utils.flop_counter"
_OPERATORS = ("attend", "attend_bare", "attend_turning", "attend_backward", "attend_bare_backward")
_LINEAR = ("attend_linear", "attend_linear_backward")
_PARTS = ("part", "part_into", "part_backward", "part_backward_into")


Formula = Callable[..., int]
"""The operations of a call of an operator, from its arguments."""


def watched(more: Mapping[str, Formula] = MappingProxyType({})) -> None:
    """Before an operator is called: who counts operations is to know of it, and of ``more``, by their names."""
    if not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack():
        announce(more)


def announce(more: Mapping[str, Formula] = MappingProxyType({})) -> None:
    """Tell FlopCounterMode of the operators, if anybody has imported it.

    It takes half a second to import, and each mode copies the registry when it is made: active ones are told too.
    """
    module = sys.modules.get(_MODULE)
    if module is None or not hasattr(module, "FlopCounterMode"):  # not imported, or not yet whole
        return
    names = [
        name for name in (*_OPERATORS, *_LINEAR, *_PARTS) if hasattr(torch.ops.attnspec, name)
    ]  # those defined so far
    formulas: dict[str, Formula] = {name: functools.partial(_operations, name) for name in names}
    formulas |= more
    packets = [getattr(torch.ops.attnspec, name) for name in formulas]
    for formula, packet in zip(formulas.values(), packets, strict=True):
        if packet not in module.flop_registry:
            module.register_flop_formula(packet, get_raw=True)(formula)
    for mode in torch.utils._python_dispatch._get_current_dispatch_mode_stack():
        counter = getattr(mode, "counter", None)
        if isinstance(counter, module.FlopCounterMode):
            for packet in packets:
                counter.flop_registry.setdefault(packet, module.flop_registry[packet])


def _operations(name: str, *arguments: Any, out_val: Any = None) -> int:
    """The operations of a call of an operator with these arguments."""
    if name in _PARTS:
        raise NotImplementedError(
            "FlopCounterMode does not count parts of a score matrix (attend.part): attend.cost(n=...) counts the whole"
        )
    if name in _LINEAR:
        return _of_features(name.endswith("backward"), *arguments[:4])
    fields = list(arguments)
    if "bare" in name:
        fields.insert(3, ())
    from attnspec.runtime.pairs import pairs  # here: few calls are counted

    call = Call(*fields[: len(Call._fields) - len(Call._field_defaults)])
    dim, dim_v = call.q.shape[3], call.v.shape[3]
    return 2 * pairs(call) * (3 * dim + 2 * dim_v if name.endswith("backward") else dim + dim_v)


def _of_features(backward: bool, tensors: Sequence[Tensor], names: Sequence[str], scale: Any, program: str) -> int:
    from attnspec.runtime.core.visible import visible
    from attnspec.runtime.linear.work import Work
    from attnspec.runtime.pairs import cost_of, pairs

    q, k, v, *given = tensors
    inputs = Work.of(tensors, names, scale, program).kernel_inputs if visible(*given) else given
    call = Call(q, k, v, inputs, None, None, 1.0, program)
    found = cost_of(call)
    if found is None:
        return 2 * pairs(call) * (q.shape[3] + v.shape[3]) * (2 if backward else 1)
    return found.backward_flops if backward else found.flops
