"""The tensors that come with a call: checked, completed, and made into what kernels read.

Everything here costs O(n), and little of it: a million tokens of documents take milliseconds.

>>> from attnspec.spec.expr import Read, Var
>>> doc = Input("doc", "int", (Var("n"),), "offsets")
>>> made = derived(doc, numbers(torch.tensor([0, 2, 5]), 5), ("first", "last"))
>>> made["doc"].tolist(), made["doc.first"].tolist(), made["doc.last"].tolist()
([0, 0, 1, 1, 1], [0, 0, 2, 2, 2], [1, 1, 4, 4, 4])
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnspec.errors.catalogue import did_you_mean
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.device import capturing, on_device
from attnspec.runtime.prepare.divisors import Divisors, check_divisors, divisors
from attnspec.runtime.prepare.runs import numbers, run_ends
from attnspec.spec import contents
from attnspec.spec import exact as known
from attnspec.spec import expr as e
from attnspec.spec.arrays import drawn, slopes
from attnspec.spec.parts import VECTOR_SIZES, Input
from attnspec.spec.real import RealRead
from attnspec.spec.shapes import Shape, fits, shape_in, written
from attnspec.spec.spec import Spec

LIMIT = 1 << 30
"""Integers of inputs lie strictly between -LIMIT and LIMIT, so that differences of them fit 32 bits."""


def prepare(
    spec: Spec,
    sizes: Sizes,
    given: Mapping[str, Tensor],
    *,
    wide: bool = False,
    also: Collection[str] = (),
    real: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """The tensors that a kernel needs, by name: contiguous, of the declared sizes.

    ``int`` inputs become int32 (int64 when ``wide``), ``bool`` uint8, ``float`` the dtype ``real``, through which
    gradients pass (but what only rotations read stays as exact as it is: angles are worked out in float64). Offsets
    become the number of the document at each position, (.., n). What the spec reads of derived tensors is made, and the
    names in ``also``: ``doc.first``, ``doc.last`` of the shape of ``doc``, and ``alibi.slope``, (heads,). An input
    declared ``random`` is drawn where the call does not give it. The ``buckets`` of
    an order are not looked at; :func:`attnspec.runtime.prepare.order.lsh` does that. ``device`` is where q, k and v are
    and inputs must be; without it, what is made here is made where the inputs are.

    Raises CallError where an input is missing, unknown, elsewhere, of the wrong kind or shape, not sorted, or too
    large; values are not looked at while a CUDA graph is captured.
    """
    return Preparation.of(spec, sizes, wide=wide, also=also, real=real)(given, device)


@dataclass(frozen=True)
class _Step:
    """How one input is made ready: ``shape`` is what it must have, ``real`` None where it stays as exact as it is.

    ``wide``: integers become int64. ``few``: they are looked at in Python.
    """

    declared: Input
    where: str
    shape: Shape
    ends: tuple[str, ...]
    real: torch.dtype | None
    wide: bool
    few: bool

    def takes(self, t: object, device: torch.device | None) -> bool:
        """Whether a tensor is seen to fit at a glance."""
        return (
            isinstance(t, Tensor)
            and t.dtype in _KINDS[self.declared.kind]
            and (t.shape == self.shape or (self.declared.form != "offsets" and fits(self.shape, t.shape)))
            and t.layout is torch.strided
            and (device is None or t.device == device)
        )

    def ready(self, t: Tensor, sizes: Sizes) -> Tensor:
        """What kernels read for a tensor that fits. Raises CallError for what it must not hold."""
        kind = self.declared.kind
        if self.few and t.is_cpu:
            held: list[int] = t.tolist() if self.shape else [int(t)]
            _check_limits(self.where, min(held), max(held))
            return t.contiguous().long() if self.wide else t.contiguous().int()
        if self.declared.form == "offsets":
            positions = sizes.parameters(0, 0)["m"]
            check_offsets(self.where, t, positions)
            return numbers(t, positions, torch.int64 if self.wide else torch.int32)
        if kind == "int":
            _check_values(self.where, self.declared, t)
            t = t.long() if self.wide else t.int()
        elif kind == "bool":
            t = t.to(torch.uint8)
        elif self.real is not None and t.dtype is not self.real:
            t = t.to(self.real)
        return t.contiguous()


_KINDS = {
    "int": frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}),
    "bool": frozenset({torch.bool}),
    "float": frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16}),
}
"""The element types that need no closer look."""
_FEW = 64
"""Up to so many integers of one dimension are looked at in Python: that is quicker than torch's operations."""


