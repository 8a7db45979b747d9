"""What each code means: for ``attnspec explain``."""

from __future__ import annotations

from attnspec.errors.catalogue import CODES
from attnspec.errors.clauses import MAX_BRANCHES
from attnspec.errors.syntax import MAX_NESTING, MAX_SOURCE
from attnspec.errors.values import MAX_COMBINATIONS, MAX_NODES, MAX_RANGE
from attnspec.reference.entry import fenced, wrap
from attnspec.reference.later import LATER
from attnspec.reference.mistake import Mistake


def explain(code: str) -> str:
    """A mistake in words, as Markdown."""
    mistake = MISTAKES[code]
    found = {
        "": "",
        "relation": " It is found when sets of pairs are computed: by `inspect`, `compile` and the like.",
        "kernel": " It is found when a kernel is written.",
        "triton": " It is found when a Triton kernel is written.",
        "past": " It is found at the first call.",
        "flex": " It is found by this command.",
        "reach": " It is found by what asks such questions: `inspect --stack`, `diff` and the like.",
    }[mistake.found]
    parts = [
        f"### {code}: {CODES[code]}",
        wrap(mistake.means + found),
        _text(mistake.wrong, mistake.wrong_given),
        wrap(mistake.mend),
        _text(mistake.right, mistake.right_given),
    ]
    return "\n\n".join(parts)


def _text(text: str, given: str) -> str:
    return fenced(f"{text}\n# with {given}" if given else text)


