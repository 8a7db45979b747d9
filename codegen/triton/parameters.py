"""The parameters of Triton kernels: their types, and what the host passes for them.

A kernel takes those that its text mentions, in the order in which they stand here. What is read from inputs has names
that never meet, whatever users call their inputs.

>>> argument("doc"), argument("doc.first"), size("doc.first", 1)
('in_doc', 'first_of_doc', 'size1_first_of_doc')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnspec.codegen.expressions.arguments import is_argument

SCALARS = ("n", "n_q", "heads", "kv_heads", "batch", "m")
"""Sizes of the whole pattern."""
PLACES = (
    *("q_start", "rows", "k_start", "keys", "h_start", "b_start"),
    *("held_heads", "held_kv_heads", "held_batch"),
)
"""Which part of it the tensors of a call hold: see :mod:`attnspec.codegen.triton.held`."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of kernels.

    ``type`` is Triton's name of it, or what it depends on: ``element`` is a pointer to elements of the module's type,
    ``carried`` and ``added`` the same unless results, or gradients of keys, are summed up in float32; ``whole`` is a
    pointer to integers as wide as positions; a ``stride`` is one of rows, a ``count`` a number for whose values triton
    must not compile anew. ``host`` is the expression that a launch passes, in which ``{kernel}`` is the kernel's name
    and ``{rows}`` the number of its heads. ``given`` is the name of what must be there in ``given`` for that.
    """

    name: str
    type: str
    host: str
    given: str | None = None


def _given(name: str, type: str, key: str) -> Parameter:
    return Parameter(name, type, f"given[{key!r}]", key)


TENSORS = (
    Parameter("Q", "element", "q"),
    Parameter("K", "element", "k"),
    Parameter("V", "element", "v"),
    Parameter("OUT", "carried", "own"),
    Parameter("LSE", "*fp32", "line"),
    Parameter("DO", "element", "dout"),
    Parameter("NORM", "*fp32", "norm"),
    Parameter("DELTA", "*fp32", "delta"),
    Parameter("DQ", "carried", "dq"),
    Parameter("DK", "added", "dk"),
    Parameter("DV", "added", "dv"),
    Parameter("PAGES", "*i32", "given['pages'][0]"),
    Parameter("LENGTHS", "*i64", "given['pages'][1]"),
    _given("ORDER", "whole", "order"),
    Parameter("HEADS", "*i32", "own_heads"),
    *(_given(name, "whole", f"{{kernel}}.{name.lower()}") for name in ("Q_LIST", "K_LIST")),
    *(_given(name, "*i64", f"{{kernel}}.{name.lower()}") for name in ("TABLE", "START", "MIDDLE", "END", "TILES")),
)

_STRIDED = {"q": "q", "k": "k", "v": "v", "o": "own", "g": "dout", "dq": "dq", "dk": "dk", "dv": "dv"}
NUMBERS = (
    *(Parameter(f"{t}_{d}", "stride", f"{of}.stride({n})") for t, of in _STRIDED.items() for n, d in enumerate("bhr")),
    Parameter("o_s", "stride", "out.stride(0)"),
    Parameter("delta_s", "i32", "delta.stride(0)"),
    *(Parameter(name, "count", name) for name in (*SCALARS, *PLACES, "tiles")),
    Parameter("pages_b", "stride", "given['pages'][0].stride(0)"),
    Parameter("page_size", "i32", "k.shape[2]"),
    Parameter("shares", "i32", "shares"),
    Parameter("share_tiles", "count", "share_tiles"),
    Parameter("own_heads", "count", "{rows}"),
    *(
        _given(name, "count", f"{{kernel}}.{name}")
        for name in ("first_outer", "q_first_slot", "q_count", "k_first_slot", "k_count")
    ),
    Parameter("scale", "fp32", "scale"),
)

_KINDS = {"int": "whole", "bool": "*u8", "float": "*fp32"}
CONSTANTS = (Parameter("GROUP", "constexpr", "group"), Parameter("PRECISION", "constexpr", "precision"))


def argument(name: str) -> str:
    """The parameter with the data of an input, of what is derived from one (``doc.first``), or of a real parameter."""
    if is_argument(name):
        return f"real_{name[1:]}"
    own, _, derived = name.partition(".")
    return f"{derived}_of_{own}" if derived else f"in_{own}"


def size(name: str, axis: int) -> str:
    """The parameter with a size of it."""
    return f"size{axis}_{argument(name)}"


def inputs(reads: Mapping[str, tuple[str, int]]) -> tuple[Parameter, ...]:
    """The data of what is read (see :mod:`attnspec.codegen.expressions.reads`), each followed by its sizes.

    >>> [(p.name, p.host) for p in inputs({"doc": ("int", 1)})]
    [('in_doc', "given['in_doc']"), ('size0_in_doc', "given['in_doc'].shape[0]")]
    """
    found: list[Parameter] = []
    for name, (kind, dimensions) in reads.items():
        scalar = is_argument(name) and not dimensions
        data = _given(argument(name), "fp32" if scalar else _KINDS[kind], argument(name))
        sizes = (Parameter(size(name, axis), "i32", f"{data.host}.shape[{axis}]") for axis in range(dimensions))
        found += [data, *sizes]
    return tuple(found)


def gradient(data: str) -> Parameter:
    """The gradient of a float input, given the parameter with its data."""
    return Parameter(f"D_{data}", "*fp32", f"gradients.get({data!r})")


def sums(number: int) -> Parameter:
    """The sums for an entry of an input that all pairs of a head share."""
    return Parameter(f"SUM{number}", "*fp32", f"sums.get('SUM{number}')")
