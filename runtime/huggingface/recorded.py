"""Mask functions as predicates of our language by what they do with their positions: recorded while they run.

Nothing is computed: a function mode answers each operation with a new tensor that stands for its result. So it works
for functions that are not transformers' own, and while torch.compile traces, where nobody may look into a function.
(:mod:`attnspec.flex` records more operations, but runs the function on numbers, of which there are none then.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attnspec.runtime.huggingface.constant import constant
from attnspec.runtime.huggingface.formulas import MaskFunction, Unknown, Written

_COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_KEPT = frozenset({"to", "bool", "long", "int", "clone"})
_TURNED = frozenset({"radd", "rsub", "rmul", "rfloordiv", "rmod", "rand", "ror"})
_COUNTED = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "floor_divide": "//", "mod": "%", "remainder": "%"}
_JOINED = {"and": "and", "or": "or", "logical_and": "and", "logical_or": "or", "bitwise_and": "and", "bitwise_or": "or"}


class Sign(NamedTuple):
    """What a tensor stands for: an integer or a predicate, as text.

    ``place`` is the same number with the place of the query or key in ``table``, the table that was read there (-1: the
    position itself). ``same`` are the tables in which query and key must have the same number.
    """

    text: str
    predicate: bool = False
    place: str = ""
    table: int = -1
    same: tuple[int, ...] = ()


TRUE, FALSE = Sign("0 == 0", True), Sign("0 == 1", True)


class Recorder(TorchFunctionMode):
    """Records one function into what is written of it.

    With ``restarting`` the numbers that are compared in order, of one table, are those of places: ``placed`` says of
    which tables this was assumed.
    """

    def __init__(self, written: Written, device: torch.device | str, restarting: bool) -> None:
        super().__init__()
        self.written, self.device, self.restarting = written, device, restarting
        self.signs: list[tuple[Tensor, Sign]] = []
        self.tables: list[Tensor] = []
        self.placed: list[int] = []

    def position(self, name: str) -> Tensor:
        """What stands for an argument of the function."""
        return self._new(Sign(name) if name in "bh" else Sign(f"({name} + key_start)", place=name))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for each operation, in place of it."""
        name = _name(func)
        index = args[1] if name == "getitem" else ()
        index = index if isinstance(index, tuple) else (index,)
        if name == "get" or not any(self._found(arg) for arg in (*args, *index)):
            return func(*args, **(kwargs or {}))  # a property, or nothing that depends on a position
        if name in _KEPT:
            return args[0]
        if name in ("new_ones", "new_zeros"):
            return self._new(TRUE if name == "new_ones" else FALSE)
        if name == "getitem":
            return self._read(args[0], index)
        left = self._sign(args[0])
        if len(args) == 1:
            if name == "abs":
                return self._new(Sign(f"|{left.text}|"))
            if name in ("invert", "logical_not", "bitwise_not") and left.predicate:
                return self._new(Sign(f"not ({left.text})", True))
            raise Unknown(f"`{name}`")
        right = self._sign(args[1])
        if name in _TURNED:
            name, left, right = name[1:], right, left
        if name in _JOINED and left.predicate and right.predicate:
            return self._new(_joined(_JOINED[name], left, right))
        if left.predicate or right.predicate:
            raise Unknown(f"`{name}` of what is true or false")
        if name in _COMPARED:
            return self._new(self._compared(_COMPARED[name], left, right))
        if name in _COUNTED:
            return self._new(_counted(_COUNTED[name], left, right))
        raise Unknown(f"`{name}`")

    def result(self, found: Any) -> Sign:
        """What a function returns."""
        sign = self._sign(found)
        if not sign.predicate:
            raise Unknown("an integer in place of what is true or false")
        return sign

    def _found(self, arg: Any) -> Sign | None:
        if isinstance(arg, Tensor):
            for tensor, sign in self.signs:
                if tensor is arg:
                    return sign
        return None

    def _sign(self, arg: Any) -> Sign:
        found = self._found(arg)
        if found is not None:
            return found
        if isinstance(arg, bool):
            return TRUE if arg else FALSE
        if isinstance(arg, int):
            return Sign(str(arg) if 0 <= arg <= 1 else self.written.number("width", arg))
        raise Unknown("a tensor is read at no position")

    def _new(self, sign: Sign) -> Tensor:
        stands = torch.zeros((), dtype=torch.bool if sign.predicate else torch.long, device=self.device)
        self.signs.append((stands, sign))
        return stands

    def _read(self, table: Tensor, index: tuple[Any, ...]) -> Tensor:
        at = [self._found(i) for i in index]
        texts = [sign.text if sign else "" for sign in at]
        if texts == ["b"] and table.dim() == 1 and not table.is_floating_point():
            return self._new(Sign(self.written.number("start", table)))
        place = at[-1].place if at[-1] and texts[:-1] == ["b"] * (table.dim() - 1) else ""
        if place not in ("q", "k") or at[-1].table != -1 or table.is_floating_point():  # type: ignore[union-attr]
            raise Unknown("a tensor is read by other than batch entry and position")
        kind = "bool" if table.dtype is torch.bool else "int"
        name = self.written.values("table", table, kind)
        number = next((i for i, known in enumerate(self.tables) if known is table), len(self.tables))
        if number == len(self.tables):
            self.tables.append(table)
        return self._new(Sign(f"{name}[b, {place}]", kind == "bool", place, number))

    def _compared(self, how: str, left: Sign, right: Sign) -> Sign:
        if left.table != right.table or not (left.place and right.place):
            return Sign(f"{left.text} {how} {right.text}", True)
        if left.table == -1:
            return Sign(f"{left.place} {how} {right.place}", True)
        if how == "==" and {left.place, right.place} == {"q", "k"}:
            return Sign(f"{left.text} == {right.text}", True, same=(left.table,))
        if how in ("==", "!=") or not self.restarting:
            return Sign(f"{left.text} {how} {right.text}", True)
        self.placed.append(left.table)
        return Sign(f"{left.place} {how} {right.place}", True)