def _few(declared: Input, shape: Shape) -> bool:
    plain = declared.kind == "int" and declared.form == "plain" and len(shape) <= 1
    return plain and all(size is not None and 1 <= size <= _FEW for size in shape)


@dataclass(frozen=True, eq=False)
class Preparation:
    """How the inputs of calls of some sizes are made ready: what does not depend on what they hold, found once."""

    spec: Spec
    sizes: Sizes
    real: torch.dtype
    steps: tuple[_Step, ...]
    divisors: Divisors
    slopes: bool

    @classmethod
    def of(
        cls,
        spec: Spec,
        sizes: Sizes,
        *,
        wide: bool = False,
        also: Collection[str] = (),
        real: torch.dtype = torch.float32,
        own: bool = False,
    ) -> Preparation:
        """As :func:`prepare` has them. ``own``: a few int64 stay the caller's own, whatever ``wide`` says."""
        return Wanted.of(spec, also).at(sizes, wide=wide, real=real, own=own)

    def __call__(self, given: Mapping[str, Tensor], device: torch.device | None) -> dict[str, Tensor]:
        """The tensors of a call by name. Raises CallError where they do not fit."""
        known = 0
        for step in self.steps:
            if (t := given.get(step.declared.name)) is not None and step.takes(t, device):
                known += 1
        if not known == len(given) == len(self.steps):  # something is left out, or needs a closer look
            check(self.spec, self.sizes, given, device)
        found: dict[str, Tensor] = {}
        for step in self.steps:
            tensor = given.get(step.declared.name)
            if tensor is None:
                tensor = draw(step.where, step.declared, self.sizes, device or _device(given))
            tensor = step.ready(tensor, self.sizes)
            if step.ends:
                found |= derived(step.declared, tensor, step.ends)
            else:
                found[step.declared.name] = tensor
        if self.divisors and not capturing():
            check_divisors(self.spec.name, self.divisors, self.sizes, found)
        if self.slopes:
            found["alibi.slope"] = on_device(
                _slopes, self.sizes.heads, self.real, device=device or _device(given)
            ).clone()
        return found


@dataclass(frozen=True, eq=False)
class Wanted:
    """What of inputs a spec reads, whatever the sizes: ``exact`` are those that only rotations read."""

    spec: Spec
    names: frozenset[str]
    exact: frozenset[str]
    divisors: Divisors

    @classmethod
    def of(cls, spec: Spec, also: Collection[str] = ()) -> Wanted:
        """As :func:`prepare` has them."""
        names = frozenset(reads(spec)) | frozenset(also)
        return cls(spec, names, frozenset(read_by_rotations_only(spec)), divisors(spec.roots))

    def at(
        self, sizes: Sizes, *, wide: bool = False, real: torch.dtype = torch.float32, own: bool = False
    ) -> Preparation:
        """How inputs of calls of some sizes are made ready: see :meth:`Preparation.of`."""
        steps = []
        for declared in self.spec.inputs:
            shape, where = shape_of(declared, sizes), f"{self.spec.name}: input `{declared.name}`"
            ends = tuple(end for end in ("first", "last") if f"{declared.name}.{end}" in self.names)
            few, as_real = _few(declared, shape), None if declared.name in self.exact else real
            steps.append(_Step(declared, where, shape, ends, as_real, wide or (own and few), few))
        return Preparation(self.spec, sizes, real, tuple(steps), self.divisors, "alibi.slope" in self.names)


def _device(given: Mapping[str, Tensor]) -> torch.device:
    return next((t.device for t in given.values()), torch.device("cpu"))


def check(spec: Spec, sizes: Sizes | None, given: Mapping[str, Tensor], device: torch.device | None) -> None:
    """Whether inputs are those of the spec, of its kinds and shapes, and where they must be; values are not looked at.

    Nor are shapes, without ``sizes``. Raises CallError.
    """
    declared_names = [declared.name for declared in spec.inputs]
    for name in given:
        if name not in declared_names and not (name == "buckets" and spec.order is not None):
            raise CallError(f"{spec.name}: {_unknown(name, declared_names)}")
    for declared in spec.inputs:
        where = f"{spec.name}: input `{declared.name}`"
        if declared.name in given:
            tensor = given[declared.name]
            _check(where, declared, tensor)
            if sizes is not None:
                _check_shape(where, declared, tensor, shape_of(declared, sizes))
            if device is not None and tensor.device != device:
                raise CallError(f"{where} is on {tensor.device}, but q is on {device}: move it there")
        elif declared.random is None:
            here = "" if sizes is None else f", here {written(declared, shape_of(declared, sizes))}"
            raise CallError(f"{where} is missing: `{declared}`{here}")


