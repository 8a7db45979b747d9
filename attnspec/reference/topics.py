"""The reference as text: by topic for ``attnspec help``, and whole, as ``attnspec/language/REFERENCE.md`` has it.

>>> print(topic("window"))
In the prelude:
...
pattern window(w) = 0 <= q - k < w
...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files

from attnspec.check.clauses.orders import ORDERS
from attnspec.check.clauses.rotations import NAMES, ROTATIONS
from attnspec.check.clauses.segments import RECALLS
from attnspec.check.expressions.fields import FIELDS
from attnspec.check.expressions.library import FAVOR
from attnspec.check.expressions.options import Option
from attnspec.errors.catalogue import CODES
from attnspec.errors.foreign import brought
from attnspec.errors.source import Source
from attnspec.language import words
from attnspec.language.load import shipped
from attnspec.language.parse import parse
from attnspec.reference import clauses, expressions, inputs, meaning, patterns, scores, segments, specs, weights
from attnspec.reference.api import api
from attnspec.reference.elsewhere import elsewhere
from attnspec.reference.entry import Section, fenced, table, wrap
from attnspec.reference.mistakes import explain

SECTIONS = (
    meaning.SECTION,
    clauses.SECTION,
    expressions.SECTION,
    patterns.SECTION,
    inputs.SECTION,
    scores.SECTION,
    weights.SECTION,
    segments.SECTION,
)
"""What is written by hand: every construct has an entry in one of them."""


def whole() -> str:
    """The whole reference, in Markdown."""
    texts = {name: text() for name, text in TOPICS.items()}
    contents = "\n".join(f"- {_link(text)}: {SAID[name]}" for name, text in texts.items())
    parts = [f"# The language of attention patterns\n\n{wrap(_INTRODUCTION)}", contents]
    for name, text in texts.items():
        parts += [text, *(map(explain, CODES) if name == "errors" else ())]
    return "\n\n".join(parts) + "\n"


def _link(text: str) -> str:
    """A link to the heading that a text begins with, as GitHub makes its target."""
    title = text.splitlines()[0].lstrip("# ")
    return f"[{title}](#{re.sub(r'[^a-z0-9 -]', '', title.lower()).replace(' ', '-')})"


def topic(name: str) -> str:
    """What there is to say of a topic, a word, a pattern of the prelude, a shipped spec or a code.

    Raises KeyError where there is nothing.
    """
    if name in TOPICS:
        return TOPICS[name]()
    if name.upper() in CODES:
        return explain(name.upper())
    entries = [entry for section in SECTIONS for entry in section.entries]
    about = [str(entry) for entry in entries if name == entry.head or name in words_of(entry.head)]
    if name in prelude():
        about.insert(0, f"In the prelude:\n\n{fenced(prelude()[name])}")
    if name in OPTIONS:
        about.append(f"`{name}` is an option: {OPTIONS[name]}.")
    if name in shipped():
        about.append(specs.in_full(name))
    if not about and brought(name):
        about.append(f"`{name}` means nothing here: {brought(name)}.")
    if not about:
        raise KeyError(name)
    return "\n\n".join(about)


def names() -> list[str]:
    """Everything that :func:`topic` knows."""
    heads = {entry.head for section in SECTIONS for entry in section.entries}
    return sorted({*TOPICS, *CODES, *heads, *WORDS, *prelude(), *OPTIONS, *shipped()})


def words_of(head: str) -> set[str]:
    """The words and signs of the language in the head of an entry: ``attend P`` is about ``attend``."""
    pieces = re.findall(r"[A-Za-z_][A-Za-z0-9_]*|[^\sA-Za-z0-9_]+|[^\sA-Za-z0-9_]", head)
    return {piece for piece in pieces if piece in WORDS or not piece[0].isalpha()}


WORDS = (
    words.CLAUSES
    | words.HEADINGS
    | words.PARTICLES
    | words.RESERVED
    | words.LIBRARY
    | {*FIELDS, *ROTATIONS, *ORDERS, *RECALLS, *NAMES}
)
"""The words of the language, wherever they are words."""


@cache
def prelude() -> Mapping[str, str]:
    """The patterns of the prelude: what each is, and what it means."""
    text = files("attnspec.language").joinpath("prelude.attn").read_text(encoding="utf-8")
    found = parse(Source("prelude.attn", text)).patterns
    said = {}
    for pattern in found:
        written = re.sub(r'"[^"]*"', "", pattern.span.text)
        said[pattern.name.name] = f"{written.strip()}\n    {' '.join(d.text for d in pattern.docs)}"
    return said


def _section(section: Section) -> str:
    entries = "\n\n".join(map(str, section.entries))
    return f"## {section.title}\n\n{wrap(section.text)}\n\n{entries}"


def _patterns() -> str:
    listed = fenced("\n".join(prelude().values()))
    return f"{_section(patterns.SECTION)}\n\n### The prelude\n\nWhat every spec may use.\n\n{listed}"


def _scores() -> str:
    rows = [
        (name, option, _default(o), OPTIONS[option])
        for name, options in {**ROTATIONS, **ORDERS, "favor": FAVOR}.items()
        for option, o in options.items()
    ]
    options = table(("of", "option", "default", "what it is"), rows)
    return f"{_section(scores.SECTION)}\n\n### Options of rotations, orders and favor\n\n{options}"


def _default(option: Option) -> str:
    if option.default is None:
        return "" if option.optional else "must be given"
    return str(option.default).lower() if isinstance(option.default, (bool, str)) else f"{option.default:g}"


def _errors() -> str:
    rows = list(CODES.items())
    text = "Every mistake has a code; `attnspec explain E024` says what it means, with an example, and how to mend it."
    return f"## Mistakes\n\n{wrap(text)}\n\n{table(('code', 'what it is about'), rows)}"


def _specs() -> str:
    text = "The names that `attnspec.compile` and the command line know; `attnspec list NAME` shows one in full."
    rows = [(group, name, specs.summary(name)) for group, names in specs.GROUPS.items() for name in names]
    return f"## Shipped specs\n\n{wrap(text)}\n\n{table(('group', 'name', 'what it is'), rows)}"


TOPICS: Mapping[str, Callable[[], str]] = {
    "meaning": lambda: _section(meaning.SECTION),
    "clauses": lambda: _section(clauses.SECTION),
    "expressions": lambda: _section(expressions.SECTION),
    "patterns": _patterns,
    "inputs": lambda: _section(inputs.SECTION),
    "scores": _scores,
    "weights": lambda: _section(weights.SECTION),
    "segments": lambda: _section(segments.SECTION),
    "errors": _errors,
    "specs": _specs,
    "python": lambda: f"## In Python\n\n{api()}",
    "coming-from": lambda: f"## Coming from FlexAttention, flash-attn, NATTEN or SDPA\n\n{elsewhere()}",
}
"""The topics, in the order of the whole."""

SAID = {
    "meaning": "files, no attend line, alignment, empty rows, a..b, // and %",
    "clauses": "attend, within, let, include, for h, mix, axis, order",
    "expressions": "numbers, comparisons, lists, any, all, sum, at",
    "patterns": "your own, and those of the prelude",
    "inputs": "tensors of the call: sorted, offsets, random, blocks",
    "scores": "score, sink, scale, normalize, rotate, and their options",
    "weights": "linear, divide, decay, delta: attention without softmax",
    "segments": "recur, carry, recall, horizon: what one segment leaves to the next",
    "errors": "all codes",
    "specs": "the shipped specs",
    "python": "attnspec.compile and what it gives",
    "coming-from": "FlexAttention, flash-attn, NATTEN, SDPA: masks side by side",
}
"""What each topic is about, in a line."""

OPTIONS = {
    "theta": "the base of the frequencies",
    "dims": "how many dimensions of a head turn, from `start` on; 0: all",
    "start": "the first dimension of a head that turns",
    "frequencies": "the angle of each pair from one position to the next: a formula over `frequency` (that of RoPE), "
    "`pair` and `pairs`, a list, or an input",
    "layout": "`half` turns dimension i with i + dims / 2 (Llama, Hugging Face), `pairs` neighbours (the paper)",
    "scale_base": "the distance over which the decay of xPos is measured",
    "factor": "by how much the context is stretched",
    "original": "the length of the context before",
    "beta_fast": "turns within `original` above which a frequency stays",
    "beta_slow": "turns within `original` below which a frequency is divided by `factor`",
    "ramp": "between them, linear in the dimension's `index` (published code) or in its `rotations` (the paper)",
    "truncate": "whether the ends of the ramp are rounded to whole dimensions",
    "attention_factor": "a factor on both queries and keys; 1, for yarn 0.1 * log(factor) + 1",
    "buckets": "how many hashes, even; a list: their product",
    "rounds": "how often positions are hashed and sorted",
    "seed": "of the random rotations, or of the projection",
    "features": "how many random features",
    "kernel": "what the dot products of features estimate: `softmax`, the exponential, or `relu`",
    "eps": "what is added to each feature",
    "scaling": "the lengths of the directions: those of Gaussian vectors (`norm`), or the root of their size (`sqrt`)",
    "stable": "of what keys the exponent is lessened by the largest: of `all`, of those so far (`running`), or `none`",
    "through_max": "whether gradients go through it",
    "part": "how much of a segment its summary reads, above 0 and at most 1",
    "dim": "how many numbers a summary and what is stored are compared by",
}
"""What each option of a rotation, an order, favor or a recall is."""

_INTRODUCTION = """\
What there is to write, what it means, and two lines that show it. This text is `attnspec help`, topic by topic
(`attnspec help clauses`, `attnspec help rotate`). It is made of the grammar, the prelude, the catalogue of mistakes
and the sources; every example is run by the tests, and so is what stands beside it, for eight queries and keys unless
it says otherwise."""
