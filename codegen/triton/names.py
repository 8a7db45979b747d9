"""Parameters of Triton kernels for what a pattern reads, by names that never meet, whatever users call their inputs.

>>> argument("doc"), argument("doc.first"), size("doc.first", 1)
('in_doc', 'first_of_doc', 'size1_first_of_doc')
>>> is_data("first_of_doc"), is_data("size1_first_of_doc"), sized("size1_first_of_doc")
(True, False, ('first_of_doc', 1))
"""

from __future__ import annotations

import re

_DATA = re.compile(r"(in|[a-z]+_of)_\w+")
_SIZE = re.compile(r"size(\d+)_(\w+)")


def argument(name: str) -> str:
    """The parameter with the data of an input, or of what is derived from one (``doc.first``)."""
    own, _, derived = name.partition(".")
    return f"{derived}_of_{own}" if derived else f"in_{own}"


def size(name: str, axis: int) -> str:
    """The parameter with a size of it."""
    return f"size{axis}_{argument(name)}"


def is_data(parameter: str) -> bool:
    """Whether a parameter holds data of an input, or of what is derived from one."""
    return bool(_DATA.fullmatch(parameter))


def sized(parameter: str) -> tuple[str, int] | None:
    """The data whose size a parameter is, and the axis."""
    found = _SIZE.fullmatch(parameter)
    return (found[2], int(found[1])) if found else None


def given(parameter: str) -> str:
    """What the host passes for such a parameter.

    >>> given("in_doc"), given("size1_in_doc")
    ("given['in_doc']", "given['in_doc'].shape[1]")
    """
    of = sized(parameter)
    return f"given[{of[0]!r}].shape[{of[1]}]" if of else f"given[{parameter!r}]"
