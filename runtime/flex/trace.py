"""A function of FlexAttention's as the operations that it does on its positions: recorded while it runs once.

>>> print(trace(lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < 4), MASK))
%4 = ge(q, k)
%5 = sub(q, k)
%6 = lt(%5, 4)
%7 = bitwise_and(%4, %6)

What depends on no position is computed as it stands, and its value is in the trace. (``make_fx`` records the same, but
it loads TorchInductor first, which takes seconds, and does not say on which line an operation stands.)
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.flex.reading import OTHERS, read

MASK = ("b", "h", "q", "k")
"""What a ``mask_mod`` is a function of."""
SCORE = ("s", *MASK)
"""What a ``score_mod`` is a function of."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the user's."""

    filename: str
    line: int

    def __str__(self) -> str:
        text = linecache.getline(self.filename, self.line).strip()
        return f"{self.filename}:{self.line}" + (f": `{text}`" if text else "")


def refused(place: Place, reason: str) -> CallError:
    """What is raised about a line of the user's."""
    return CallError(f"{place}: {reason}")


@dataclass(frozen=True, slots=True)
class Ref:
    """The result of a step, or an argument: they are numbered together, arguments first."""

    number: int


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on what depends on positions; a Tensor among its arguments does not.

    ``taken`` are the element types of all tensors among them. Through what is ``constant`` no gradients flow.
    """

    op: Any  # an overload of PyTorch's
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype
    place: Place
    taken: tuple[torch.dtype, ...]
    constant: bool = False

    @property
    def name(self) -> str:
        """The operation, without whether it works in place."""
        name = str(self.op._schema.name).removeprefix("aten::")
        return name if name.endswith("__") else name.removesuffix("_")


@dataclass(frozen=True)
class Made:
    """Where a tensor that a function made out of others comes from: a copy does not follow what they hold later.

    ``same`` is the tensor that it is but for the element type, where that holds every number of the other.
    """

    source: Tensor
    copied: bool
    same: Tensor | None = None


@dataclass(frozen=True)
class Trace:
    """The steps of a function, and which of its values it returns: a Tensor or a number depends on no position.

    ``made`` are tensors, by their identity, that follow from captured ones; ``kept`` keeps all tensors alive.
    ``values`` says that the function looked at what captured tensors hold, as by ``.item()``.
    """

    arguments: tuple[str, ...]
    steps: tuple[Step, ...]
    result: object
    place: Place
    made: dict[int, Made] = field(repr=False)
    kept: tuple[Tensor, ...] = field(repr=False)
    values: bool = False

    def __str__(self) -> str:
        first = len(self.arguments)
        return "\n".join(
            f"%{first + i} = {step.name}({', '.join(map(self._written, step.args))})"
            for i, step in enumerate(self.steps)
        )

    def _written(self, arg: object) -> str:
        match arg:
            case Ref(number):
                return self.arguments[number] if number < len(self.arguments) else f"%{number}"
            case Tensor():
                return f"{str(arg.dtype).removeprefix('torch.')}{list(arg.shape)}"
            case list() | tuple():
                return f"[{', '.join(map(self._written, arg))}]"
        return str(arg)


def trace(function: Callable[..., Any], arguments: tuple[str, ...], device: torch.device | None = None) -> Trace:
    """Run a function once on positions and record what it does with them. ``device`` is where they are.

    Raises CallError, with the user's line, for what is no formula: branches on positions, changes of captured tensors,
    random numbers, and functions that do not do the same twice.
    """
    function = getattr(function, "_torchdynamo_orig_callable", function)
    home = defined(function)
    _check_arity(function, arguments, home)
    first, second = (_run(function, arguments, home, device or torch.device("cpu")) for _ in range(2))
    if not _same(first, second):
        raise refused(
            home,
            "the function does not do the same when it is called again; a mask or score must follow from its arguments "
            "and the tensors around it alone (no counters, no random numbers)",
        )
    return first


def defined(function: Callable[..., Any]) -> Place:
    """Where a function is written, as far as that is known."""
    inner: Any = function
    while not hasattr(inner, "__code__"):
        within = (
            getattr(inner, "func", None) or getattr(inner, "__func__", None) or getattr(type(inner), "forward", None)
        )
        inner = within or vars(type(inner)).get("__call__")
        if inner is None:
            return Place(getattr(function, "__name__", type(function).__name__), 0)
    return Place(inner.__code__.co_filename, inner.__code__.co_firstlineno)


def _check_arity(function: Callable[..., Any], arguments: tuple[str, ...], home: Place) -> None:
    if not callable(function):
        raise CallError(f"a mask_mod or score_mod is a function, not {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # the call itself will tell
    try:
        signature.bind(*arguments)
    except TypeError:
        kind, written = (
            ("score_mod", "(score, b, h, q_idx, kv_idx)") if "s" in arguments else ("mask_mod", "(b, h, q_idx, kv_idx)")
        )
        raise refused(home, f"a {kind} takes {written}; this function takes {signature}") from None


def _run(function: Callable[..., Any], arguments: tuple[str, ...], home: Place, device: torch.device) -> Trace:
    values = tuple(
        torch.zeros((), dtype=torch.float32 if name == "s" else torch.int64, device=device) for name in arguments
    )
    recorder = _Recorder(values, home)
    try:
        with torch.enable_grad(), _Indexing(recorder), recorder:
            result = function(*values)
    except CallError:
        raise
    except Exception as err:
        place = _place_of(err.__traceback__) or home
        raise refused(place, f"the function fails where it is traced, on positions as tensors: {err}") from err
    if isinstance(result, Tensor):
        result = recorder.ref(result)
    return Trace(arguments, tuple(recorder.steps), result, home, recorder.made, tuple(recorder.kept), recorder.values)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation on what depends on positions."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise TorchDynamo is loaded to be told so, which takes seconds

    def __init__(self, values: Sequence[Tensor], home: Place) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.home = home
        self.kept: list[Tensor] = list(values)
        self.refs = {id(t): Ref(i) for i, t in enumerate(values)}
        self.numbers = len(values)
        self.steps: list[Step] = []
        self.made: dict[int, Made] = {}
        self.fresh: set[int] = set()
        self.values = False

    def ref(self, t: Tensor) -> Ref | Tensor:
        return self.refs.get(id(t), t)

    def _noted(self, t: Tensor) -> Ref | Tensor:
        """The same as it is now: what the function made itself it may change later."""
        if id(t) in self.fresh:
            self.kept.append(t := t.clone())
            return t
        return self.ref(t)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        place = _user_place(sys._getframe(1)) or self.home
        self._check(func, args, kwargs, tensors, place)
        out = func(*args, **kwargs)
        if any(id(t) in self.refs for t in tensors):
            self._note(func, args, kwargs, tuple(t.dtype for t in tensors), out, place)
        else:
            self._follow(func, tensors, out)
            self.values |= any(isinstance(x, bool | int | float) for x in tree_leaves(out))  # as of `allclose`
        return out

    def _check(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], place: Place) -> None:
        live = any(id(t) in self.refs for t in tensors)
        if live and func._schema.name in _VALUES:
            raise branching(place)
        self.values |= func._schema.name in _VALUES or (not live and _counts(func, tensors))
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise refused(place, "random numbers: draw them before, and read the tensor in the function")
        for i, arg in enumerate(func._schema.arguments):
            value = args[i] if i < len(args) else kwargs.get(arg.name)
            if arg.alias_info is None or not arg.alias_info.is_write or not isinstance(value, Tensor):
                continue
            if id(value) not in self.refs and id(value) not in self.fresh:
                raise refused(
                    place,
                    "the function changes a tensor around it; a mask or score has no side effects: compute the tensor "
                    "before, and read it in the function",
                )
            shared = any(
                t is not value and t.untyped_storage()._cdata == value.untyped_storage()._cdata for t in self.kept
            )
            if shared or (live and id(value) in self.fresh):
                raise refused(place, "a part of a tensor is changed in place: make a new tensor, with torch.where")
            self.values |= any(id(t) not in self.fresh for t in tensors)  # which it holds now

    def _note(self, func: Any, args: Any, kwargs: Any, taken: tuple[torch.dtype, ...], out: Any, place: Place) -> None:
        if not isinstance(out, Tensor):
            raise refused(place, f"`{func}` has no counterpart in the language")
        args, kwargs = tree_map(lambda x: self._noted(x) if isinstance(x, Tensor) else x, (args, kwargs))
        constant = func is torch.ops.aten.detach.default or not torch.is_grad_enabled()
        self.steps.append(Step(func, tuple(args), dict(kwargs), tuple(out.shape), out.dtype, place, taken, constant))
        self.refs[id(out)] = Ref(self.numbers)
        self.kept.append(out)
        self.numbers += 1

    def _follow(self, func: Any, tensors: list[Tensor], out: Any) -> None:
        """Where tensors come from that follow from captured ones alone."""
        for t in tree_leaves(out):
            if not isinstance(t, Tensor):
                continue
            self.kept.append(t)
            sources = [x for x in tensors if id(x) not in self.fresh]
            if not sources or func is torch.ops.aten.lift_fresh.default:
                self.fresh.add(id(t))
            elif all(t is not x for x in tensors):
                before = self.made.get(id(sources[0]), Made(sources[0], False))
                views = any(r.alias_info is not None for r in func._schema.returns)
                same = (before.same or sources[0]) if _keeps(func, sources[0].dtype, t.dtype) else None
                self.made[id(t)] = Made(before.source, before.copied or not (views or same is not None), same)


def _keeps(func: Any, before: torch.dtype, after: torch.dtype) -> bool:
    """Whether an operation changes the element type and no number. (Integers of inputs are below 2 ** 30.)"""
    if func is not torch.ops.aten._to_copy.default or torch.bool in (before, after):
        return False
    if before.is_floating_point or after.is_floating_point:
        return before.is_floating_point and torch.promote_types(before, after) == after
    return after in (torch.int32, torch.int64)


def branching(place: Place) -> CallError:
    """What is said where the value of a position is asked for."""
    return refused(
        place,
        "the function decides by the value of a position (`if`, `and`, `or`, `not`, `in`, int(), range()), and a mask "
        "has no `if`: it is one formula for all positions. Write torch.where(condition, this, that), and `&`, `|`, `~` "
        "between conditions",
    )


def _counts(func: Any, tensors: list[Tensor]) -> bool:
    """Whether the size of a result hangs on what tensors hold, as that of ``nonzero`` does: then it tells of that."""
    if func is torch.ops.aten.index.Tensor:
        return any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:])
    return torch.Tag.dynamic_output_shape in func.tags


_VALUES = frozenset(("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"))
_READS_VALUES = frozenset(
    getattr(Tensor, name) for name in ("tolist", "numpy", "__array__", "data_ptr", "untyped_storage", "__dlpack__")
)
_WRITES_VALUES = frozenset((Tensor.__repr__, Tensor.__format__))  # which those of positions may be, to be looked at
_COPIES = frozenset((torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor))  # of lists of tensors, unseen
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]


class _Indexing(TorchFunctionMode):
    """``table[q]`` with a position stays a read by position, as it does under FlexAttention."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            t, index = args
            parts = index if isinstance(index, tuple) else (index,)
            if any(isinstance(x, Tensor) and x.dtype != torch.bool for x in parts):
                return read(t, parts)
        if func in OTHERS and any(isinstance(x, Tensor) and isinstance(self.recorder.ref(x), Ref) for x in args):
            func = OTHERS[func]
        if func == _DATA:
            return args[0].detach()
        if func in _COPIES and any(isinstance(x, Tensor) for x in tree_leaves(args[-1]) if x is not args[-1]):
            self.recorder.values = True
            if any(isinstance(x, Tensor) and isinstance(self.recorder.ref(x), Ref) for x in tree_leaves(args[-1])):
                raise branching(_user_place(sys._getframe(1)) or self.recorder.home)
        self.recorder.values |= func in _READS_VALUES or func in _WRITES_VALUES
        if func in _READS_VALUES and isinstance(self.recorder.ref(args[0]), Ref):
            raise branching(_user_place(sys._getframe(1)) or self.recorder.home)
        return func(*args, **(kwargs or {}))