def check_floats(spec: Spec, sizes: Sizes, found: Mapping[str, Tensor]) -> None:
    """Whether float inputs have their shapes, which traces do not compare. Raises CallError."""
    for declared in spec.inputs:
        if declared.kind == "float" and declared.name in found:
            where = f"{spec.name}: input `{declared.name}`"
            _check_shape(where, declared, found[declared.name], shape_of(declared, sizes))


def check_vectors(spec: Spec, sizes: Sizes, found: Mapping[str, Tensor], vectors: Mapping[str, int]) -> None:
    """Whether inputs that are sized by vectors have the sizes of those of the call. Raises CallError."""
    for declared in spec.inputs:
        if any(contents.free(size) & VECTOR_SIZES for size in declared.sizes):
            shape = shape_in(declared, {**sizes.parameters(0, 0), **vectors})
            _check_shape(f"{spec.name}: input `{declared.name}`", declared, found[declared.name], shape)


def reads(spec: Spec) -> frozenset[str]:
    """The names of the inputs that a spec reads, and of what is derived from them."""
    return _read(spec.roots)


def read_by_rotations(spec: Spec) -> frozenset[str]:
    """The float inputs that rotations read."""
    read = _read(node for rotation in spec.turns for node in rotation.expressions)
    return read & {declared.name for declared in spec.inputs if declared.kind == "float"}


def read_by_rotations_only(spec: Spec) -> frozenset[str]:
    """Those of them that nothing else reads."""
    return read_by_rotations(spec) - reads(replace(spec, rotations=())) if spec.rotations else frozenset()


def _read(roots: Iterable[e.Node]) -> frozenset[str]:
    kinds = (e.Read, e.Flag, e.Among, RealRead)
    return frozenset(node.name for root in roots for node in contents.walk(root) if isinstance(node, kinds))


def shape_of(declared: Input, sizes: Sizes) -> Shape:
    """The shape of what a call gives for an input."""
    return shape_in(declared, sizes.parameters(0, 0))


def draw(where: str, declared: Input, sizes: Sizes, device: torch.device | None = None) -> Tensor:
    """What an input declared ``random`` holds where the call does not give it: int64, the same on every machine."""
    assert declared.random is not None
    env = sizes.parameters(0, 0)
    shape = tuple(size for size in shape_in(declared, env) if size is not None)  # all of them: they are declared
    low, high = (known.integer(end, env) for end in (declared.random.low, declared.random.high))
    if low >= high and 0 not in shape:
        raise CallError(f"{where} cannot be drawn from the empty range {low}..{high}")
    found = on_device(_drawn, shape, low, high, declared.random.seed, device=device or "cpu")
    return found.clone() if found.device.type != "cpu" else found


def _drawn(shape: tuple[int, ...], low: int, high: int, seed: int) -> Tensor:
    return torch.from_numpy(drawn(shape, low, high, seed))


def _slopes(heads: int, real: torch.dtype) -> Tensor:
    """ALiBi's slopes, (heads,)."""
    return torch.from_numpy(slopes(heads)).to(real)


def derived(declared: Input, tensor: Tensor, ends: Sequence[str] = ()) -> dict[str, Tensor]:
    """A prepared input, and where the run that each position is in begins and ends, of the same shape and dtype."""
    found = {declared.name: tensor}
    if ends:
        found |= {f"{declared.name}.{end}": value for end, value in run_ends(tensor, ends).items()}
    return found


# Checks


