"""What the tensors around a function are called there: in its closure, its globals, its defaults, its module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.visible import transforming

_DEPTH = 8


def captured(function: Callable[..., Any]) -> dict[int, tuple[str, Tensor]]:
    """The tensors that a function may read, by their identity, with their names; what is nearest comes first.

    >>> import torch
    >>> doc = torch.zeros(4)
    >>> [name for name, _ in captured(lambda b, h, q, k, table=doc: table[q] == table[k]).values()]
    ['table']
    """
    found: dict[int, tuple[str, Tensor]] = {}
    seen: set[int] = set()
    work: list[tuple[str, Any]] = [("", function)]
    for _ in range(_DEPTH):
        after: list[tuple[str, Any]] = []
        for name, thing in work:
            if isinstance(thing, Tensor):
                found.setdefault(id(thing), (name, thing))
            elif id(thing) not in seen:
                seen.add(id(thing))
                after += _parts(name, thing)
        work = after
    return found


def outside_transforms(*functions: Any) -> AbstractContextManager[Any]:
    """Where functions, and block masks, are looked at: outside the transforms of torch.func, which wrap positions.

    Raises CallError for tensors around them that are mapped or differentiated, or made inside a transform.
    """
    if not transforming():
        return nullcontext()
    for name, t in captured(lambda: functions).values():
        if torch._C._functorch.is_functorch_wrapped_tensor(t):
            raise CallError(
                f"`{name}`, around a function, is mapped or differentiated by torch.func, or was made inside it: make "
                "block masks before, and compile what spec_of gives, whose inputs=... torch.func may differentiate"
            )
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack  # a private name

    return temporarily_clear_interpreter_stack()


def _parts(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """What can be reached from a thing, by name."""
    match thing:
        case FunctionType():
            yield from _of_function(thing)
        case functools.partial():
            yield "", thing.func
            yield from _named_args(thing.func, thing.args)
            yield from thing.keywords.items()
        case MethodType():
            yield "", thing.__func__
            yield "", thing.__self__
        case nn.Module():
            yield from thing.named_parameters(recurse=False)
            yield from thing.named_buffers(recurse=False)
            yield from thing.named_children()
            yield from ((key, value) for key, value in vars(thing).items() if not key.startswith("_"))
        case dict():
            yield from ((str(key), value) for key, value in thing.items())
        case list() | tuple() | set() | frozenset():
            yield from ((name, value) for value in thing)
        case str() | bytes() | int() | float() | type() | ModuleType() | None:
            return
        case _:
            yield from getattr(thing, "__dict__", {}).items()
            slots = getattr(type(thing), "__slots__", ())
            yield from ((key, getattr(thing, key, None)) for key in ((slots,) if isinstance(slots, str) else slots))


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue
    args = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    yield from zip(args[len(args) - len(defaults) :], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()
    names = list(_names(code))
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            yield from ((other, getattr(value, other)) for other in names if isinstance(vars(value).get(other), Tensor))
        elif value is not None:
            yield name, value


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function's code looks up, those of functions inside it too."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _named_args(function: Any, args: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    code = getattr(function, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code is not None else ()
    yield from zip((*names, *["table"] * len(args)), args, strict=False)
