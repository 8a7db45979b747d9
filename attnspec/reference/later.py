"""What the codes mean of mistakes that show only on the way to a relation or a kernel."""

from __future__ import annotations

from attnspec.reference.mistake import Mistake

LATER = {
    "E401": Mistake(
        "`h` or `heads` is a factor, a divisor or an index: the sets of pairs differ by head, and the number of "
        "heads is not known.",
        "attend q * h <= k",
        "Say how many: `heads=` in Python, `--heads` on the command line.",
        "attend q * h <= k",
        "",
        "heads=4",
        "relation",
    ),
    "E402": Mistake(
        "A list that is indexed by `h` has no entry for some head of the call.",
        "attend (q - k) % [1, 2][h] == 0",
        "Give it one for each head.",
        "attend (q - k) % [1, 2, 4, 8][h] == 0",
        "heads=4",
        "heads=4",
        "relation",
    ),
    "E403": Mistake(
        "A line has no affine form and cannot be evaluated in tiles either: its numbers are too large.",
        "attend q < 3 ** (100 * h)",
        "Make one side a parameter, or keep the numbers small.",
        "attend q < 3 ** (10 * h)",
        "heads=2",
        "heads=2",
        "relation",
    ),
    "E404": Mistake(
        "The sets of pairs of lines together have too many pieces: divisors with a very large common multiple, or very "
        "many conditions. (What is too hard in a single line is decided pair by pair; `inspect --plan` says what that "
        "is.)",
        "within (q - k) % 7 != 1\nwithin (q - k) % 11 != 1\nwithin (q - k) % 13 != 1\nwithin (q - k) % 17 != 1\n"
        "within (q - k) % 19 != 1\nwithin (q - k) % 23 != 1\nwithin (q - k) % 29 != 1",
        "Use fewer or more closely related divisors, or a single line.",
        "within all i in [7, 11, 13, 17, 19, 23, 29]: (q - k) % i != 1",
        found="relation",
    ),
    "E405": Mistake(
        "Kernels compute positions in 64 bits and reals in float32, and a value of this pattern needs more.",
        "attend q * 2 ** 61 >= k * 2 ** 61",
        "Use smaller factors.",
        "attend q * 2 ** 10 >= k * 2 ** 10",
        found="kernel",
    ),
    "E406": Mistake(
        "A question about the pairs of a pattern that is decided by what its inputs hold.",
        "input top: int[n]\nattend k <= top[q]",
        "Ask for a cost or a mask with the inputs given (`--input`, or by keyword), or state it without inputs.",
        "attend k <= q",
        found="reach",
    ),
    "E407": Mistake(
        "A question that supposes one sequence (reach, what a cache keeps), asked of a pattern with axes.",
        "axis latent[8] queries   axis token[n] keys\nlatent -> token: true",
        "Ask it of the pattern of one axis.",
        "attend q < 8",
        found="reach",
    ),
    "E408": Mistake(
        "Triton kernels choose from a list by comparisons: positions may choose among at most 1,024 runs of equal "
        "entries.",
        "attention a(table = [0, 1, ...]) { score s + table[k % 1040] * 0.5 }",
        "Declare it as an input.",
        "input table: int[1040]\nscore s + table[k % 1040] * 0.5",
        found="triton",
    ),
    "E409": Mistake(
        "The target has no kernels for these lines about weights beyond softmax, or has them for whole calls only (not "
        "for parts, pages or sums of columns).",
        "attend causal\nlinear x",
        'Compile it with `target="dense"`: plain PyTorch over all pairs.',
        "attend causal",
        found="kernel",
    ),
    "E410": Mistake(
        "A correction (`delta`), or features that are kept small by a running maximum, want keys of the past only, and "
        "the pattern may look ahead.",
        "linear x\ndelta 1.0",
        "Restrict the pattern.",
        "within k <= q\nlinear x\ndelta 1.0",
        found="past",
    ),
    "E411": Mistake(
        "FlexAttention has one function of pairs, one of scores, and one softmax: `attnspec emit SPEC --stage flex` "
        "cannot export computed orders, mixtures, sinks, rotations, weights beyond softmax or segments.",
        "attend causal\nsink 0.5",
        "Export what it can compute, and do the rest around the call.",
        "attend causal",
        found="flex",
    ),
}
