"""Patterns that every target is tried on: masks, mixtures, and layouts that are forced upon the planner."""

from __future__ import annotations

PATTERNS = {
    "dense": "attention dense { }",
    "causal": "attention causal_ { attend causal }",
    "window": "attention near { attend window(50) }",
    "both": "attention both { attend |q - k| <= 20  attend q < 3  attend k < 3 }",
    "empty rows": "attention gaps { attend k <= q and q % 3 == 1 and k >= 5 }",
    "nothing": "attention nothing { attend false }",
    "scattered": "attention scattered { attend (q * 7 + k * 5) % 11 < 3 }",
    "per head": "attention heads_(rates = [1, 2, 3, 5]) { attend causal and (q - k) % rates[h] == 0 }",
    "affine head": "attention slopes { attend 0 <= q - k <= 10 * h }",
    "start": "attention start { align start attend k <= q }",
    "tail": "attention tail { attend k >= n - 7  attend q == k }",
}

LONGNET = """
attention longnet(branches = [(16, 1), (32, 2), (64, 4)]) {
    mix (w, r) in branches%s {
        let taken(i) = i %% w %% r == h %% r
        attend causal and segment(w) and taken(q) and taken(k)
    }
}
"""
MIXTURES = {
    "longnet": LONGNET % "",
    "longnet detached": LONGNET % " weights detached",
    "tuples": "attention a { mix (w, r) in [(40, 1), (20, 3)] { attend dilated(w, r) } }",
    "branches": """
        attention a {
            within causal
            mix {
                branch { attend window(20)  attend strided(8) }
                branch times 3 { attend k < 5 }
                branch times 2 { attend q >= 100 and q < 110 and k >= 90 }
            }
        }""",
    "overlapping, detached": """
        attention a {
            mix weights detached {
                branch { attend window(20)  attend strided(8) }
                branch times 2 { attend |q - k| <= 10 }
                branch { attend q >= 30 and q < 40 and k < 3 }
                within causal
            }
        }""",
    "one branch, detached": "attention a { mix weights detached { branch times 2 { attend window(20) } } }",
    "passes that differ by head": """
        attention a(rates = [1, 2, 4, 3]) {
            mix {
                branch { attend (q - k) % rates[h] == 0 and h != 2  attend window(12) }
                branch times 3 { attend 0 <= q - k < 30 }
            }
        }""",
}

GRIDS = "grid(width 16, queries 8 x 16, keys 8 x 8)"
# The clauses, the number of the way to force, and the layouts of its passes.
LAYOUTS: dict[str, tuple[str, int, list[str]]] = {
    "dilated": ("attend dilated(12, 3)", 1, ["residue(3)"]),
    "local, then strided": ("attend window(16)  attend strided(16)  within causal", 1, ["identity", "residue(16)"]),
    "strided, then local": ("attend window(16)  attend strided(16)  within causal", 2, ["residue(16)", "identity"]),
    "columns last": ("attend segment(32)  attend k % 32 >= 24  within causal", 5, ["identity", "columns"]),
    "columns first": ("attend segment(32)  attend k % 32 >= 24  within causal", 6, ["columns", "identity"]),
    "neighborhood": ("attend neighborhood(16, 2, 3)", 4, [GRIDS]),
    "13 x 13": ("attend neighborhood(24, 6, 6)", 2, ["grid(width 24, queries 4 x 8, keys 2 x 8)"]),
    "windows": ("attend q // 40 == k // 40 and q % 10 // 5 == k % 10 // 5", 1, ["grid(width 10, queries 4 x 5"]),
    "windows, shifted": (
        "attend (q // 11 - 1) // 3 == (k // 11 - 1) // 3 and (q % 11 - 1) // 3 == (k % 11 - 1) // 3  within causal",
        1,
        ["grid(width 11, queries 3 x 3, keys 3 x 3, begun 2 rows and 2 columns outside)"],
    ),
    "axial, split": ("attend axial(16)", 6, ["residue(16)", "identity"]),
    "gaps": ("attend q // 24 == k // 24 and q % 3 == h % 3 and k % 3 == h % 3 and k <= q", 1, ["residue(3)"]),
    "comb": ("attend k <= q and q // 20 == k // 20 and q % 20 % 3 == h % 3 and k % 20 % 3 == h % 3", 1, ["comb"]),
    "dilations": ("attend 0 <= q - k <= 10 * rates[h] and (q - k) % rates[h] == 0", -1, ["identity", "residue(2)"]),
    "all layouts": (
        "for h in 0..1 { attend 0 <= q - k < 30 and (q - k) % rates[h] == 0 }  "
        "for h in 1..2 { attend segment(32)  attend k % 32 >= 24 }  "
        "for h in 2..3 { attend axial(16) }  "
        "for h in 3..4 { attend neighborhood(16, 2, 3) }",
        -1,
        ["identity", "columns", "identity", "residue(16)", "identity", GRIDS],
    ),
}

OWN_LINES = {
    "a score and a rotation": """
        attention a {
            input gate: float[heads]
            score s * 0.5
            mix {
                branch times 3 { attend causal  score s + gate[h] * (k - q) / 8  rotate rope(dims = 8) }
                branch { attend |q - k| < 9  normalize k  scale 0.7 }
            }
            rotate rope(start = 8) at (q // 4, k // 4)
            sink gate[h]
        }
    """,
    "detached": """
        attention a {
            input gate: float[heads]
            mix weights detached {
                branch { attend causal and k // 16 < q // 16  score softcap(s, 5.0) }
                branch times 2 { attend |q - k| < 9  normalize q  score s + gate[h] }
            }
            sink gate[h] + 1.0
        }
    """,
    "shares": """
        attention a(cap = 5.0) {
            input gate: float[heads]
            input far: float[batch, heads, n_q]
            input bias: float[heads]
            mix {
                branch share 1.0 - gate[h] + far[b, h, q] {
                    attend causal
                    score softcap(s + bias[h] * (q - k) / 8, cap)
                }
                branch share if q < 16 then 0.0 else gate[h] / cap { attend k // 16 < q // 16  scale 0.7 }
                branch for i in 1..2 share 0.25 * (i + 1) { attend q > 1000 or (k + q) % 3 == i }
            }
            sink bias[h]
        }
    """,
}
"""Mixtures whose branches have lines of their own, or shares."""
