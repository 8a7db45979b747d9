"""What a function is made of: all that decides how it is traced, as a key, and apart from it the tensors that it reads.

A function that is made anew at each call, around other tensors, has the same key each time.
"""

from __future__ import annotations

import dis
import enum
import functools
import weakref
from collections.abc import Callable, Hashable, Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Path = tuple[tuple[str, Any], ...]
"""How to get from functions to something in them: a cell of a closure, an attribute, a global name, an item; each
with its place or name."""


class Part(NamedTuple):
    """A tensor, by its number, a number or word, or a function's code, and the way to it."""

    path: Path
    kind: str
    what: Any


class Structure(NamedTuple):
    """A key without tensors in it, and the tensors in the order in which they were found.

    ``parts`` are what is in it with the way to each; None where it was not asked for, or where there is no way.
    """

    key: Hashable
    tensors: tuple[Tensor, ...]
    parts: tuple[Part, ...] | None = None


def structure(*functions: Callable[..., Any] | None, follow: bool = False) -> Structure | None:
    """The structure of functions together; None where something in them cannot be told by looking at it.

    With ``follow`` it has the way to each part.

    >>> def width(w):
    ...     return lambda b, h, q_idx, kv_idx: q_idx - kv_idx < w
    >>> structure(width(4)) == structure(width(4)), structure(width(4)) == structure(width(5))
    (True, False)
    """
    names: set[str] = set()
    while True:
        walk = _Walk(names, follow)
        try:
            for place, function in enumerate(functions):
                walk.visit(function, ("item", place))
        except _Unknown:
            return None
        if walk.names <= names or not walk.by_name:
            parts = tuple(walk.parts) if walk.followed else None
            return Structure(tuple(walk.key), tuple(walk.tensors), parts)
        names |= walk.names


class _Unknown(Exception):
    """A thing of which nobody knows what it does."""


