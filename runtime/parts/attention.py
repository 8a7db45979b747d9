"""Parts of a score matrix, as an attention computes them: ``part``, ``part_backward`` and ``add_sink``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.runtime import sharding
from attnspec.runtime.core.arguments import CallError, autocast, check_call, check_derivatives, check_tensors
from attnspec.runtime.core.direct import direct
from attnspec.runtime.core.norm import by_row
from attnspec.runtime.core.request import sizes_of
from attnspec.runtime.core.visible import transforming
from attnspec.runtime.cpp.merge import merge
from attnspec.runtime.flops import watched
from attnspec.runtime.parts import operators as operator
from attnspec.runtime.parts.where import UNKNOWN, Asked, part_of
from attnspec.runtime.prepare.inputs import prepare
from attnspec.runtime.prepared import prepared
from attnspec.runtime.rotated import Rotations
from attnspec.runtime.sink import sink
from attnspec.spec.spec import Spec


def logit_of_rows(program: str, spec: Spec, rows: Tensor, asked: Asked, given: Mapping[str, Tensor]) -> Tensor:
    """The sink of the rows, (batch, heads, rows or 1), differentiable."""
    keys = rows[:, : None if asked.kv_heads == UNKNOWN else asked.kv_heads, :0]
    sizes = sizes_of(spec, rows, keys, part_of(program, rows, keys, asked))
    found = sink(spec, sizes, prepare(spec, sizes, given, device=rows.device), rows.device)
    assert found is not None
    return by_row(found)


_untraced = _disable_dynamo(logit_of_rows)  # sinks are evaluated in Python: the graph breaks there


class Parts(Rotations):
    """What can be computed of a score matrix in parts: the part of :class:`attnspec.Attention` that does so."""

    def part(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        q_start: int,
        k_start: int,
        n: int,
        h_start: int | None = None,
        b_start: int | None = None,
        out: Tensor | None = None,
        lse: Tensor | None = None,
        scale: float | None = None,
        n_q: int | None = None,
        heads: int | None = None,
        kv_heads: int | None = None,
        batch: int | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Attention of some queries to some keys of a sequence that the call does not hold: output and log-sum-exp.

        >>> import torch, attnspec
        >>> attend = attnspec.compile("longformer", width=64)
        >>> q, k, v = torch.randn(3, 1, 2, 300, 16).unbind(0)
        >>> rows = q[:, :, 100:180]
        >>> near = attend.part(rows, k[:, :, :150], v[:, :, :150], q_start=100, k_start=0, n=300)
        >>> far = attend.part(rows, k[:, :, 150:], v[:, :, 150:], q_start=100, k_start=150, n=300)
        >>> out, _ = attnspec.merge([near, far])
        >>> torch.allclose(out, attend(q, k, v)[:, :, 100:180], atol=1e-5)
        True

        Row r of q (batch, heads, rows, dim) stands at position ``q_start + r``, key r of k (batch, kv_heads, keys, dim)
        and v at ``k_start + r``, of a sequence of length ``n``; head h is head ``h_start + h`` and batch entry b is
        ``b_start + b`` of the pattern. Everything in the pattern means what it means in the whole call, whose inputs
        are given whole: what is sized ``n`` has n entries. Left out, ``h_start`` and ``b_start`` say that all heads and
        all batch entries are here. ``n_q``, ``heads``, ``kv_heads`` and ``batch`` are those of the whole: needed where
        the pattern reads one that the tensors do not tell. (With ``align end``, n_q is n unless it is given.)

        Returns (batch, heads, rows, dim_v) and (batch, heads, rows), float32 for all element types, natural logarithm:
        zeros and minus infinity for rows that see none of these keys. :func:`attnspec.merge` puts parts together, and
        both are differentiable. Given ``out`` and ``lse`` (float32; zeros and minus infinity to begin with), what these
        keys give is merged into them in place and they are returned: nothing is differentiable then, and
        :meth:`part_backward` has the gradients. A sink is no part of this: :meth:`add_sink` adds it, once.
        Everything else as in a call.

        Raises CallError for tensors and numbers that do not fit (then nothing is written), for a pattern with a
        computed order, and where gradients are asked of a mixture whose weights are detached: its branches are merged
        each by itself (``attend.branches``).
        """
        given = self._named(inputs, more)
        numbers = {
            "q_start": q_start,
            "k_start": k_start,
            "n": n,
            "h_start": h_start,
            "b_start": b_start,
            "n_q": n_q,
            "heads": heads,
            "kv_heads": kv_heads,
            "batch": batch,
        }
        if self._facts.composed:
            self._refuse_weights()
            if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *given.values())):
                self._refuse_detached()
            options = {**numbers, "out": out, "lse": lse, "scale": scale, "inputs": given}
            parts = [branch.part(q, k, v, **options) for branch in self.branches]  # type: ignore[arg-type]
            return merge(parts) if out is None else parts[0]
        into = [t for t in (out, lse) if t is not None]
        q, k, v, at_once = self._part_vectors(scale, q, k, v, given, into)
        where = Asked.of(self._facts.name, **numbers)
        call = ((q, k, v, *given.values()), list(given), scale, self._encoded, where)
        wants = torch.is_grad_enabled() and any(t.requires_grad for t in call[0])
        if wants:
            self._refuse_detached()
        if not into:
            found = operator.part_at_once(*call) if at_once and not wants else operator.part(*call, wants)
            return found[0], found[1]
        if out is None or lse is None:
            there, missing = ("lse", "out") if out is None else ("out", "lse")
            raise CallError(f"{self._facts.name}: {there} is given without {missing}: a part is merged into both")
        shape = (*q.shape[:3], v.shape[3])
        self._check_given({"out": (out, shape), "lse": (lse, shape[:3])}, q)
        if wants or (torch.is_grad_enabled() and (out.requires_grad or lse.requires_grad)):
            raise CallError(
                f"{self._facts.name}: a part that is merged into out and lse has no gradients, but they are asked for. "
                "Leave out and lse out and use attnspec.merge, or call it under torch.no_grad() and use part_backward"
            )
        (operator.part_into_at_once if at_once else operator.part_into)(*call, out, lse)
        return out, lse

    def part_backward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        dout: Tensor,
        dlse: Tensor | None = None,
        *,
        q_start: int,
        k_start: int,
        n: int,
        h_start: int | None = None,
        b_start: int | None = None,
        dq: Tensor | None = None,
        dk: Tensor | None = None,
        dv: Tensor | None = None,
        dinputs: Mapping[str, Tensor] | None = None,
        scale: float | None = None,
        n_q: int | None = None,
        heads: int | None = None,
        kv_heads: int | None = None,
        batch: int | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What one part adds to the gradients of q, k and v, from results and gradients of the whole.

        >>> import torch, attnspec
        >>> attend = attnspec.compile("causal")
        >>> q, k, v, dout = torch.randn(4, 1, 2, 100, 16).unbind(0)
        >>> out, lse = attend(q, k, v, return_lse=True)
        >>> dq = torch.zeros_like(q)
        >>> for start in (0, 50):
        ...     keys = slice(start, start + 50)
        ...     _ = attend.part_backward(
        ...         q, k[:, :, keys], v[:, :, keys], out, lse, dout, q_start=0, k_start=start, n=100, dq=dq
        ...     )
        >>> q.requires_grad_() is q and torch.allclose(torch.autograd.grad(attend(q, k, v), q, dout)[0], dq, atol=1e-5)
        True

        q, k, v and where they lie are those of :meth:`part`. ``out`` and ``lse`` are the rows of the *whole* softmax,
        over all keys, with the sink where there is one, ``dout`` (and ``dlse``, by default zero) their gradients:
        (batch, heads, rows, dim_v) and (batch, heads, rows). Returns float32 gradients of the shapes of q, k and v:
        ``dq``, ``dk`` and ``dv`` if they are given (float32), with this part's added in place. ``dinputs`` says of
        which float inputs gradients are wanted: float32 tensors of their shapes, by name, to which they are added. The
        gradient of what only a sink reads is not a part's: differentiate :meth:`add_sink`.

        Raises CallError as :meth:`part` does, and for a mixture whose weights are detached.
        """
        given = self._named(inputs, more)
        self._refuse_weights()
        self._refuse_detached()
        numbers = {
            "q_start": q_start,
            "k_start": k_start,
            "n": n,
            "h_start": h_start,
            "b_start": b_start,
            "n_q": n_q,
            "heads": heads,
            "kv_heads": kv_heads,
            "batch": batch,
        }
        if self._facts.composed:
            dq, dk, dv = (
                torch.zeros_like(of, dtype=torch.float32) if t is None else t for t, of in ((dq, q), (dk, k), (dv, v))
            )
            options = {**numbers, "dinputs": dinputs, "scale": scale, "inputs": given, "dq": dq, "dk": dk, "dv": dv}
            for branch in self.branches:
                branch.part_backward(q, k, v, out, lse, dout, dlse, **options)  # type: ignore[arg-type]
            return dq, dk, dv
        with torch.no_grad():
            q, k, v, _ = self._part_vectors(scale, q, k, v, given)
            where = Asked.of(self._facts.name, **numbers)
            shape, wanted = (*q.shape[:3], v.shape[3]), dict(dinputs or {})
            self._check_results({"out": (out, shape), "dout": (dout, shape)}, q, None)
            of_rows = {"lse": (lse, shape[:3]), **({} if dlse is None else {"dlse": (dlse, shape[:3])})}
            self._check_results(of_rows, q, torch.float32)
            for name, t in wanted.items():
                if name not in given or not given[name].is_floating_point():
                    raise CallError(f"{self._facts.name}: dinputs names `{name}`, which is no float input of this call")
                self._check_given({f"dinputs[{name!r}]": (t, tuple(given[name].shape))}, q)
            into = {"dq": (dq, q), "dk": (dk, k), "dv": (dv, v)}
            self._check_given({name: (t, tuple(of.shape)) for name, (t, of) in into.items() if t is not None}, q)
            call = ((q, k, v, *given.values()), list(given), scale, self._encoded, where)
            result = (out, lse, lse.new_empty(0), dout, dlse, list(wanted))
            if dq is None and dk is None and dv is None and not wanted:
                found: Sequence[Tensor] = operator.part_backward(*call, *result)
            else:
                found = [torch.zeros_like(of, dtype=torch.float32) if t is None else t for t, of in into.values()]
                operator.part_backward_into(*call, *result, [*found, *wanted.values()])
        return found[0], found[1], found[2]

    def add_sink(
        self,
        out: Tensor,
        lse: Tensor,
        *,
        q_start: int,
        n: int,
        h_start: int | None = None,
        b_start: int | None = None,
        n_q: int | None = None,
        heads: int | None = None,
        kv_heads: int | None = None,
        batch: int | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Rows with their sink, from rows whose parts are merged: what the owner of a row does once.

        >>> import torch, attnspec
        >>> attend = attnspec.compile("attention a { input logit: float[heads] within causal sink logit[h] }")
        >>> q, k, v = torch.randn(3, 1, 4, 100, 16).unbind(0)
        >>> logit = torch.randn(4)
        >>> parts = attend.part(q, k, v, q_start=0, k_start=0, n=100, logit=logit)
        >>> out, lse = attend.add_sink(*parts, q_start=0, n=100, logit=logit)
        >>> torch.allclose(out, attend(q, k, v, logit=logit), atol=1e-5)
        True

        ``out`` (batch, heads, rows, dim_v) and ``lse`` (batch, heads, rows), float32, are those of :meth:`part`, as are
        the numbers and inputs. Returns new tensors, differentiable in ``out``, ``lse`` and the float inputs that the
        sink reads: after parts that were merged in place, ``torch.autograd.grad`` through this call gives the gradients
        to hand to :meth:`part_backward` with the rows before the sink, and that of the sink. Without a sink in the
        pattern the rows come back as they are. Raises CallError for tensors and numbers that do not fit.
        """
        self._refuse_weights()
        name, given = self._facts.name, self._named(inputs, more)
        if not isinstance(out, Tensor) or out.dim() != 4:
            raise CallError(f"{name}: out must be a tensor of (batch, heads, rows, dim_v)")
        self._check_results({"lse": (lse, tuple(out.shape[:3]))}, out, torch.float32)
        if self.spec.sink is None:
            return out, lse
        numbers = {"q_start": q_start, "k_start": 0, "n": n, "h_start": h_start, "b_start": b_start}
        asked = Asked.of(name, **numbers, n_q=n_q, heads=heads, kv_heads=kv_heads, batch=batch)
        logit = (_untraced if torch.compiler.is_compiling() else logit_of_rows)(
            self._encoded, self.spec, out, asked, given
        )
        return merge([(out, lse), (torch.zeros_like(out), logit.expand(lse.shape))])

    def _part_vectors(
        self,
        scale: float | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        given: Mapping[str, Tensor],
        into: Sequence[Any] = (),
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """The vectors of a part, checked and cast as autocast wants, and whether nobody else is to know of the call."""
        name = self._facts.name
        alone = self._target != "dense" and not self._facts.lists and not torch._C._is_any_autocast_enabled()
        if alone and direct(q, k, v, *given.values(), *into):
            prepared(self._encoded, q.shape, q.dtype, k.shape, k.dtype, v.shape, v.dtype)  # checked once for a form
            if scale is not None:
                check_derivatives(name, scale)
            return q, k, v, True
        if self._target == "dense":
            raise CallError(f'{name}: target="dense" has no parts: it evaluates the whole mask (attend.mask)')
        q, k, v = autocast(q, k, v)
        watched()
        check_call(name, self._target, self._kinds, q, k, v)
        check_derivatives(name, scale, q, k, v, *given.values())
        check_tensors(name, given)
        if sharding.distributed(q, k, v, *given.values()):
            raise CallError(
                f"{name}: parts are of plain tensors, not of DTensors: give what is here, with where it lies"
            )
        if not torch.compiler.is_compiling() and transforming():
            raise NotImplementedError(f"{name}: parts have no rules for torch.func (vmap, grad): use torch.autograd")
        return q, k, v, False

    def _refuse_weights(self) -> None:
        if self._facts.composed and any(one.weights.linear for one in self.spec.calls):
            raise CallError(
                f"{self._facts.name}: weights of a branch are products of features, which have no parts. A sequence in "
                "pieces goes through attnspec.Cache, which keeps what each branch needs"
            )
        if self._facts.shared:
            raise CallError(
                f"{self._facts.name}: branches have given shares, and parts are merged by denominators. Merge the "
                "parts of each branch by itself (attend.branches), then add up the outputs times their shares"
            )

    def _refuse_detached(self) -> None:
        if self._facts.separate:
            raise CallError(
                f"{self._facts.name}: the weights of the mixture are detached, so gradients are those of its branches. "
                "Compute and merge the parts of each branch by itself (attend.branches), then mix them: "
                "attnspec.merge([(out, lse.detach()), ...])"
            )

    def _check_results(
        self, tensors: Mapping[str, tuple[Any, tuple[int, ...]]], q: Tensor, dtype: torch.dtype | None
    ) -> None:
        """Refuse tensors that have not these shapes (and this dtype) or are elsewhere."""
        for label, (t, shape) in tensors.items():
            if not isinstance(t, Tensor):
                raise CallError(f"{self._facts.name}: {label} must be a tensor, not {type(t).__name__}")
            if tuple(t.shape) != tuple(shape):
                raise CallError(
                    f"{self._facts.name}: {label} has the shape {tuple(t.shape)}; it must be {tuple(shape)}"
                )
            if t.dtype != dtype and (dtype is not None or not t.is_floating_point()):
                wanted = "a floating-point type" if dtype is None else dtype
                raise CallError(f"{self._facts.name}: {label} is {t.dtype}; it must be {wanted}")
            if t.device != q.device:
                raise CallError(f"{self._facts.name}: {label} is on {t.device}, but q is on {q.device}")

    def _check_given(self, tensors: Mapping[str, tuple[Any, tuple[int, ...]]], q: Tensor) -> None:
        """The same of what is written to: float32, each element by itself."""
        self._check_results(tensors, q, torch.float32)
        for label, (t, _) in tensors.items():
            if (
                not torch.compiler.is_compiling()
                and 0 in t.stride()
                and any(stride == 0 and size > 1 for stride, size in zip(t.stride(), t.shape, strict=True))
            ):
                raise CallError(f"{self._facts.name}: {label} is expanded: its elements share memory. Give a clone")