_ELSEWHERE = {
    "alibi_slopes": "write `input slope: float[heads]` and `score s + slope[h] * (k - q)`, or use the spec `alibi`",
    "attn_mask": "a mask is what the spec says. A tensor of booleans is an input, `attend keep[b, h, q, k]`, and so is "
    "one that is added to scores, `score s + bias[b, h, q, k]`",
    "block_mask": "which blocks there are follows from the spec; a table of blocks is an input, as in `block_table`",
    "cu_seqlens": "use the spec `packed_offsets`, or `input starts: int[...] offsets`",
    "dropout_p": "there is no dropout of weights",
    "enable_gqa": "query heads may be a multiple of the key heads without it",
    "is_causal": "write `within causal`, or use the spec `causal`",
    "key_padding_mask": "use the spec `padded` with `length=`, or `left_padded` with `start=`",
    "score_mod": "write `score` lines",
    "softcap": "write `score softcap(s, 50.0)`, or use the spec `softcap`",
    "softmax_scale": "it is called `scale`",
    "window_size": "use the spec `window` with `width=`, or write `within window(1024)`",
}
"""What takes the place of arguments that other attention functions have."""
_ELSEWHERE |= {"causal": _ELSEWHERE["is_causal"], "mask": _ELSEWHERE["attn_mask"], "dropout": _ELSEWHERE["dropout_p"]}


def _unknown(name: str, names: list[str]) -> str:
    if name in _ELSEWHERE:
        return f"there is no argument `{name}`: {_ELSEWHERE[name]}"
    if not names:
        return f"there is no input `{name}`; the spec takes none"
    hint = did_you_mean(name, names) or f"the inputs are {', '.join(f'`{k}`' for k in names)}"
    return f"there is no input `{name}`; {hint}"


def _check(where: str, declared: Input, tensor: object) -> None:
    """Refuse what is not a tensor of the declared kind."""
    if not isinstance(tensor, Tensor):
        raise CallError(f"{where} must be a tensor, not {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise CallError(f"{where} must be a dense (strided) tensor, not {tensor.layout}")
    kinds = {
        "int": not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool),
        "bool": tensor.dtype == torch.bool,
        "float": tensor.is_floating_point(),
    }
    if not kinds[declared.kind]:
        word = {"int": "integers", "bool": "booleans", "float": "floating-point numbers"}[declared.kind]
        raise CallError(f"{where} must hold {word}; it is {tensor.dtype}")


def _check_shape(where: str, declared: Input, tensor: Tensor, shape: Shape) -> None:
    """Refuse what is not of the declared shape."""
    actual = tuple(tensor.shape)
    if not fits(shape, actual) or (declared.form == "offsets" and actual[-1] < 1):
        wanted = written(declared, shape)
        raise CallError(f"{where} has the shape {actual}; it is declared `{declared}`, here {wanted}")


def _check_values(where: str, declared: Input, tensor: Tensor) -> None:
    """Refuse integers that are too large, and what is declared sorted and is not."""
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        tensor = tensor.long()
    if not tensor.numel() or (tensor.is_cuda and capturing()):
        return
    ends = tensor
    if declared.form == "sorted":
        if not bool((tensor[..., 1:] >= tensor[..., :-1]).all()):
            place = [int(i) for i in (tensor[..., 1:] < tensor[..., :-1]).nonzero()[0]]
            before, after = tensor[tuple(place)], tensor[(*place[:-1], place[-1] + 1)]
            raise CallError(
                f"{where} is declared sorted, but its values decrease from {int(before)} to {int(after)} "
                f"after position {place[-1]}"
            )
        ends = torch.stack((tensor[..., 0], tensor[..., -1]))
    _check_limits(where, *(int(end) for end in torch.aminmax(ends)))


def _check_limits(where: str, low: int, high: int) -> None:
    if not -LIMIT < low <= high < LIMIT:
        raise CallError(f"{where} holds integers from {low:,} to {high:,}; they must lie between -2**30 and 2**30")


def check_offsets(where: str, offsets: Tensor, n: int) -> None:
    """Refuse offsets that do not begin at 0, end at n, or that decrease."""
    if capturing():
        return
    first, last = offsets[..., 0], offsets[..., -1]
    if not bool((first == 0).all()):
        raise CallError(f"{where} must begin with offset 0, not {int(first.reshape(-1)[first.reshape(-1) != 0][0])}")
    if not bool((last == n).all()):
        raise CallError(f"{where} must end with offset {n}, not {int(last.reshape(-1)[last.reshape(-1) != n][0])}")
    if not bool((offsets[..., 1:] >= offsets[..., :-1]).all()):
        raise CallError(f"{where} holds offsets that decrease")
