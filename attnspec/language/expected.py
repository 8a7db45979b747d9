"""Say what a parser expected, and what the user may have meant, in words."""

from __future__ import annotations

from attnspec.errors.catalogue import did_you_mean
from attnspec.errors.foreign import brought
from attnspec.language import words
from attnspec.language.scan import Token

_WORDS = ("THEN", "ELSE", "IN")
_SMALL = {
    "BY": ("by",),
    "KIND": ("int", "bool", "float"),
    "KEYS": ("keys",),
    "QUERIES": ("queries",),
    "SORTED": ("sorted",),
    "OFFSETS": ("offsets",),
    "RANDOM": ("random",),
    "MULTIPLE": ("times",),
    "SHARE": ("share",),
    "WEIGHTS": ("weights detached",),
    "EACH": ("each",),
    "RAGGED": ("ragged",),
    "LAST": ("last",),
    "LAYER": ("layer",),
    "FROM": ("from",),
    "DETACHED": ("detached",),
}
"""The words inside clauses, by the names that the grammar has for them."""

_SIGNS = ("=", ":", "..", ",", ")", "]", "|", "{", "}")


def describe(accepted: frozenset[str]) -> str:
    """What may stand at a place, from the tokens that the grammar accepts there.

    >>> describe(frozenset({"NAME", "INT", "(", "NOT"}))
    'an expression'
    >>> describe(frozenset({"COMPARE", "PLUS", ")", ","}))
    '`,`, `)` or an operator'
    """
    said: list[str] = []
    if {"NAME", "INT"} <= accepted:
        said.append("an expression")
    elif "NAME" in accepted:
        said.append("a name")
    in_expression = {"NAME", "INT"} <= accepted
    said += [f"`{word.lower()}`" for word in _WORDS if word in accepted and "COMPARE" not in accepted]
    said += [f"`{word}`" for word in _small(accepted)]
    said += [f"`{sign}`" for sign in _SIGNS if sign in accepted and not (in_expression and sign == "|")]
    if "(" in accepted and not in_expression and "+" not in accepted:
        said.insert(0, "`(`")
    if "[" in accepted and not in_expression and "+" not in accepted and "PLUS" not in accepted:
        said.insert(0, "`[`")
    if {"COMPARE", "+", "PLUS", "AND"} & accepted:
        said.append("an operator")
    if "ATTEND" in accepted:
        said.append("a clause (`attend`, `within`, `let`, ...)")
    if "ATTENTION" in accepted:
        said += ["`attention`", "`pattern`"]
    if "the end" in accepted and not said:
        said.append("nothing more")
    if not said:
        said = sorted(f"`{a.lower()}`" for a in accepted)
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} or {said[-1]}"


def hint(text: str, tokens: list[Token], i: int, accepted: frozenset[str]) -> str:
    """What the user may have meant by the unexpected token i, or nothing."""
    if i >= len(tokens):
        return ""
    token, before = tokens[i], tokens[i - 1] if i else None
    after_operand = "COMPARE" in accepted or "+" in accepted
    if sign := _sign(text, tokens, i, after_operand):
        return sign
    if token.text == "->":
        return "a line between axes is a clause of its own: `queries -> keys: ...`"
    if token.text == "weights" and "WEIGHTS" in accepted:
        return "write `weights detached`"
    if found := _of_weights(tokens, i):
        return found
    if token.text == "," and "IN" in accepted and i > 1 and tokens[i - 2].text == "mix":
        return "bracket the names: `mix (a, b) in ...`"
    if token.text == "," and "IN" in accepted and i > 2 and tokens[i - 3].text == "branch":
        return "bracket the names: `branch for (x, y) in ...`"
    if token.text == "," and "ATTEND" in accepted:
        return "join conditions by `and`, or write a line for each"
    if token.text == "(" and i > 1 and tokens[i - 2].text == ".":
        return brought(tokens[i - 1].text) or brought("torch")
    if token.text == "." or (before is not None and before.text == "."):
        return _point(tokens, i if token.text == "." else i - 1)
    if token.text == "(" and before is not None and before.text in {"any", "all", "sum"}:
        return f"it runs over a range or a list: `{before.text} i in 0..4: ...`"
    if token.text == "if" and "ATTEND" in accepted and not after_operand:
        return "conditions stand in lines: `attend a and b`, `for h in 0..4 { ... }`"
    if token.text == "if":
        return "bracket it: `(if ... then ... else ...)`"
    if token.text in {"any", "all"}:
        return f"bracket it: `({token.text} ... in ...: ...)`"
    if token.text in {"then", "else"}:
        return f"`{token.text}` belongs to `if c then a else b`; conditions are joined by `and` and `or`"
    if before is not None and before.kind == "number" and token.kind == "name" and token.start == before.end:
        return f"write `{before.text} * {token.text}`"
    if token.text in words.SYNTAX and "NAME" in accepted:
        return f"`{token.text}` is a word of the language"
    if token.text in words.CLAUSES and "ATTENTION" in accepted:
        return "clauses stand inside `attention name { ... }`"
    if token.text in words.HEADINGS and "ATTEND" in accepted:
        return f"`{token.text}` stands outside of attentions"
    if token.kind == "name" and "ATTEND" in accepted and i + 1 < len(tokens) and tokens[i + 1].text == ":":
        return "a line between axes names both: `queries -> keys: ...`"
    if token.kind == "name" and ("ATTEND" in accepted or _small(accepted)):
        return _misplaced(token, before, accepted, after_operand)
    if token.kind == "name" and "ATTENTION" in accepted:
        return (
            did_you_mean(token.text, words.HEADINGS) or "a file holds `attention name { ... }` and `pattern name = P`"
        )
    return ""


