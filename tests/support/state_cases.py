"""Patterns whose sequences go on from states, and where they can be cut."""

from __future__ import annotations

from tests.support.states import DIM, Case, N

CASES = {
    "linear": Case("linear"),
    "latte": Case("latte"),
    "tost": Case("tost"),
    "retention": Case("retention"),
    "mamba2": Case("mamba2", inputs={"log_a": ()}),
    "gla": Case("gla", inputs={"gate": (DIM,)}),
    "delta": Case("delta", inputs={"beta": ()}),
    "gated_delta": Case("gated_delta", inputs={"beta": (), "gate": ()}),
    "linear_documents": Case("linear_documents", documents=True),
    "strict": Case("attention a { attend k < q  linear relu(x)  divide total  scale 0.3 }"),
    "infini": Case("attention a { attend k // 6 < q // 6  linear elu(x) + 1  divide total  delta 1.0 }", 6),
    "chunks": Case("attention a { attend causal and k // 4 >= q // 4 - 1  linear sigmoid(x)  divide total + mass }", 4),
    "segments": Case("attention a { attend causal and k // 5 == q // 5  linear x }", 5),
    "blocks": Case("attention a { attend k // 5 <= q // 5  linear exp(x)  divide max(total, 2.0) }", 5),
    "neighbour": Case("attention a { attend 0 <= q - k < 2  linear exp(x)  divide total }"),
    "favor": Case("attention a { attend causal  linear favor(x, features = 9, stable = none)  divide total }"),
    "by head": Case("attention a { attend causal  linear [x * (h + 1), softmax(x)]  rotate rope(theta = 30.0) }"),
    "each and gates": Case(
        "attention a { input g: float[batch, heads, n]  attend causal  linear exp(x)  decay g[b, h, t]"
        "  divide each total + 1.0 }",
        inputs={"g": ()},
    ),
    "exponentials by head": Case(
        "attention a { attend k < q  linear q: [x, x]  linear k: [exp(x * (h + 1)), exp(-x)]  divide each total"
        "  scale 0.3  rotate rope() }"
    ),
    "exponentials in chunks": Case(
        "attention a { attend causal and k // 4 >= q // 4 - 1  linear q: sigmoid(x)  linear k: exp(x)"
        "  divide each total + 0.5 }",
        4,
    ),
    "exponentials in documents": Case(
        "attention a { input doc: int[batch, n] sorted  attend causal and doc[q] == doc[k]  linear q: x"
        "  linear k: exp(x)  divide each total }",
        documents=True,
    ),
    "exponentials packed": Case(
        "attention a { input cu: int[n] offsets  attend causal and cu[q] == cu[k]  linear q: x  linear k: exp(x)"
        "  divide each total }",
        offsets=(0, 7, 30, 45),
    ),
    "running": Case(
        "attention a { attend causal  linear favor(x, features = 9, stable = running, eps = 0.1)  divide total }"
    ),
    "running, decaying": Case(
        "attention a { attend k < q  linear favor(x, features = 9, stable = running, through_max = true)"
        "  divide total + 0.1 * mass  decay -0.1 }"
    ),
    "numbers of heads": Case(
        "attention a { attend causal  linear softmax(x)  divide total + 1.0 / kv_heads  delta 1.0 / heads }"
    ),
    "each and delta": Case("attention a { attend causal  linear softmax(x)  divide each max(total, 2.0)  delta 0.5 }"),
    "heads apart": Case("attention a { attend causal and (h % 2 == 0 or k == q)  linear exp(x)  divide total }"),
    "blocks by head": Case(
        "attention a { attend k // (2 + h % 2) < q // (2 + h % 2)  linear relu(x)  decay -0.1 * (h + 1) }", 6
    ),
    "all lines": Case(
        """attention a {
            input g: float[batch, heads, n]
            input beta: float[batch, heads, n]
            input doc: int[batch, n] sorted
            attend causal and doc[q] == doc[k]
            rotate rope()  scale 0.7
            linear softmax(x)  decay g[b, h, t] - 0.1  delta beta[b, h, k]  divide total + 0.5 * mass
        }""",
        inputs={"g": (), "beta": ()},
        documents=True,
    ),
}

PACKED = {
    "causal": Case(
        "attention a { input cu: int[n] offsets  attend causal and cu[q] == cu[k]  linear elu(x) + 1  divide total }",
        offsets=(0, 4, 4, 5, 30, N),
    ),
    "gates": Case(
        """attention a {
            input cu: int[batch, n] offsets  input g: float[batch, heads, n]
            attend causal and cu[b, q] == cu[b, k] and (h > 1 or q - k < 2)
            linear exp(x)  decay g[b, h, t]  divide total + mass
        }""",
        inputs={"g": ()},
        offsets=((0, 0, 9, 13, N), (0, 21, 22, N, N)),
    ),
    "channels": Case(
        """attention a {
            input cu: int[n] offsets  input g: float[batch, heads, n, dim]
            attend k < q and cu[q] == cu[k]  linear x  decay g[b, h, t, c]
        }""",
        inputs={"g": (DIM,)},
        offsets=(0, 9, 18, 27, 36, N),
    ),
    "each": Case(
        "attention a { input cu: int[n] offsets  attend causal and cu[q] == cu[k]  linear exp(x)  divide each total }",
        offsets=(0, 7, 8, 30, N),
    ),
    "delta": Case(
        """attention a {
            input cu: int[batch, n] offsets  input beta: float[batch, heads, n]  input g: float[batch, heads, n]
            attend causal and cu[b, q] == cu[b, k]
            linear softmax(x)  decay g[b, h, t]  delta beta[b, h, k]  divide total + 0.5
        }""",
        inputs={"beta": (), "g": ()},
        offsets=((0, 3, 9, 13, N), (0, 21, 22, 22, N)),
    ),
}
