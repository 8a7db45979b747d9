"""Trees as short text, and a clause of each kind with its tree."""

from __future__ import annotations

from attnspec.language import tree as t


def shape(node: object) -> str:
    """A tree without its places: ``Arithmetic(q, ((/, 2)))``."""
    match node:
        case None | bool():
            return str(node)
        case str():
            return node
        case tuple():
            return f"({', '.join(map(shape, node))})"
        case t.Name(_, name):
            return name
        case t.Number() | t.Decimal() | t.Doc():
            return f"{type(node).__name__[0].lower()}{node.span.text}"
    fields = [f for f in node.__dataclass_fields__ if f not in ("span", "heading")]  # type: ignore[attr-defined]
    return f"{type(node).__name__}({', '.join(shape(getattr(node, f)) for f in fields)})"


# Clauses, and their trees.
SHAPES = {
    "mix (w, r) in [(8, 1), (4, 2)] weights detached { attend w }": (
        "Mix((w, r), ListOf((TupleOf((n8, n1)), TupleOf((n4, n2)))), True, None, (Attend(w)))"
    ),
    'mix r in 0..4 { "of it" within r attend k }': 'Mix((r), Range(n0, n4), False, d"of it", (Within(r), Attend(k)))',
    "mix (r,) in xs { }": "Mix((r), xs, False, None, ())",
    'mix { let x = 1 branch { attend x } branch times 2 + x { "d" } within q }': (
        "Mix((), None, False, None, (Let(x, None, n1), Branch((), None, None, None, None, (Attend(x))), "
        'Branch((), None, Arithmetic(n2, ((+, x))), None, d"d", ()), Within(q)))'
    ),
    "mix weights detached { branch { } }": "Mix((), None, True, None, (Branch((), None, None, None, None, ())))",
    "mix { branch share g[h] { } branch share 1 - share { scale 2.0 } }": (
        "Mix((), None, False, None, (Branch((), None, None, Item(g, h, ()), None, ()), "
        "Branch((), None, None, Arithmetic(n1, ((-, share))), None, (Scale(d2.0)))))"
    ),
    "mix { branch for i in 0..2 times i share i { rotate rope() } }": (
        "Mix((), None, False, None, (Branch((i), Range(n0, n2), i, i, None, (Rotate(Call(rope, ()))))))"
    ),
    "mix weights in weights weights # so\ndetached { }": "Mix((weights), weights, True, None, ())",
    "axis token[n]": "Axis(token, n, None)",
    "axis pooled[n // 4] keys": "Axis(pooled, Arithmetic(n, ((//, n4))), keys)",
    "axis latent[8] queries": "Axis(latent, n8, queries)",
    "token -> keys: causal or q == k": "Arrow(token, keys, Or((causal, Compare(q, ((==, k))))))",
    "input doc: int[batch, n] sorted": "Input(doc, int, (batch, n), sorted)",
    "input cu: int[n] offsets": "Input(cu, int, (n), offsets)",
    "input length: int": "Input(length, int, (), None)",
    "input keep: bool[heads, n // 64]": "Input(keep, bool, (heads, Arithmetic(n, ((//, n64)))), None)",
    "input slope: float[heads]": "Input(slope, float, (heads), None)",
    "input blocks: int[heads, 3] random(0..n // 64, 7)": (
        "Input(blocks, int, (heads, n3), Random(Range(n0, Arithmetic(n, ((//, n64)))), n7))"
    ),
    "recur token by 2 * s": "Recur(token, Arithmetic(n2, ((*, s))), None)",
    "recur recur by by ragged ragged": "Recur(recur, by, ragged)",
    "carry written -> read, written": "Carry(written, (read, written), None, False, False)",
    "carry last -> last last last by layer detached": "Carry(last, (last), last, True, True)",
    "carry a -> detached by layer": "Carry(a, (detached), None, True, False)",
    "carry layer # it\n-> by last -x detached": "Carry(layer, (by), Negative(x), False, True)",
    "recall a, from from from by summary(part = 1 / 2)": (
        "Recall((a, from), from, Call(summary, (Argument(part, Arithmetic(n1, ((/, n2)))))))"
    ),
    "horizon horizon + 1": "Horizon(Arithmetic(horizon, ((+, n1))))",
    "order by lsh(buckets = 64, rounds = 4)": "Order(Call(lsh, (Argument(buckets, n64), Argument(rounds, n4))))",
    "score softcap(s, 50.0)": "Score(Call(softcap, (Argument(None, s), Argument(None, d50.0))))",
    "score if q == k then -1e5 else s / 2 * 3": (
        "Score(If(Compare(q, ((==, k))), Negative(d1e5), Arithmetic(s, ((/, n2), (*, n3)))))"
    ),
    "rotate rope(theta = 10000)": "Rotate(Call(rope, (Argument(theta, n10000))))",
    "rotate rope() at (q, k)": "Rotate(At(Call(rope, ()), q, k))",
    "sink logit[h]": "Sink(Item(logit, h, ()))",
    "scale 1.0 / 8": "Scale(Arithmetic(d1.0, ((/, n8))))",
    "normalize k": "Normalize(k)",
    "attend keep[b, h, q, k]": "Attend(Item(keep, b, (h, q, k)))",
    "attend k in top[b, q]": "Attend(Member(k, Item(top, b, (q)), False))",
    "attend q.slot < k.bucket": "Attend(Compare(Field(q, slot), ((<, Field(k, bucket)))))",
    "attend (1, 2)": "Attend(TupleOf((n1, n2)))",
}