def _of_weights(tokens: list[Token], i: int) -> str:
    """What the user may have meant in a `linear` or `divide` line."""
    line = [token.text for token in tokens[max(0, i - 2) : i]]
    if "linear" in line and tokens[i].text == ":":
        return "a side is `q` or `k`, `linear q: x`; for both write `linear x`"
    if line[:1] == ["linear"] and line[1:] in (["q"], ["k"]) and tokens[i].kind == "name" and not tokens[i].first:
        return f"write `linear {line[1]}: ...`"
    return did_you_mean(line[1], ["each"]) if line[:1] == ["divide"] and len(line) == 2 else ""


_SIGNS_ELSEWHERE = {"===": "==", "!==": "!=", "<>": "!=", "=<": "<=", "=>": ">=", ":=": "=", "||": "or", "..=": ".."}
"""Signs of other languages, of which the first part is one here."""


def _sign(text: str, tokens: list[Token], i: int, after_operand: bool) -> str:
    """What the user may have meant by an unexpected sign."""
    token, before = tokens[i], tokens[i - 1] if i else None
    start = before.start if before is not None and before.kind == "sign" and before.end == token.start else token.start
    for sign, ours in _SIGNS_ELSEWHERE.items():
        if token.kind == "sign" and text.startswith(sign, start):
            return f"write `{ours}`"
    if token.text == "=" and before is not None and before.text in words.CLAUSES:
        return f"there is no `=` behind `{before.text}`"
    if token.text == "=" and after_operand:
        return "a comparison is written `==`"
    if token.text == "|":
        return "write `or`; bars are for the absolute value, `|q - k|`"
    return ""


def _misplaced(token: Token, before: Token | None, accepted: frozenset[str], after_operand: bool) -> str:
    """What the user may have meant by a name where a word or an operator is wanted."""
    clause = "ATTEND" in accepted
    if before is not None and before.text in ("lambda", "def", "return"):
        return brought(before.text)
    small, clauses = _small(accepted), words.CLAUSES if clause else ()
    for said in (did_you_mean(token.text, small), brought(token.text), did_you_mean(token.text, {*small, *clauses})):
        if said:
            return said
    if clause and token.first:
        return "a line begins with its word: `attend` adds pairs, `within` restricts them all"
    if clause and after_operand:
        return "join them: `and` where both must hold, a second `attend` line where either may"
    return ""


def _point(tokens: list[Token], i: int) -> str:
    """What to say of a point at which, or behind which, something is wrong."""
    point = tokens[i]
    before = i > 0 and tokens[i - 1].kind == "number" and tokens[i - 1].end == point.start
    after = i + 1 < len(tokens) and tokens[i + 1].kind == "number" and tokens[i + 1].start == point.end
    return "a real number has digits on both sides of its point: `0.5`" if before or after else ""


def _small(accepted: frozenset[str]) -> list[str]:
    """The words that may stand at a place inside a clause."""
    return [word for name, small in _SMALL.items() if name in accepted for word in small]
