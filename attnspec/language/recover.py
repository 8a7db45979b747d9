"""After a syntax error: say what is wrong in the user's terms, and cut out as little as possible to go on.

A clause that does not parse is blanked out (its characters become spaces, so that all places stay right) and the file
is parsed again. Where a clause begins is guessed from its first word, which is only ever needed in a wrong file.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from attnspec.errors.catalogue import nearest
from attnspec.errors.diagnostic import Diagnostic
from attnspec.errors.source import Source, Span
from attnspec.errors.syntax import MAX_NESTING, bad_character, too_deep, unclosed, unclosed_string, unexpected, unopened
from attnspec.language import words
from attnspec.language.expected import describe, hint
from attnspec.language.scan import Token, scan

_CLOSER = {"(": ")", "[": "]", "{": "}"}
_BEFORE_NAMES = (
    words.HEADINGS
    | {"let", "for", "align", "axis", "input", "normalize", "rotate", "recur", "carry", "recall", "from", "ragged"}
    | {"any", "all", "sum", "->"}
)
"""What stands before a name; before anything else that is unfinished, an expression is meant."""


@dataclass(frozen=True)
class SyntaxProblem:
    """Where the text stops making sense."""

    at: int
    diagnostic: Diagnostic
    repair: str = "clause"
    """What to do about it: blank the ``clause``, blank the ``token``, or ``close`` an open brace."""


class Outline:
    """The tokens of a text, and where its items and clauses seem to begin."""

    def __init__(self, text: str, source: Source) -> None:
        self.text = text
        self.source = source
        self.tokens = [token for token in scan(text) if token.kind != "comment"]
        self.offsets = [token.start for token in self.tokens]
        self.heading = self._headings()
        self.depths: list[int] = []
        self.starts: list[int] = []  # indices of tokens that begin an item (depth 0) or a clause
        depth = 0
        for i, token in enumerate(self.tokens):
            if self.heading[i]:
                depth = 0
            if token.text == "}":
                depth = max(0, depth - 1)
            self.depths.append(depth)
            if self.heading[i] or (depth == 0 and token.kind == "string") or (depth > 0 and self._clause(i)):
                self.starts.append(i)
            if token.text == "{":
                depth += 1
        self.starting = frozenset(self.starts)
        self.closing = self._closing()

    def span(self, token: Token) -> Span:
        """The place of a token in the original source."""
        end = len(self.source.text)  # a brace that was added stands behind it
        return Span(self.source, min(token.start, end), min(token.end, end))

    def bad_tokens(self, most: int) -> list[SyntaxProblem]:
        """Characters and strings that are no tokens of the language, and brackets too deep inside each other."""
        problems: list[SyntaxProblem] = []
        depth, end = 0, 0  # of brackets; of the part that a problem already found spoils
        for i, token in enumerate(self.tokens):
            if token.kind == "other":
                problem = SyntaxProblem(token.start, bad_character(self.span(token)))
            elif token.kind == "open":
                problem = SyntaxProblem(token.start, unclosed_string(self.span(token)), "token")
            else:
                depth = 0 if i in self.starting else depth + (token.text in ("(", "[")) - (token.text in (")", "]"))
                if depth <= MAX_NESTING:
                    continue
                problem = SyntaxProblem(token.start, too_deep(self.span(token)))
            if i >= end:
                problems.append(problem)
                end = self._region(i)[1] if problem.repair == "clause" else end
                if len(problems) >= most:
                    break
        return problems

    def explain(self, at: int, name_before: int | None, accepted: frozenset[str]) -> SyntaxProblem:
        """What is wrong at an offset where the parser stopped.

        ``name_before`` is where the token before it began, if that was taken for a name.
        """
        i = bisect_right(self.offsets, at) - 1
        if at >= len(self.text.rstrip()):
            i = len(self.tokens)
        arrow = 0 < i < len(self.tokens) and self.tokens[i].text == "->"
        if arrow:  # which the parser took for a minus at first
            name_before = self.offsets[i - 1]
        if name_before is not None and (arrow or "NAME" not in accepted):
            j = bisect_right(self.offsets, name_before) - 1
            if j in self.starting and self._unfinished(j - 1):
                # The parser took the first word of the next clause for a name in an unfinished expression.
                named = self.tokens[j - 1].text in _BEFORE_NAMES
                i, accepted = j, frozenset({"NAME"} if named else {"NAME", "INT", "("})
        token = self.tokens[i] if i < len(self.tokens) else None
        if token is None:
            end = self.span(self.tokens[-1]).end if self.tokens else 0
            span, found = Span(self.source, end, end), "the end of the file"
        else:
            span, found = self.span(token), token.text
            if found == "}" and span.text != "}":  # one that was added
                found = (
                    "the end of the file"
                    if not self.source.text[span.start :].strip()
                    else "the beginning of the next definition"
                )
        opened = self._open_bracket(i)
        if opened is not None and self._ends(opened, i):
            closer = _CLOSER[opened.text]
            diagnostic = unclosed(self.span(opened), span, closer)
            return SyntaxProblem(*((span.start, diagnostic, "close") if closer == "}" else (opened.start, diagnostic)))
        closes_nothing = opened is None or (opened.text == "{" and found in (")", "]"))
        if token is not None and found in _CLOSER.values() and closes_nothing:
            return SyntaxProblem(token.start, unopened(span), "token" if found == "}" else "clause")
        diagnostic = unexpected(span, found, describe(accepted), hint(self.text, self.tokens, i, accepted))
        previous_is_at_fault = i in self.starting and "ATTEND" not in accepted and "ATTENTION" not in accepted
        return SyntaxProblem(span.start - 1 if previous_is_at_fault else span.start, diagnostic)

    def _ends(self, opened: Token, i: int) -> bool:
        """Whether the token at i shows that a bracket was left open."""
        if i >= len(self.tokens):
            return True
        if opened.text == "{":
            return self.heading[i]
        text = self.tokens[i].text
        return i in self.starting or (text in _CLOSER.values() and text != _CLOSER[opened.text])

    def blank(self, problems: list[SyntaxProblem]) -> tuple[str, set[str], bool]:
        """The text without the offending parts, the names they may have defined, and whether a whole item is gone."""
        names: set[str] = set()
        gone = False
        chars = list(self.text)
        for problem in problems:
            if problem.repair == "close" and self._close(problem.at, chars):
                continue
            i = max(0, bisect_right(self.offsets, problem.at) - 1)
            first, last, whole = (i, self._same(i), False) if problem.repair == "token" else self._region(i)
            cut = set(range(first, last))
            if not whole:
                cut |= {self._matching(j) for j in cut if self.tokens[j].text == "{"}
                cut = cut - self._shell(first, last) or cut
                if self._looks_like_branch(first, last):
                    cut |= set(range(first, self._matching(last - 1) + 1))
            for j in cut:
                token = self.tokens[j]
                chars[token.start : token.end] = ["\n" if c == "\n" else " " for c in token.text]
            names |= self._defined(first, last)
            gone = gone or whole
        return "".join(chars), names, gone

    def _close(self, at: int, chars: list[str]) -> bool:
        """Put a closing brace before an offset, if there is a space for it."""
        end = len(self.text.rstrip())
        if at >= min(end, len(self.source.text.rstrip())):  # the text grows by the braces that are put behind it
            chars[end:] = ["}"]
        elif at > 0 and chars[at - 1].isspace():
            chars[at - 1] = "}"
        else:
            return False
        return True

    def _same(self, i: int) -> int:
        """The end of a run of tokens like the one at i: twenty surplus braces are one mistake."""
        j = i
        while j < len(self.tokens) and self.tokens[j].text == self.tokens[i].text:
            j += 1
        return j

    def _region(self, i: int) -> tuple[int, int, bool]:
        """The tokens from the beginning of the clause or item around token i up to its end."""
        place = bisect_right(self.starts, i) - 1
        if place < 0:
            return 0, self.starts[0] if self.starts else len(self.tokens), False
        first = self.starts[place]
        after = next((s for s in self.starts[place + 1 :] if s > i), len(self.tokens))
        ended = any(self.tokens[j].text == "}" and self.depths[j] == 0 for j in range(first, i))
        if self.depths[i] == 0 and ended:  # behind the end of an item
            return i, after, False
        if self.depths[first] == 0 and self.depths[i] == 0:  # in a heading, a pattern or a string
            if self.tokens[first].kind == "string":
                return i, after, False
            ends = (s for s in self.starts[place + 1 :] if self.depths[s] == 0 and s > i)
            return first, next(ends, len(self.tokens)), True
        if self.depths[first] < self.depths[i] and self.depths[first] == 0:
            first = i  # in a body, before its first clause
        floor = self.depths[first]
        closing = (j for j in range(max(i, first), after) if self.tokens[j].text == "}" and self.depths[j] < floor)
        return first, max(next(closing, after), first + 1), False

    def _matching(self, i: int) -> int:
        """The closing brace of the brace at i, or i itself when there is none."""
        return self.closing.get(i, i)

    def _shell(self, first: int, last: int) -> set[int]:
        """What is kept of the bad heading of a branch or of a mixture of branches: what is inside needs it."""
        brace, word = last - 1, self.tokens[first].text
        if first not in self.starting or self.tokens[brace].text != "{" or word not in ("branch", "mix"):
            return set()
        end = self._matching(brace)
        inside = self.starts[bisect_right(self.starts, brace) : bisect_right(self.starts, end)]
        branches = (self.tokens[s].text == "branch" and self.depths[s] == self.depths[brace] + 1 for s in inside)
        return {first, brace, end} if word == "branch" or any(branches) else set()

    def _looks_like_branch(self, first: int, last: int) -> bool:
        """Whether a heading is a misspelt `branch`, so that its clauses have no place without it."""
        return self.tokens[last - 1].text == "{" and nearest(self.tokens[first].text, words.CLAUSES) == "branch"

    def _defined(self, first: int, last: int) -> set[str]:
        names: set[str] = set()
        cut = self.tokens[first:last]
        for word, name in pairwise(cut):
            if word.text in {"let", "pattern", "input", "axis"} and name.kind == "name":
                names.add(name.text)
        if cut and cut[0].text == "recur":  # without which other lines have no meaning
            names.add("recur")
        if cut and cut[0].text in ("mix", "branch"):
            names |= {token.text for token in cut if token.kind == "name"}
        return names

    def _headings(self) -> list[bool]:
        """For each token, whether an item, or a string that documents one, begins there."""
        flags = [False] * (len(self.tokens) + 1)
        for i in range(len(self.tokens) - 1, -1, -1):
            token, name = self.tokens[i], self.tokens[i + 1] if i + 1 < len(self.tokens) else None
            if token.kind == "string":
                flags[i] = flags[i + 1]
            elif token.text in words.HEADINGS and name is not None and (name.kind == "name" or name.text in "({="):
                flags[i] = token.first or not self._unfinished(i - 1)
        return flags

    def _closing(self) -> dict[int, int]:
        """For each opening brace that is closed, by which: one walk backwards, as a text may be all braces."""
        found: dict[int, int] = {}
        next_at_depth: dict[int, int] = {}
        for i in range(len(self.tokens) - 1, -1, -1):
            if self.tokens[i].text == "}":
                next_at_depth[self.depths[i]] = i
            elif self.tokens[i].text == "{" and self.depths[i] in next_at_depth:
                found[i] = next_at_depth[self.depths[i]]
        return found

    def _clause(self, i: int) -> bool:
        token = self.tokens[i]
        if token.kind != "name" or not (token.first or not self._unfinished(i - 1)):
            return False
        # Two operands never stand side by side, so a name after one begins something new, if only a misspelt clause.
        begins = (token.first and self.tokens[i - 1].text != "|") or self.tokens[i - 1].text in ("{", "}")
        misspelt = begins and token.text not in words.SYNTAX
        return token.text in words.CLAUSES or self._is_arrow(i) or (misspelt and not self._unfinished(i - 1))

    def _is_arrow(self, i: int) -> bool:
        """Whether the name at i begins a line between axes."""
        return i + 1 < len(self.tokens) and self.tokens[i + 1].text == "->" and self.tokens[i].text not in words.SYNTAX

    def _unfinished(self, i: int) -> bool:
        """Whether the token at i wants something after it, so that no clause can begin there."""
        if i < 0:
            return False
        token = self.tokens[i]
        if token.kind == "name":
            return token.text in (words.SYNTAX - {"true", "false"}) | words.CLAUSES | words.HEADINGS
        return token.kind == "sign" and token.text not in {")", "]", "}", "{", "|"}

    def _open_bracket(self, i: int) -> Token | None:
        """The innermost bracket that is open before token i."""
        stack: list[Token] = []
        begin = 0
        for s in self.starts:
            if s < i and self.depths[s] == 0:
                begin = s
        for token in self.tokens[begin:i]:
            if token.text in _CLOSER:
                stack.append(token)
            elif token.text in _CLOSER.values() and stack and _CLOSER[stack[-1].text] == token.text:
                stack.pop()
        return stack[-1] if stack else None