MISTAKES = {
    "E001": Mistake(
        "A word, name or sign that cannot stand where it stands. What could is said under it.",
        "attend q <= k window(4)",
        "Often a word between two things is missing: `and` where both must hold, a second `attend` where either may.",
        "attend q <= k and window(4)",
    ),
    "E002": Mistake(
        "A bracket or brace is open at the end of what it belongs to, or is closed and was never open.",
        "attend (q - k < 4",
        "Add the other one.",
        "attend (q - k) < 4",
    ),
    "E003": Mistake(
        "A character that no word, number or sign of the language begins with.",
        "attend q ≤ k",
        "Write it in words and signs: `<=` `>=` `!=` `and` `or` `not` `in` `**`.",
        "attend q <= k",
    ),
    "E004": Mistake(
        "A string has no closing quotes on its line; three quotes may hold several lines.",
        'attention a { "a window\n    attend window(4) }',
        "Close it.",
        'attention a { "a window"\n    attend window(4) }',
    ),
    "E006": Mistake(
        f"A text has a limit of {MAX_SOURCE:,} characters.",
        "attention a { attend causal }\n# ...",
        "Lists that long are inputs: `input table: int[...]`.",
        "attention a { attend causal }",
    ),
    "E007": Mistake(
        f"Expressions or groups stand too deep inside each other: as written (up to {MAX_NESTING} levels), or once "
        "patterns and names are written out.",
        "attend " + "(" * 61 + "q < k" + ")" * 61,
        "Name a part of it with `let` or `pattern`.",
        "let before = q < k\nattend before",
    ),
    "E008": Mistake(
        "Integers, written or computed, are kept within 2 ** 62.",
        "attend q < 2 ** 70",
        "Where it stands for no limit, leave the comparison out.",
        "attend q < 2 ** 60",
    ),
    "E009": Mistake(
        "Bars directly inside bars: a reader cannot tell which opens and which closes.",
        "attend ||q - k| - 4| <= 1",
        "Bracket the inner ones.",
        "attend |(|q - k|) - 4| <= 1",
    ),
    "E010": Mistake(
        "A string documents the `pattern` or `attention` that it stands before, or the body that it opens. This one "
        "stands before nothing.",
        'attention a { attend causal }\n"causal"',
        "Move it, or make it a comment: `# causal`.",
        '"causal"\nattention a { attend causal }',
    ),
    "E011": Mistake(
        "A name that is no variable, parameter, `let`, input, pattern or function. (A name is known from its "
        "definition on; inputs too are declared above.)",
        "attend doc[q] == doc[k]",
        "Define it, or mend its spelling: `q` and `k` are the positions, `h` the head, `b` the batch entry, `n` the "
        "length.",
        "input doc: int[batch, n]\nattend doc[q] == doc[k]",
    ),
    "E012": Mistake(
        "The variables (`q k h b n n_q heads kv_heads batch`), `min max clamp len`, and the words of expressions "
        "cannot be defined anew. `s` cannot where a score line reads it.",
        "attention a(heads = 8) { attend q < heads }",
        "Choose another name.",
        "attention a(first_rows = 8) { attend q < first_rows }",
    ),
    "E013": Mistake(
        "One name has two definitions in one place, or a clause that stands once stands twice.",
        "let w = 4\nlet w = 8",
        "Rename or remove one.",
        "let w = 4\nlet wide = 8",
    ),
    "E014": Mistake(
        "Something is called like a function, and is none.",
        "attend q(1) < k",
        "An entry of a list or input is read with square brackets; a product is written with `*`.",
        "attend q * 1 < k",
    ),
    "E015": Mistake(
        "A call has too many or too few arguments, or names that the callee does not have.",
        "attend window(width = 4)",
        "`attnspec help patterns` lists the prelude's patterns with their parameters.",
        "attend window(w = 4)",
    ),
    "E016": Mistake(
        "A pattern or an attention needs itself to be written out. There is no recursion: a pattern must end in "
        "comparisons, and what an attention includes must not include it.",
        "pattern p = q < k and p at (q - 1, k)\nattention a { attend p }",
        "Say it with `any` or `all` over a range.",
        "pattern p = all i in 0..4: q - i < k\nattention a { attend p }",
    ),
    "E017": Mistake(
        "A file holds no attention, or several and none is named.",
        "attention a { attend causal }\nattention c { attend window(4) }",
        "Name one, as in `file.attn:a`, or give it a file of its own.",
        "attention a { attend causal }",
    ),
    "E018": Mistake(
        "A value is given for a parameter that the attention does not have.",
        "attention a(width = 4) { attend window(width) }",
        "`attnspec list NAME` shows the parameters of a shipped spec.",
        "attention a(width = 4) { attend window(width) }",
        "widht=8",
        "width=8",
    ),
    "E019": Mistake(
        "A parameter has no default and was given no value.",
        "attention a(width) { attend window(width) }",
        "Give it one, or a default in the text.",
        "attention a(width = 4) { attend window(width) }",
    ),
    "E020": Mistake(
        "The value given for a parameter is of another type than its default, or of none that the language has.",
        "attention a(rates = [1, 2]) { attend (q - k) % rates[0] == 0 }",
        "Parameters are numbers, booleans and lists of numbers. One whose default is an integer stays one: write "
        "`50.0`.",
        "attention a(rates = [1, 2]) { attend (q - k) % rates[0] == 0 }",
        "rates=2",
        "rates=[2]",
    ),
    "E021": Mistake(
        "An expression of one type stands where another is wanted: a number for a predicate, a real for an integer, "
        "...",
        "attend q - k",
        "Compare it; for whole numbers divide by `//`; bracket an `if` inside a larger expression.",
        "attend q - k < 4",
    ),
    "E022": Mistake(
        "Both sides of a comparison must be numbers, or both predicates (which have no order: only `==` and `!=`).",
        "attend (q < k) == 1",
        "A predicate is true or false, not 1 or 0.",
        "attend (q < k) == true",
    ),
    "E023": Mistake(
        "The right side of `//` and `%` is zero or negative, for some value of the names in it or some head.",
        "attend q // (4 - 4) == k",
        "Make it positive: `h + 1` for `h`.",
        "attend q // 4 == k",
    ),
    "E024": Mistake(
        "The right side of `//` and `%` must be known once the parameters and the head are: with a divisor that "
        "moves with the position or the length there is no closed form for the tiles.",
        "attend q // n == k // n",
        "Make it a parameter.",
        "attention a(stride = 64) { attend q // stride == k // stride }",
    ),
    "E026": Mistake(
        "A power of integers whose base or exponent moves with the position, or whose exponent is negative.",
        "attend k < 2 ** q",
        "Run over the exponent with `any` or `all`.",
        "attend any i in 0..20: q == i and k < 2 ** i",
    ),
    "E027": Mistake(
        "An index is known, and is outside the list or the input: for every position, or for some value of the "
        "names in it.",
        "attend [1, 2, 4][3] == q - k",
        "Entries are counted from 0.",
        "attend [1, 2, 4][2] == q - k",
    ),
    "E028": Mistake(
        "Ranges, entries of lists, options, seeds and counts of branches must be known once the parameters are.",
        "attend any i in 0..q: k == i",
        "Say it with comparisons, which may read positions.",
        "attend 0 <= k < q",
    ),
    "E029": Mistake(
        f"`any`, `all` and `sum` run over at most {MAX_RANGE:,} values, and over {MAX_COMBINATIONS:,} combinations "
        "where they stand inside each other.",
        "attend any i in 0..20000: q - k == i",
        "Say it with comparisons, or with membership.",
        "attend q - k in 0..20000",
    ),
    "E030": Mistake(
        f"Patterns are written out where they are used, into at most {MAX_NODES:,} parts.",
        f"let f(i) = i % 7 + i % 5\nattend {'f(' * 16}q{')' * 16} < k",
        "Each use doubles this one: use fewer, or say it with a range.",
        "let f(i) = i % 7 + i % 5\nattend f(f(q)) < k",
    ),
    "E031": Mistake(
        "A list holds numbers, or lists that are alike.",
        "let branches = [4, [8, 2]]\nattend causal",
        "Make all entries lists.",
        "let branches = [[4, 1], [8, 2]]\nattend causal",
    ),
    "E032": Mistake(
        "A clause that means nothing where it stands: `branch` outside of `mix { ... }`, `align` in a group of "
        "heads, a group that is not over `h`.",
        "for i in 0..4 { attend causal }",
        "Groups of heads are over `h`; anything else that repeats is `any`, `mix` or several clauses.",
        "for h in 0..4 { attend causal }",
    ),
    "E041": Mistake(
        "The declaration of an input does not fit: a size that is no size of the call, `sorted` for what is no "
        "`int`, `offsets` that do not end in `n`, ...",
        "input doc: float[batch, n] sorted\nattend doc[q] == doc[k]",
        "Sizes follow from `batch`, `heads`, `kv_heads`, `n`, `n_q` and parameters; what is `sorted`, `offsets` or "
        "`random` is `int`.",
        "input doc: int[batch, n] sorted\nattend doc[q] == doc[k]",
    ),
    "E042": Mistake(
        "An input is read with the wrong number of indices, or asked for what it does not have.",
        "input doc: int[batch, n]\nattend first(doc, q) == k",
        "`first` and `last` want a `sorted` or `offsets` input. The leading `b` and `h` of an index may be left "
        "out, nothing else.",
        "input doc: int[batch, n] sorted\nattend first(doc, q) == k",
    ),
    "E043": Mistake(
        "A real that is infinite or no number. A score may not remove pairs: so tiles can be skipped.",
        "score if k <= q then s else -inf",
        "Remove pairs with `within`.",
        "within k <= q",
    ),
    "E044": Mistake(
        "A score, sink, share, scale or rotation reads what it may not: a sink or a share the key, the rotation of "
        "queries the key, a score the slots of an order.",
        "sink 1.0 * k",
        "A sink is one number for each row of a head and batch entry.",
        "sink 1.0 * q",
    ),
    "E045": Mistake(
        "An option of `rope`, `xpos`, `yarn`, `lsh` or a function that does not exist, or a value that it cannot have.",
        "rotate rope(base = 10000)",
        "`attnspec help scores` lists the options.",
        "rotate rope(theta = 10000)",
    ),
    "E046": Mistake(
        f"A mixture that cannot be one: `attend` beside it, a second one, no branches or more than {MAX_BRANCHES}, "
        "entries that do not fit the names, a share for some branches only or beside `times` or `weights detached`.",
        "attend causal\nmix w in [4, 8] { attend window(w) }",
        "Move each `attend` into a branch; what holds for all is `within`.",
        "within causal\nmix w in [4, 8] { attend window(w) }",
    ),
    "E047": Mistake(
        "A mistake about axes: one that does not exist or has no keys, a size that may decrease as `n` grows, "
        "`attend` or `within` beside axes.",
        "axis token[n]\nattend causal",
        "Beside axes, lines between them say what is seen.",
        "axis token[n]\ntoken -> token: causal",
    ),
    "E048": Mistake(
        "A mistake about orders: slots without `order by`, or inside `at`; an order beside axes or a mixture.",
        "attend q.slot // 64 == k.slot // 64",
        "Declare the order.",
        "order by lsh(buckets = 64)\nattend q.slot // 64 == k.slot // 64",
    ),
    "E049": Mistake(
        "A line about weights has no meaning where it stands: `divide` without `linear`, `score` beside it, a decay "
        "that grows, a map of whole vectors outside of a `linear` line, ...",
        "linear x\nscore s - (q - k)",
        "What lessens weights with the distance is `decay`; `attnspec help weights` has all lines.",
        "linear x\ndecay -1.0",
    ),
    "E050": Mistake(
        "A line about segments means nothing: no such axis, sizes that differ, a recall without a store, ...",
        "axis read[2]   axis token[n]\ntoken -> read: true\nrecur token by 4\ncarry token -> read",
        "As many positions are carried as the target has; `attnspec help segments` has all lines.",
        "axis read[2]   axis token[n]\ntoken -> read: true\nrecur token by 4\ncarry token -> read last 2",
    ),
    **LATER,
}
