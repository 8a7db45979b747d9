"""Whether an operator may be run as the function behind it, past PyTorch's dispatcher.

The dispatcher, and the wrapper that gives an operator its gradients, cost several times as much as a small kernel.
They are needed where somebody else is to know of a call; then it goes through the operator.

>>> q = torch.zeros(1, 2, 8, 16)
>>> direct(q), direct(q.to("meta"))
(True, False)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

_keys = torch._C._dispatch_keys
_included = torch._C._dispatch_tls_local_include_set
_function_modes = torch._C._len_torch_function_stack
_profiled = torch._C._autograd._profiler_enabled


def _alone() -> frozenset[int]:
    """What a thread includes of the dispatcher where nothing is active, with and without inference mode."""
    found = []
    for mode in (False, True):
        with torch.inference_mode(mode):
            found.append(_included().raw_repr())
    return frozenset(found)


def _plain() -> frozenset[int]:
    """The keys of tensors on the CPU that hold their numbers as they are, made with and without inference mode."""
    found = []
    for mode in (False, True):
        with torch.inference_mode(mode):
            found.append(_keys(torch.empty(0)).raw_repr())
    return frozenset(found)


_ALONE, _PLAIN = _alone(), _plain()


def direct(*tensors: object) -> bool:
    """Whether the dispatcher would hand all of them, as they are, to a function for the CPU, and to nobody else.

    Not while torch.compile traces, nor while something transforms, records, counts or profiles operators in this thread
    (it is a key of the dispatcher there, a mode, a level of forward-mode derivatives, or a profiler). Not for what is
    no tensor, for tensors of other classes, elsewhere, sparse or nested ones, those without memory, and views that
    negate what they read. Gradients are not looked at.
    """
    if torch.compiler.is_compiling():
        return False
    if _included().raw_repr() not in _ALONE or _function_modes() or _profiled() or forward_ad._current_level >= 0:
        return False
    for t in tensors:
        if type(t) is not Tensor and type(t) is not Parameter:
            return False
        if _keys(t).raw_repr() not in _PLAIN:
            return False
    return True