def _inside(filename: str) -> bool:
    return filename.startswith(_OURS) or "<frozen" in filename


_OURS = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    str(Path(inspect.__file__).with_name("functools.py")),
)


def _user_place(frame: FrameType | None) -> Place | None:
    """The innermost line of the user's, of those that the function's call is in."""
    while frame is not None:
        code = frame.f_code
        if code is _run.__code__:
            return None
        if not _inside(code.co_filename):
            return Place(code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


def _place_of(tb: TracebackType | None) -> Place | None:
    found = None
    while tb is not None:
        if not _inside(tb.tb_frame.f_code.co_filename):
            found = Place(tb.tb_frame.f_code.co_filename, tb.tb_lineno)
        tb = tb.tb_next
    return found


def _same(a: Trace, b: Trace) -> bool:
    """Whether two runs did the same: tensors that they read are one, or hold the same."""
    if len(a.steps) != len(b.steps) or not _equal(a.result, b.result):
        return False
    pairs = zip(a.steps, b.steps, strict=True)
    return all(x.op is y.op and x.shape == y.shape and _equal((x.args, x.kwargs), (y.args, y.kwargs)) for x, y in pairs)


def _equal(a: object, b: object) -> bool:
    left, right = tree_leaves(a), tree_leaves(b)
    return len(left) == len(right) and all(map(_one, left, right))


def _one(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype
        return a is b or (alike and bool(((a == b) | ((a != a) & (b != b))).all()))  # nan is not equal to itself
    return type(a) is type(b) and (a == b or (a != a and b != b))
