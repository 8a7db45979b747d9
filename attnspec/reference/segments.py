"""How segments of a sequence follow one another."""

from __future__ import annotations

from attnspec.reference.entry import Entry, Section

SECTION = Section(
    "segments",
    "Segments",
    "A pattern with axes may be that of one segment of a sequence: four lines say how the next one follows. "
    "`attnspec.recurrent` runs a model so, segment by segment; `attnspec.compile` computes the attention of one of "
    "them, with all positions of its axes; `attnspec inspect` says what the whole sequence costs, what is kept "
    "between segments and how far information reaches. An axis to which nothing is carried has learned vectors.",
    (
        Entry(
            "recur AXIS by x",
            "The sequence on an axis of `n` positions comes in segments of `x`. All other axes have a fixed size. "
            "Alone, segments know nothing of each other.",
            "axis token[n]\ntoken -> token: causal\nrecur token by 4",
        ),
        Entry(
            "recur AXIS by x ragged first",
            "Where the segment stands that is shorter, if the length is no multiple: `last`, or `first`.",
            "axis token[n]\ntoken -> token: true\nrecur token by 4 ragged first",
        ),
        Entry(
            "carry A -> B, C",
            "What the model gives at `A` (its last hidden states, after the final norm) are the vectors at `B` and `C` "
            "in the next segment; `A` may be one of them. Before the first segment a learned parameter named after `A` "
            "stands there. Of the recurring axis its input vectors are carried; before the first segment there are "
            "none, and the axis is shorter.",
            "axis read[2]   axis token[n]   axis written[2]\ntoken -> read: true   token -> token: causal   "
            "written -> token: true\nrecur token by 4   carry written -> read, written",
        ),
        Entry(
            "carry A -> B last x",
            "As many positions are kept: the last ones, of several segments if one has fewer. Without it, those of one "
            "segment. Of a parameter before the first segment a line has as many of the last rows.",
            "axis before[2]   axis token[n]\ntoken -> before: true   token -> token: causal\n"
            "recur token by 4   carry token -> before last 2",
        ),
        Entry(
            "carry A -> B last x by layer detached",
            "In each layer, what it makes keys and values of at `A` becomes keys at `B`, an axis of `keys`; before the "
            "first segment there are none. No gradient flows through what is `detached`.",
            "axis memory[6] keys   axis token[n]\ntoken -> memory: true   token -> token: causal\n"
            "recur token by 4   carry token -> memory last 6 by layer detached",
        ),
        Entry(
            "recall A, B from M by summary(part = x, dim = x)",
            "A segment asks a store `M`, which is no axis but what `carry ... -> M last x` keeps: a learned prompt and "
            "the first tokens, `part` of a whole segment's, go through the model, and the last state attends to the "
            "stored vectors. The answer stands at `A` and `B`. While the store is empty, a learned parameter does. "
            "Tokens that are read so are known before they are predicted: "
            "`foreseen` of `attnspec.recurrent` says which.",
            "axis read[1]  axis token[n]  token -> read: true  token -> token: causal\nrecur token by 4   "
            "carry read -> store last 300\nrecall read from store by summary(part = 1 / 2, dim = 128)",
        ),
        Entry(
            "horizon x",
            "What is carried is detached at every boundary that is a multiple of `x` segments: gradients stay within "
            "so many. Without it they flow through all segments.",
            "axis slot[2]   axis token[n]   token -> slot: true   token -> token: causal\nslot -> token: true\n"
            "recur token by 4   carry slot -> slot   horizon 4",
        ),
    ),
)
