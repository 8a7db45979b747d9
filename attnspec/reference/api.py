"""What ``attnspec`` offers to Python, read from its sources: signatures, and what their docstrings begin with.

Sources are read, not imported: the functions are torch's neighbours, and help must not wait for torch.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from importlib.resources import files

from attnspec.reference.entry import WIDTH, fenced, wrap

PUBLIC = {
    "compile": "runtime.attention",
    "Attention": "runtime.attention",
    "Cache": "runtime.caches.cache",
    "merge": "runtime.cpp.merge",
    "distribute": "runtime.distributed.distribute",
    "Distributed": "runtime.distributed.distribute",
    "checkpoint_policy": "runtime.distributed.checkpoint",
    "recurrent": "runtime.recurrent.recurrent",
    "Recurrent": "runtime.recurrent.recurrent",
    "read": "",
    "shipped": "language.load",
    "nn.SpecAttention": "runtime.modules.spec_attention",
    "nn.FavorAttention": "runtime.modules.favor_attention",
    "TokenStatistics": "runtime.modules.token_statistics",
    "flex.flex_attention": "runtime.flex.attention",
    "flex.spec_of": "runtime.flex.imported",
    "flex.Imported": "runtime.flex.imported",
    "Spec": "spec.spec",
    "SpecError": "errors.diagnostic",
    "CallError": "runtime.core.errors",
}
"""Each public name with the module that holds it (within attnspec)."""


def api() -> str:
    """The public names, with their members."""
    return "\n\n".join(_said(name, home) for name, home in PUBLIC.items())


def _said(name: str, home: str) -> str:
    node = _node(name.split(".")[-1], home)
    head = f"### attnspec.{name}"
    if isinstance(node, ast.FunctionDef):
        return f"{head}\n\n{fenced(_signature(node), 'python')}\n\n{wrap(_plain(ast.get_docstring(node) or ''))}"
    about = f"{head}\n\n{wrap(_first(node))}"
    found: dict[str, ast.FunctionDef] = {}
    for m in _members(node, home):
        found.setdefault(m.name, m)  # its own goes before that of what it is made of
    members = [f"- `{_member(m)}`: {_first(m)}" for m in found.values()]
    return "\n".join([about, *([""] if members else []), *map(_item, members)])


def _node(name: str, home: str) -> ast.FunctionDef | ast.ClassDef:
    """The definition of a name in a module."""
    body = ast.parse(_source(home)).body
    return next(n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == name)


def _source(home: str) -> str:
    *folders, name = home.split(".")
    package, name = ".".join(["attnspec", *folders]), f"{name or '__init__'}.py"
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _members(node: ast.ClassDef, home: str) -> Iterator[ast.FunctionDef]:
    """The public members of a class, and those of the classes of ours that it is made of."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and _public(member.name) and "overload" not in _decorators(member):
            yield member
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    for part in ast.parse(_source(home)).body:
        if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("attnspec."):
            place = (part.module or "").removeprefix("attnspec.")
            for found in (_node(alias.name, place) for alias in part.names if alias.name in bases):
                assert isinstance(found, ast.ClassDef)
                yield from _members(found, place)


def _public(name: str) -> bool:
    return name == "__call__" or not name.startswith("_")


def _decorators(node: ast.FunctionDef) -> set[str]:
    return {ast.unparse(d).split(".")[-1] for d in node.decorator_list}


def _member(node: ast.FunctionDef) -> str:
    if _decorators(node) & {"property", "cached_property"}:
        return node.name
    return _signature(node).replace("__call__", "").removesuffix(f" -> {_returns(node)}")


def _signature(node: ast.FunctionDef) -> str:
    """A signature without types, but for what it returns."""
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults: list[ast.expr | None] = [*[None] * (len(plain) - len(a.defaults)), *a.defaults]
    said = [_argument(x, d) for x, d in zip(plain, defaults, strict=True) if x.arg != "self"]
    said += [f"*{a.vararg.arg}"] if a.vararg else ["*"] if a.kwonlyargs else []
    said += [_argument(x, d) for x, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    said += [f"**{a.kwarg.arg}"] if a.kwarg else []
    return f"{node.name}({', '.join(said)}) -> {_returns(node)}"


def _returns(node: ast.FunctionDef) -> str:
    return ast.unparse(node.returns) if node.returns else "None"


def _argument(node: ast.arg, default: ast.expr | None) -> str:
    return node.arg if default is None else f"{node.arg}={ast.unparse(default)}"


def _first(node: ast.FunctionDef | ast.ClassDef) -> str:
    """What a docstring begins with."""
    return " ".join(_plain(ast.get_docstring(node) or "").split("\n\n")[0].split())


def _plain(doc: str) -> str:
    """A docstring as Markdown, without its example."""
    doc = re.sub(r":\w+:(?=`)", "", doc.replace("``", "`"))
    paragraphs = [p for p in doc.split("\n\n") if not p.lstrip().startswith(">>>")]
    return "\n\n".join(" ".join(p.split()) for p in paragraphs)


def _item(text: str) -> str:
    """An item of a list, its further lines indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
