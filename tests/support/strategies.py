"""Hypothesis strategies: whole specs as text, valid and affine, with sizes to try them at.

``cases()`` gives a :class:`Case`; ``size`` bounds how deeply its predicates nest. With ``inputs=True`` predicates read
inputs and multiply positions, and the case has the arrays of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnspec.check.check import check_text
from attnspec.relation.sizes import Sizes
from attnspec.spec.spec import Spec

Draw = Callable[[st.SearchStrategy[Any]], Any]
HEADS = 4  # lists indexed by h have this many entries, so that they cover the heads of every case


@dataclass(frozen=True)
class Case:
    """A spec as text, values for its parameters, and sizes."""

    text: str
    params: dict[str, Any]
    n: int
    n_q: int
    heads: int
    batch: int = 1
    inputs: dict[str, NDArray[Any]] = field(default_factory=dict)

    def spec(self) -> Spec:
        """The checked spec."""
        return self._checked

    @cached_property
    def _checked(self) -> Spec:
        return check_text(self.text, params=self.params)

    def sizes(self) -> Sizes:
        """Those of the call: as many key heads as heads, one entry."""
        return Sizes(self.n, self.n_q, self.heads, self.heads, 1, self.spec().align == "end")


@dataclass(frozen=True)
class _Names:
    """What an expression may use: positive constants, lists (name to entries), functions, predicates, patterns."""

    constants: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()
    patterns: tuple[tuple[str, str], ...] = ()
    """Names with one letter per parameter: i a positive integer, p a pattern."""
    heads: bool = True
    inputs: bool = False

    def but(self, **changes: Any) -> _Names:
        return _Names(**{**self.__dict__, **changes})


@dataclass
class _Maker:
    draw: Draw
    fresh: int = field(default=0)

    def one_of(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def name(self, prefix: str) -> str:
        self.fresh += 1
        return f"{prefix}{self.fresh}"

    def flip(self) -> bool:
        return bool(self.draw(st.booleans()))

    # Integers

    def positive(self, names: _Names) -> str:
        """A positive constant that may stand as divisor or factor."""
        kinds = ["number", "number", *["constant"] * len(names.constants)]
        if names.heads:
            kinds += ["head"] + ["list"] * len(names.lists)
        kinds += ["bound"] * len(names.bound)
        match self.one_of(*kinds):
            case "constant":
                return str(self.one_of(*names.constants))
            case "head":
                return str(self.one_of("(h + 1)", "2 ** h", "(h % 2 + 1)"))
            case "list":
                return f"{self.one_of(*names.lists)}[h]"
            case "bound":
                return f"({self.one_of(*names.bound)} + 1)"
        return str(self.draw(st.integers(1, 7)))

    def constant(self, names: _Names) -> str:
        """Any constant."""
        if self.flip():
            return str(self.draw(st.integers(-6, 9)))
        value = self.positive(names)
        return str(self.one_of(value, f"-{value}", f"({value} - 2)", f"{value} // 2"))

    def integer(self, names: _Names, size: int) -> str:
        """An integer that may vary with the position."""
        if size <= 0:
            leaves = ["q", "k", "q", "k", "q - k", *names.numbers, *names.bound]
            leaf = str(self.one_of(*leaves, self.constant(names)))
            return leaf if " " not in leaf else f"({leaf})"
        a, smaller = self.integer(names, size - 1), size - 1
        kinds = ["add", "add", "scale", "divide", "remainder", "abs", "least", "if", "size", "read", "sum"]
        kinds += ["input", "input", "product"] * names.inputs
        match self.one_of(*kinds, *["call"] * (2 * len(names.functions))):
            case "input":
                scalars = ("length", "span", "limit")
                return str(self.one_of(f"doc[{a}]", f"doc[{a}]", f"ids[{a}]", "row[q]", f"first(doc, {a})", *scalars))
            case "product":
                return f"({a} * {self.integer(names, 0)})"
            case "add":
                return f"({a} {self.one_of('+', '-')} {self.integer(names, smaller)})"
            case "scale":
                return f"({self.positive(names)} * {a})" if self.flip() else f"(-{a})"
            case "divide":
                return f"({a} // {self.divisor(names)})"
            case "remainder":
                return f"({a} % {self.divisor(names)})"
            case "abs":
                return f"(|{a}|)"
            case "least":
                b = self.integer(names, smaller)
                return str(
                    self.one_of(f"min({a}, {b})", f"max({a}, {b}, 1)", f"clamp({a}, -2, {self.constant(names)})")
                )
            case "if":
                return f"(if {self.predicate(names, smaller)} then {a} else {self.integer(names, smaller)})"
            case "size":
                return str(self.one_of(f"(n - {a})", f"(n // 2 - {a})", f"(n_q - {a})"))
            case "read":
                # An index that is known must be in the list, one that varies need not: this one always varies.
                return f"[3, 0, 2, 5][({self.one_of('q', 'k')} - {a}) % {self.one_of('4', '4', '5')}]"
            case "sum":
                j = self.name("j")
                return f"(sum {j} in 0..{self.draw(st.integers(0, 3))}: {a} - {j})"
        return f"{self.one_of(*names.functions)}({a})"

    def divisor(self, names: _Names) -> str:
        """A positive constant, or an input that comes with the call."""
        return "chunk" if names.inputs and self.flip() else self.positive(names)

    # Predicates

    def predicate(self, names: _Names, size: int) -> str:
        """A predicate, in brackets where it needs them."""
        if size <= 0:
            return self.comparison(names, 0)
        smaller = size - 1
        kinds = ["compare", "compare", "and", "or", "not", "any", "all", "in", "at", "if", "same", "prelude"]
        kinds += ["name"] * len(names.predicates) + ["pattern"] * (2 * len(names.patterns))
        kinds += ["input", "input"] * names.inputs
        match self.one_of(*kinds):
            case "input":
                a = self.integer(names, smaller)
                return str(self.one_of("(doc[q] == doc[k])", f"keep[{a}]", f"({a} in top[q // 2])", f"({a} < length)"))
            case "and" | "or" as word:
                count = self.draw(st.integers(2, 3))
                return f"({f' {word} '.join(self.predicate(names, smaller) for _ in range(count))})"
            case "not":
                return f"(not {self.predicate(names, smaller)})"
            case "any" | "all" as word:
                i = self.name("i")
                body = self.predicate(names.but(bound=(*names.bound, i)), smaller)
                over = self.one_of(f"0..{self.draw(st.integers(0, 3))}", "[2, 0, 5]", *names.lists)
                return f"({word} {i} in {over}: {body})"
            case "in":
                a = self.integer(names, smaller)
                over = self.one_of(f"{self.constant(names)}..{self.constant(names)}", "[1, 4, 6]", *names.lists)
                return f"({a} {self.one_of('in', 'not in')} {over})"
            case "at":
                p = self.predicate(names, smaller)
                return f"({p} at ({self.one_of('q', 'k')} - {self.integer(names, 1)}, {self.integer(names, 1)} + k))"
            case "if":
                parts = (self.predicate(names, smaller) for _ in range(3))
                return "(if {} then {} else {})".format(*parts)
            case "same":
                return f"({self.predicate(names, smaller)} {self.one_of('==', '!=')} {self.predicate(names, smaller)})"
            case "name":
                return str(self.one_of(*names.predicates))
            case "pattern":
                return self.call(*self.one_of(*names.patterns), names, smaller)
            case "prelude":
                return self.call(*self.one_of(*_PRELUDE), names, smaller)
        return self.comparison(names, smaller)

    def comparison(self, names: _Names, size: int) -> str:
        op = st.sampled_from(["<", "<=", "==", "!=", ">", ">="])
        a, b = self.integer(names, size), self.integer(names, 0)
        if self.flip():
            return f"({a} {self.draw(op)} {b})"
        return f"({self.constant(names)} {self.one_of('<', '<=')} {a} {self.one_of('<', '<=')} {self.constant(names)})"

    def call(self, name: str, signature: str, names: _Names, size: int) -> str:
        args = [self.positive(names) if s == "i" else self.predicate(names, size) for s in signature]
        return f"{name}({', '.join(args)})" if args else name

    # Whole specs

    def case(self, size: int, inputs: bool) -> Case:
        lines: list[str] = []
        patterns: list[tuple[str, str]] = []
        for _ in range(self.draw(st.integers(0, 2))):
            signature = str(self.one_of("", "i", "ip", "p"))
            name = self.name("pattern_")
            own = [f"a{i}" for i in range(len(signature))]
            inner = _Names(
                constants=tuple(a for a, s in zip(own, signature, strict=True) if s == "i"),
                predicates=tuple(a for a, s in zip(own, signature, strict=True) if s == "p"),
                patterns=tuple(patterns),
            )
            heading = f"({', '.join(own)})" if own else ""
            lines.append(f"pattern {name}{heading} = {self.predicate(inner, size)}")
            patterns.append((name, signature))
        names = _Names(constants=("width", "attend"), lists=("xs",), predicates=("flag",), patterns=tuple(patterns))
        lines.append("attention case(width = 3, attend = 2, xs = [1, 2, 3, 1], flag = true) {")
        if self.one_of(True, False, False):
            lines.append("    align start")
        if inputs:
            sizes = {name: f"[{', '.join(over)}]" if over else "" for name, _, over, _ in _INPUTS}
            lines += [f"    input {name}: {kind}{sizes[name]}{form}" for name, kind, _, form in _INPUTS]
            names = names.but(inputs=True)
        names, body = self.clauses(names, size, groups=True)
        lines += [*body, "}"]
        params: dict[str, Any] = {}
        if self.flip():
            params["width"] = self.draw(st.integers(1, 6))
        if self.flip():
            params["xs"] = self.draw(st.lists(st.integers(1, 4), min_size=HEADS, max_size=HEADS))
        n = self.draw(st.integers(1, 12))
        n_q = self.one_of(n, n, self.draw(st.integers(1, 12)))
        case = Case("\n".join(lines) + "\n", params, n, n_q, self.draw(st.integers(1, HEADS)))
        if not inputs:
            return case
        batch = self.draw(st.integers(1, 2))
        return replace(case, batch=batch, inputs=self.arrays(case, batch))

    def arrays(self, case: Case, batch: int) -> dict[str, NDArray[Any]]:
        """What the inputs hold: small values, some of them outside their range."""
        random = np.random.default_rng(self.draw(st.integers(0, 1 << 16)))
        sizes = {"n": case.n, "n_q": case.n_q, "heads": case.heads, "batch": batch, "(n + 1) // 2": (case.n + 1) // 2}
        found: dict[str, NDArray[Any]] = {}
        for name, kind, over, form in _INPUTS:
            shape = tuple(sizes[size] if size in sizes else int(size) for size in over)
            low = 1 if name == "chunk" else -2  # it divides
            values = np.asarray(random.integers(0, 2, shape) if kind == "bool" else random.integers(low, 7, shape))
            found[name] = values.astype(bool) if kind == "bool" else np.sort(values, -1) if form else values
        return found

    def clauses(self, names: _Names, size: int, groups: bool) -> tuple[_Names, list[str]]:
        lines: list[str] = []
        kinds = ["attend", "attend", "attend", "within", "number", "function", "truth", *["heads"] * groups]
        for _ in range(self.draw(st.integers(0, 4))):
            match self.one_of(*kinds):
                case "attend" | "within" as word:
                    lines.append(f"    {word} {self.predicate(names, size)}")
                case "number":
                    name = self.name("number_")
                    lines.append(f"    let {name} = {self.integer(names, 1)}")
                    names = names.but(numbers=(*names.numbers, name))
                case "function":
                    name = self.name("function_")
                    inner = names.but(numbers=(*names.numbers, "i"))
                    lines.append(f"    let {name}(i) = {self.integer(inner, 1)}")
                    names = names.but(functions=(*names.functions, name))
                case "truth":
                    name = self.name("truth_")
                    lines.append(f"    let {name} = {self.predicate(names, 1)}")
                    names = names.but(predicates=(*names.predicates, name))
                case "heads":
                    over = self.one_of("0..2", "1..3", "[0, 3]", "[2]", "1..heads")
                    _, body = self.clauses(names, size, groups=False)
                    lines += [f"    for h in {over} {{", *(f"    {line}" for line in body), "    }"]
        return names, lines


_INPUTS = (
    ("doc", "int", ("batch", "n"), " sorted"),
    ("ids", "int", ("n",), ""),
    ("row", "int", ("n_q",), ""),
    ("length", "int", ("batch",), ""),
    ("span", "int", ("heads",), ""),
    ("limit", "int", (), ""),
    ("top", "int", ("batch", "heads", "(n + 1) // 2", "3"), ""),
    ("keep", "bool", ("batch", "n"), ""),
    ("chunk", "int", ("batch", "heads"), ""),
)
_PRELUDE = (
    ("causal", ""),
    ("window", "i"),
    ("band", "ii"),
    ("dilated", "ii"),
    ("segment", "i"),
    ("global", "i"),
    ("sinks", "i"),
    ("strided", "i"),
    ("transposed", "p"),
    ("restarted", "pi"),
    ("blocks", "pi"),
    ("grid", "ppi"),
    ("neighborhood", "iii"),
)


@st.composite
def cases(draw: Draw, size: int = 2, inputs: bool = False) -> Case:
    """A valid spec and sizes to try it at; with ``inputs`` one that has inputs, and their arrays."""
    return _Maker(draw).case(size, inputs)