@constant
def _name(func: Any) -> str:
    """What an operation is called, whether it came as a method, as an operator or as a function."""
    return str(func.__name__).strip("_")


def _joined(how: str, left: Sign, right: Sign) -> Sign:
    if how == "and":
        if left.text == TRUE.text or right.text == TRUE.text:
            return right if left.text == TRUE.text else left
        return Sign(f"({left.text}) and ({right.text})", True, same=left.same + right.same)
    if left.text == FALSE.text or right.text == FALSE.text:
        return right if left.text == FALSE.text else left
    return Sign(f"({left.text}) or ({right.text})", True)


def _counted(how: str, left: Sign, right: Sign) -> Sign:
    text = f"({left.text} {how} {right.text})"
    if how == "+" and bool(left.place) != bool(right.place):
        there, by = (left, right.text) if left.place else (right, left.text)
        return Sign(text, place=f"({there.place} + {by})", table=there.table)
    if how == "-" and left.place and not right.place:
        return Sign(text, place=f"({left.place} - {right.text})", table=left.table)
    return Sign(text)


def recorded(function: MaskFunction, written: Written, device: torch.device | str) -> str:
    """The predicate of any mask function. Raises Unknown where it does what this cannot write.

    Where positions begin anew in each document, and query and key must be of one, these differ as places do: that is
    checked, and then tiles are known by places.
    """
    sign, recorder = _run(function, written, device, True)
    if recorder.placed and not sign.same:
        written.clear()
        sign, recorder = _run(function, written, device, False)
    if not sign.same:
        return sign.text
    document = recorder.tables[sign.same[0]]
    for number in recorder.placed:
        goes_on = (recorder.tables[number].diff() == 1) | (document.diff() != 0)
        if torch.compiler.is_compiling():
            torch._assert_async(
                goes_on.all(), "attnspec.transformers: positions begin anew where no document does: run this eagerly"
            )
        elif not bool(goes_on.all()):
            written.clear()
            sign, recorder = _run(function, written, device, False)
            break
    if torch.compiler.is_compiling() or bool((document.diff() >= 0).all()):
        return written.number_documents(document, sign.text)
    return sign.text


def _run(
    function: MaskFunction, written: Written, device: torch.device | str, restarting: bool
) -> tuple[Sign, Recorder]:
    recorder = Recorder(written, device, restarting)
    positions = [recorder.position(name) for name in "bhqk"]
    with recorder:
        found = function(*positions)
    return recorder.result(found), recorder
