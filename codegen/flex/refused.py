"""What of a pattern FlexAttention has no place for: one function of pairs, one of scores, and one softmax."""

from __future__ import annotations

from attnspec.errors.diagnostic import SpecError
from attnspec.errors.relations import not_exported
from attnspec.spec.spec import Spec


def require_exportable(spec: Spec) -> None:
    """Raise SpecError for a pattern that is no mask and score of one softmax."""
    if found := _refused(spec):
        what, label, help = found
        raise SpecError([not_exported(spec.span, what, label, help)])


def _refused(spec: Spec) -> tuple[str, str, str] | None:
    """What there is no place for, where it is said, and what to do."""
    if spec.recurrence is not None:
        alone = "export the pattern of one segment: the same without the lines about segments"
        return "segments that follow one another", ", ".join(spec.recurrence.lines()), alone
    if not spec.softmax_only:
        return "weights beyond softmax", spec.said_weights, "leave out these lines, or run it with attnspec"
    if spec.order is not None:
        return "a computed order", "order by lsh(...)", "run it with attnspec"
    if spec.mixture:
        merge = "export each branch as a pattern of its own, and merge their outputs by their log-sum-exp"
        return "several softmaxes", "mix { ... }", merge
    if spec.sink is not None:
        times = "leave out the line and multiply the output by sigmoid(lse - sink), with flex_attention's log-sum-exp"
        return "a sink", f"sink {spec.sink}", times
    if spec.rotations or spec.normalized:
        before = "leave out the lines, and do it to q and k before the call, as `attend.rotated(q, k)` does"
        label = ", ".join([*(rotation.kind for rotation in spec.rotations), *sorted(spec.normalized)])
        return "a change of queries and keys", label, before
    return None
