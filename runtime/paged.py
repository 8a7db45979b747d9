"""Calls whose keys lie in pages: :meth:`attnspec.Attention.paged`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, overload

from torch import Tensor

from attnspec.runtime.core.arguments import CallError, autocast, check_derivatives
from attnspec.runtime.core.pages import by_length, check_pages
from attnspec.runtime.ends import ends
from attnspec.runtime.mixture import together
from attnspec.runtime.paged_operator import attended
from attnspec.runtime.parts.attention import Parts
from attnspec.runtime.prepare.inputs import check, reads
from attnspec.runtime.prepare.steps import check_steps
from attnspec.spec.spec import Spec


class Paged(Parts):
    """Calls whose keys lie in pages: the part of :class:`attnspec.Attention` that serves engines."""

    @overload
    def paged(
        self,
        q: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        *,
        table: Tensor,
        lengths: Tensor,
        layout: str = "HND",
        rotated: bool = False,
        scale: float | None = None,
        return_lse: Literal[False] = False,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Tensor: ...

    @overload
    def paged(
        self,
        q: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        *,
        table: Tensor,
        lengths: Tensor,
        layout: str = "HND",
        rotated: bool = False,
        scale: float | None = None,
        return_lse: Literal[True],
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor]: ...

    def paged(
        self,
        q: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        *,
        table: Tensor,
        lengths: Tensor,
        layout: str = "HND",
        rotated: bool = False,
        scale: float | None = None,
        return_lse: bool = False,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention to keys that lie in pages, as engines keep them, with a length for each batch entry.

        >>> import torch, attnspec
        >>> attend = attnspec.compile("window", width=64)
        >>> k_pages, v_pages = torch.randn(2, 20, 2, 16, 32).unbind(0)  # 20 pages of 16 keys, 2 key heads
        >>> q = torch.randn(2, 8, 1, 32)  # the newest token of two sequences
        >>> table = torch.tensor([[3, 0, 7], [5, 11, -1]], dtype=torch.int32)
        >>> attend.paged(q, k_pages, v_pages, table=table, lengths=torch.tensor([40, 17])).shape
        torch.Size([2, 8, 1, 32])

        q is (batch, heads, n_q, dim). ``layout`` is FlashInfer's name for the pages: "HND", (pages, kv_heads,
        page_size, dim), or "NHD", (pages, page_size, kv_heads, dim), vLLM's; v_pages has dim_v in place of dim. Strides
        are arbitrary, so that halves of one tensor serve. ``table`` is the block table, (batch, most pages), and
        ``lengths`` how many keys each entry has (`seqused_k`), (batch,), both int32 or int64: key p of entry b is row
        p % page_size of page table[b, p // page_size]. Pages of any size are read where they lie, only those that the
        pattern's tiles touch; they may be shared, and what lies beyond an entry's length has no effect.

        Each entry gives what a call on its own keys, put together, gives: ``n`` in the pattern is its length, and its
        last query stands at its last key (with ``align start`` the first at its first). An input that is sized by
        ``n`` is given for the longest entry; the others read the beginning. Results are as in a call: (batch, heads,
        n_q, dim_v), and with ``return_lse`` the log-sum-exp, (batch, heads, n_q), float32. They have no gradients.

        Keys in pages are not turned: where the pattern rotates or normalizes, q and the keys are to be what
        :meth:`rotated` gives, and ``rotated=True`` says that they are: ``q, k = attend.rotated(q, k, lengths=lengths)``
        turns the queries and keys of a step, those to be written.

        On a GPU the pattern may have no axes, no inputs sized by ``n``, and no kernels that read lists of positions or
        tables of tiles (``attend.plan`` says whether they do).

        Raises CallError for tensors that do not fit, lengths beyond the table, entries of the table (of pages that an
        entry uses) that are no pages, computed orders, inputs declared ``offsets`` and patterns that read ``last`` of
        an input; NotImplementedError where a gradient is asked for.
        """
        name, spec, given = self._facts.name, self.spec, self._named(inputs, more)
        if self._facts.composed:
            raise CallError(
                f"{name}: branches of this mixture have kernels of their own, and keys in pages are turned for one. "
                "Call attend.branches[i].paged(..., return_lse=True), each with keys that are turned for it, and put "
                f"together what they give: {together(spec)}"
            )
        (q,) = autocast(q)  # pages are never copied: they must have that dtype
        k, v = check_pages(name, self._target, self._kinds, q, k_pages, v_pages, table, lengths, layout)
        check_derivatives(name, scale, q, k, v, *given.values())
        if self._target == "dense":
            raise CallError(f'{name}: keys in pages are read by kernels: target "auto", "cpp" or "triton"')
        _check_pattern(spec, rotated, given)
        if given or spec.inputs:
            check(spec, None, given, q.device)
        scale = None if scale is None else float(scale)
        tensors = [q, k, v, table, lengths, *given.values()]
        out, lse = attended(tensors, list(given), scale, self._encoded)
        out, lse = (ends(t, tensors, "results of keys in pages") for t in (out, lse))
        return (out, lse) if return_lse else out


def _check_pattern(spec: Spec, rotated: bool, given: Mapping[str, Tensor]) -> None:
    """Raises CallError where the keys of a pattern cannot lie in pages."""
    if spec.order is not None:
        raise CallError(f"{spec.name}: a computed order sorts all keys of a call: they cannot lie in pages")
    if (spec.rotations or spec.normalized) and not rotated:
        raise CallError(
            f"{spec.name}: the pattern rotates or normalizes queries and keys, and keys in pages are not copied. Keep "
            "there what attend.rotated gives, give q so too, and say rotated=True"
        )
    check_steps(spec)
    for declared in spec.inputs:
        where, name = f"{spec.name}: input `{declared.name}`", declared.name
        if declared.form == "offsets" or f"{name}.last" in reads(spec):
            what = "is declared `offsets`" if declared.form == "offsets" else f"is read by `last({name}, ...)`"
            raise CallError(
                f"{where} {what}, which depends on where each entry of the batch ends. With keys in pages, give the "
                "number of the document at each position, and read its `first`"
            )
        if declared.random is not None and by_length(declared) and name not in given:
            raise CallError(f"{where} is drawn for a length, and entries have their own: with keys in pages, give it")
