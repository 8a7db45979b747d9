"""What a function is made of: all that decides how it is traced, as a key, and apart from it the tensors that it reads.

A function that is made anew at each call, around other tensors, has the same key each time.
"""

from __future__ import annotations

import enum
import functools
import weakref
from collections.abc import Callable, Hashable, Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Structure(NamedTuple):
    """A key without tensors in it, and the tensors in the order in which they were found."""

    key: Hashable
    tensors: tuple[Tensor, ...]


def structure(*functions: Callable[..., Any] | None) -> Structure | None:
    """The structure of functions together; None where something in them cannot be told by looking at it.

    >>> def width(w):
    ...     return lambda b, h, q_idx, kv_idx: q_idx - kv_idx < w
    >>> structure(width(4)) == structure(width(4)), structure(width(4)) == structure(width(5))
    (True, False)
    """
    names: set[str] = set()
    while True:
        walk = _Walk(names)
        try:
            for function in functions:
                walk.visit(function)
        except _Unknown:
            return None
        if walk.names <= names or not walk.by_name:
            return Structure(tuple(walk.key), tuple(walk.tensors))
        names |= walk.names


class _Unknown(Exception):
    """A thing of which nobody knows what it does."""


_PLAIN = frozenset(
    (int, bool, str, bytes, complex, type(None), type(...), range, torch.dtype, torch.device, torch.layout)
)
_KNOWN = frozenset(("torch", "math", "cmath", "operator", "functools", "itertools", "builtins", "typing", "numpy"))
"""Libraries of which it is known what they do."""
_OPAQUE = frozenset(
    (
        "item",
        "tolist",
        "numpy",
        "__array__",
        "getattr",
        "attrgetter",
        "vars",
        "globals",
        "locals",
        "eval",
        "exec",
        "__dict__",
    )
)
"""What makes a result depend on more than is seen: the values of tensors, and names that are made up."""


class _Walk:
    """One walk over functions; of modules and objects it looks at what has one of the names."""

    def __init__(self, names: set[str]) -> None:
        self.looked_for = names
        self.names: set[str] = set()
        self.by_name = False
        self.key: list[Any] = []
        self.tensors: list[Tensor] = []
        self.places: dict[int, int] = {}
        self.kept: list[object] = []

    def visit(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self.key += kind, value
        elif kind is float:
            self.key += kind, repr(value)  # -0.0 is not 0.0
        elif id(value) in self.places:
            self.key += "again", self.places[id(value)]
        else:
            self.places[id(value)] = len(self.places)
            self.kept.append(value)
            self._visit_new(value)

    def _visit_new(self, value: Any) -> None:
        match value:
            case Tensor():
                self.key.append("tensor")
                self.tensors.append(value)
            case FunctionType():
                self._function(value)
            case MethodType():
                self._all("method", (value.__func__, value.__self__))
            case functools.partial():
                self._all("partial", (value.func, value.args, value.keywords))
            case list() | tuple():
                self._all(type(value), value)
            case dict():
                self._all(type(value), [x for pair in value.items() for x in pair])
            case slice():
                self._all(slice, (value.start, value.stop, value.step))
            case ModuleType():
                self._module(value)
            case BuiltinFunctionType():
                if not isinstance(value.__self__, ModuleType | None) and not isinstance(value.__self__, type):
                    raise _Unknown
                self.key.append(value)
            case type():
                self._class(value)
            case staticmethod() | classmethod():
                self._all(type(value), (value.__func__,))
            case property() | functools.cached_property():
                self._all(type(value), (value.fget if isinstance(value, property) else value.func,))
            case enum.Enum():
                self._all(type(value), (value.name, value.value))
            case _:
                self._object(value)

    def _all(self, kind: Any, values: Iterable[Any]) -> None:
        found = list(values)
        self.key += kind, len(found)
        for value in found:
            self.visit(value)

    def _function(self, function: FunctionType) -> None:
        code = function.__code__
        self.key.append(code)
        self._all("defaults", (function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                raise _Unknown from None  # it is filled later
            self.visit(value)
        if _known(function.__module__):
            return
        names = _names(code)
        if names & _OPAQUE:
            raise _Unknown
        self.names |= names
        for name in sorted(names & function.__globals__.keys()):
            self.key.append(name)
            self.visit(function.__globals__[name])

    def _module(self, module: ModuleType) -> None:
        self.key += "module", module.__name__
        if not _known(module.__name__):
            self.by_name = True
            self._named(vars(module))

    def _named(self, members: Any) -> None:
        for name in sorted(self.looked_for & members.keys()):
            self.key.append(name)
            self.visit(members[name])

    def _class(self, kind: type) -> None:
        self.key.append(weakref.ref(kind))
        for one in kind.__mro__:
            if not _known(one.__module__):
                self.by_name = True
                self._named(vars(one))
                for name, value in vars(one).items():
                    if isinstance(value, FunctionType) and name.startswith("__"):
                        self.visit(value)  # operators are called without their names

    def _object(self, value: Any) -> None:
        kind: Any = type(value)
        of_torch = isinstance(value, nn.Module)
        if kind.__getattribute__ is not object.__getattribute__ or (hasattr(kind, "__getattr__") and not of_torch):
            raise _Unknown
        if not hasattr(value, "__dict__") or (_known(kind.__module__) and not of_torch):
            raise _Unknown
        self.visit(kind)
        self.by_name = True
        members = dict(vars(value))
        if of_torch:
            self.names.add("forward")
            for group in ("_parameters", "_buffers", "_modules"):
                members |= members.pop(group)
        self._named(members)


@functools.lru_cache(maxsize=1024)
def _known(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in _KNOWN


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> frozenset[str]:
    """The names that a function's code looks up, those of functions inside it too."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
    return frozenset(code.co_names).union(*inner)