_PLAIN = frozenset(
    (int, bool, str, bytes, complex, type(None), type(...), range, torch.dtype, torch.device, torch.layout)
)
_BEFORE = frozenset(("__init__", "__new__", "__post_init__", "__repr__", "__del__"))
_TupleField: type = type(vars(Part)["kind"])
_NUMBERS = (int, float, bool)
_KNOWN = frozenset(
    (
        "torch",
        "math",
        "cmath",
        "operator",
        "functools",
        "itertools",
        "builtins",
        "typing",
        "numpy",
        "abc",
        "enum",
        "collections",
    )
)
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

    def __init__(self, names: set[str], follow: bool) -> None:
        self.looked_for = names
        self.names: set[str] = set()
        self.by_name = False
        self.key: list[Any] = []
        self.tensors: list[Tensor] = []
        self.places: dict[int, int] = {}
        self.kept: list[object] = []
        self.path: list[tuple[str, Any]] = []
        self.parts: list[Part] = []
        self.followed = follow

    def visit(self, value: Any, step: tuple[str, Any] = ("", None)) -> None:
        """Look at a thing that is a step away; a step without a name is none that can be followed."""
        self.path.append(step)
        kind = type(value)
        if kind in _PLAIN or kind is float:
            self.key += kind, repr(value) if kind is float else value  # -0.0 is not 0.0
            self._part("value", value)
        elif id(value) in self.places:
            self.key += "again", self.places[id(value)]
            self._again(value)
        else:
            self.places[id(value)] = len(self.places)
            self.kept.append(value)
            self._visit_new(value)
        self.path.pop()

    def _part(self, kind: str, what: Any) -> None:
        if self.followed and all(step for step, _ in self.path):
            self.parts.append(Part(tuple(self.path), kind, what))
        elif kind == "tensor":
            self.followed = False

    def _again(self, value: Any) -> None:
        """What is found in two places may be two things in another call."""
        if isinstance(value, Tensor):
            self._part("tensor", next(i for i, t in enumerate(self.tensors) if t is value))
        elif not isinstance(value, ModuleType | type | BuiltinFunctionType):
            self.followed = False

    def _visit_new(self, value: Any) -> None:
        match value:
            case Tensor():
                self.key.append("tensor")
                self._own(value)
                self._part("tensor", len(self.tensors))
                self.tensors.append(value)
            case FunctionType():
                self._function(value)
            case MethodType():
                self._attributes("method", value, "__func__", "__self__")
            case functools.partial():
                self._attributes("partial", value, "func", "args", "keywords")
            case list() | tuple():
                self._items(type(value), enumerate(value))
                self._own(value)
            case dict():
                self._items(type(value), value.items())
                self._own(value)
            case slice():
                self._attributes(slice, value, "start", "stop", "step")
            case ModuleType():
                self._module(value)
            case BuiltinFunctionType():
                if not isinstance(value.__self__, ModuleType | None) and not isinstance(value.__self__, type):
                    raise _Unknown
                self.key.append(value)
            case type():
                self._class(value)
            case _ if isinstance(value, _TupleField):
                self.key.append("item")
            case staticmethod() | classmethod():
                self._attributes(type(value), value, "__func__")
            case property() | functools.cached_property():
                self._attributes(type(value), value, "fget" if isinstance(value, property) else "func")
            case enum.Enum():
                self._attributes(type(value), value, "name", "value")
            case _:
                self._object(value)

    def _attributes(self, kind: Any, value: Any, *names: str) -> None:
        self.key.append(kind)
        for name in names:
            self.visit(getattr(value, name), ("attribute", name))

    def _items(self, kind: Any, items: Iterable[tuple[Any, Any]]) -> None:
        found = list(items)
        self.key += kind, len(found)
        for place, value in found:
            self.visit(place)
            self.visit(value, ("item", place))

    def _function(self, function: FunctionType) -> None:
        code = function.__code__
        self.key.append(code)
        self._part("code", code)
        self._attributes("defaults", function, "__defaults__", "__kwdefaults__")
        for place, cell in enumerate(function.__closure__ or ()):
            try:
                value = cell.cell_contents
            except ValueError:
                raise _Unknown from None  # it is filled later
            self.visit(value, ("cell", place))
        if _known(function.__module__):
            return
        names = _names(code)
        if names & _OPAQUE or _imports(code):
            raise _Unknown
        self.names |= names
        for name in sorted(names & function.__globals__.keys()):
            self.key.append(name)
            self.visit(function.__globals__[name], ("global", name))
        if vars(function):
            self._own(function)

    def _module(self, module: ModuleType) -> None:
        self.key += "module", module.__name__
        if not _known(module.__name__):
            self.by_name = True
            self._named(vars(module))
            self.visit(vars(module).get("__getattr__"))

    def _own(self, value: Any) -> None:
        """Attributes that somebody gave to a tensor or a function, and what a class of lists or the like adds."""
        self.by_name |= bool(members := getattr(value, "__dict__", {}))
        self._named(members)
        if isinstance(value, (list, tuple, dict)) and not _known(type(value).__module__):
            self.visit(type(value))

    def _named(self, members: Any) -> None:
        for name in sorted(self.looked_for & members.keys()):
            self.key.append(name)
            self.visit(members[name], ("attribute", name))

    def _class(self, kind: type) -> None:
        self.key.append(weakref.ref(kind))
        if not _known(type(kind).__module__):
            self.visit(type(kind))
        for one in kind.__mro__:
            if not _known(one.__module__):
                self.by_name = True
                self.followed &= not any(type(vars(one).get(name)) in _NUMBERS for name in self.looked_for)
                self._named(vars(one))
                for name, value in vars(one).items():
                    if isinstance(value, FunctionType) and name.startswith("__") and name not in _BEFORE:
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
def _imports(code: CodeType) -> bool:
    """Whether a function's code imports what nobody knows."""
    here = any(x.opname == "IMPORT_NAME" and not _known(x.argval) for x in dis.get_instructions(code))
    return here or any(_imports(one) for one in code.co_consts if isinstance(one, CodeType))


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> frozenset[str]:
    """The names that a function's code looks up, those of functions inside it too."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
    return frozenset(code.co_names).union(*inner)
