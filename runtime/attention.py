"""From a spec to a callable: ``attnspec.compile``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.codegen.tiles import LAYOUTS
from attnspec.runtime import attend as around
from attnspec.runtime import sharding
from attnspec.runtime.cached import Cached, by_cache
from attnspec.runtime.core.arguments import CallError, autocast, check_call, check_derivatives, check_tile
from attnspec.runtime.core.direct import direct
from attnspec.runtime.core.program import Facts, Program, decode, facts
from attnspec.runtime.core.request import EMPTY, check_lists, sizes_of
from attnspec.runtime.decayed import Decayed, program_of_scores
from attnspec.runtime.ends import ends
from attnspec.runtime.mixture import Mixture, check_lse
from attnspec.runtime.paged import Paged
from attnspec.runtime.prepare.inputs import check
from attnspec.runtime.prepared import prepared
from attnspec.runtime.stages import Stages
from attnspec.runtime.states.call import Asked
from attnspec.runtime.states.mixture import AskedMixed, attended_in_branches
from attnspec.runtime.states.operator import attended_from
from attnspec.runtime.targets import NAMES, kinds


def compile(
    source: str | os.PathLike[str],
    *,
    params: Mapping[str, Any] | None = None,
    target: str = "auto",
    tile: tuple[int, int] | None = None,
    layout: str = "auto",
    **more: Any,
) -> Attention:
    """Compile a pattern to an attention function.

    >>> import torch, attnspec
    >>> attend = attnspec.compile("longformer", width=64)
    >>> q, k, v = torch.randn(3, 1, 2, 100, 16).unbind(0)
    >>> attend(q, k, v).shape
    torch.Size([1, 2, 100, 16])

    ``source`` is the name of a shipped spec, a path (``file.attn`` or ``file.attn:name``), or source text. Other
    keyword arguments are the pattern's parameters; ``params`` serves where a name collides with an option. ``target``
    is ``"auto"`` (a fused kernel, compiled at the first call: C++ for tensors on the CPU, Triton for those on a GPU),
    ``"cpp"`` or ``"triton"`` (only that), or ``"dense"`` (plain PyTorch over the whole mask).
    ``tile`` overrides the tile size (query positions, keys); both must be multiples of 16, and on a GPU powers of two.
    ``layout`` is ``"auto"``, or ``"identity"`` for one pass over positions in their order.

    Raises SpecError where the pattern or a parameter is wrong, FileNotFoundError where there is no such file.
    """
    from attnspec.language.load import load

    if target not in NAMES:
        raise ValueError(f"target must be one of {', '.join(NAMES)}, not {target!r}")
    if tile is not None and not isinstance(tile, tuple | list):
        raise TypeError(
            f"tile is the size of tiles, (queries, keys), not {tile!r}; a parameter that is called so goes into "
            f"params={{'tile': {tile!r}}}"
        )
    if tile is not None and (len(tile) != 2 or any(t % 16 or not 16 <= t <= 512 for t in tile)):
        raise ValueError(f"tile must be two multiples of 16 between 16 and 512, not {tile!r}")
    if tile is not None and target == "triton":
        check_tile(tile)
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    text, filename, name = load(source)
    if twice := set(params or {}) & set(more):
        raise TypeError(f"given twice, in params and by keyword: {', '.join(sorted(twice))}")
    given = {**(params or {}), **more}
    return Attention(Program.of(text, filename, name, given, tile, layout, target), target)


_in_branches = _disable_dynamo(attended_in_branches)
_untraced = _disable_dynamo(around.dense)  # masks are evaluated in Python: the graph breaks there


class Attention(Paged, Stages):
    """A compiled pattern: call it with q, k and v.

    ``program`` is its text with the parameters; ``spec``, ``relation`` and ``plan`` are its stages: print any of them.
    """

    def __init__(self, program: Program, target: str) -> None:
        self._target, self._kinds, self._encoded = target, kinds(target), program.encoded
        self.program = decode(self._encoded)  # the object that calls find too: looking things up compares no texts
        self._facts: Facts = facts(self.program)
        self.__name__ = self._facts.name  # functions have one: torch.func asks at every call
        composed = self._facts.composed and target != "dense"
        self._mixture = Mixture.of(self.spec, self.program, self.branches) if composed else None
        decays = self._facts.decays and target != "dense"
        self._decayed: Decayed | None = None
        if decays:
            scores = Attention(program_of_scores(self.program), target)
            self._decayed = Decayed.of(self.spec, self._encoded, scores)
        self._around = None if self._facts.bare or composed or decays else around.Around.of(self.spec, self._encoded)

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[False] = False,
        return_max: Literal[False] = False,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[True],
        return_max: Literal[False] = False,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[False] = False,
        return_max: Literal[True],
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[True],
        return_max: Literal[True],
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        *,
        cache: Cached,
        scale: float | None = None,
        return_lse: bool = False,
        return_max: Literal[False] = False,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Any: ...

    @overload
    def __call__(
        self,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor,
        *,
        return_state: bool,
        state: Tensor | tuple[Tensor | None, ...] | None = None,
        q_start: int | None = None,
        cache: None = None,
        scale: float | None = None,
        return_lse: bool = False,
        return_max: Literal[False] = False,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Any: ...

    @overload
    def __call__(self, q: None = None, k: None = None, *, v: Tensor, cache: None = None, **more: Any) -> Tensor: ...

    def __call__(
        self,
        q: Tensor | None = None,
        k: Tensor | None = None,
        v: Tensor | None = None,
        *,
        cache: Any = None,
        scale: float | None = None,
        return_lse: bool = False,
        return_max: bool = False,
        state: Any = None,
        q_start: Any = None,
        return_state: Any = False,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Any:
        """Attention of q (batch, heads, n_q, dim) to k (batch, kv_heads, n, dim) and v (batch, kv_heads, n, dim_v).

        Returns (batch, heads, n_q, dim_v) of the inputs' dtype, and with ``return_lse`` the log-sum-exp of the scores,
        (batch, heads, n_q), float32, natural logarithm (a mixture by given shares has none); both are differentiable,
        once and in reverse. With ``return_max`` then comes the largest score of each row, (batch, heads, n_q), float32,
        after score lines and without the sink, minus infinity where the row sees no key: what QK-clip wants (Kimi K2,
        2025, section 2.1). It has no gradient, and one that reaches it is an error (target "dense" has it: that of the
        largest). float32, bfloat16 or float16 (and float64 with target "dense"); sums are float32. ``scale``, which
        gets no gradient but with target "dense", defaults to the pattern's, or 1 / sqrt(dim). Query heads may be a
        multiple of the key heads. A row that may attend to no key gives zeros and minus infinity. The pattern's inputs
        are given by name, or in ``inputs`` where a name collides with an argument; float inputs are differentiable.
        Under autocast q, k and v are cast as SDPA's are. ``cache=``, an :class:`attnspec.Cache`, may stand for k and v.
        On the CPU a call gives the same bits whenever it is made. What it returns, but for gradients, does not depend
        on the number of threads: those that share out the keys of few queries add up in an order of the keys.

        Where weights are products of features (``linear`` lines) the scale defaults to 1 (fla's is 1 / sqrt(dim)), the
        log-sum-exp is the logarithm of the total weight, where the divisor is that and features are not negative, and
        features that are constant need no q and k: ``attend(v=v)``. A sequence may come in pieces, with as many queries
        as keys: ``return_state=True`` also gives what is left of the keys so far, last of the results, and ``state=``
        goes on from there, with the inputs of its own tokens:

        >>> import torch, attnspec
        >>> q, k, v = torch.randn(3, 1, 4, 100, 16).unbind(0)
        >>> attend = attnspec.compile("linear")
        >>> out, state = attend(q[:, :, :60], k[:, :, :60], v[:, :, :60], return_state=True)
        >>> more = attend(q[:, :, 60:], k[:, :, 60:], v[:, :, 60:], state=state)
        >>> torch.allclose(torch.cat([out, more], 2), attend(q, k, v), atol=1e-5), state.shape
        (True, torch.Size([1, 4, 16, 17]))

        A state is (batch, heads, features, dim_v), one more for sums of weights where these are divided by, and before
        that one for what it counts from where exponentials do (``divide each``, ``favor(stable = running)``), float32
        (of float64 tensors float64), and as differentiable as q, k and v; its heads are those of the keys unless lines
        read ``h``, or a maximum runs. ``q_start`` says after how many tokens of the sequence a call begins: it is
        needed where vectors turn by positions, and where a pattern can be cut only after multiples of some number of
        tokens. Where documents are given by offsets each has a state, (batch * documents, ..): document d of a call
        goes on from its own, wherever it lies and however many tokens of it come, and leaves its own. Where their
        numbers are given (``sorted``) the state is that of the last token's document, and the first token goes on with
        it (zero the state of a batch entry that begins a new one).

        Of a mixture whose branches have lines of their own it is a tuple, a state for each branch of features and None
        for each of softmax: it may be cut where no later query sees keys of these (``infini`` after whole segments).

        Raises CallError for tensors that do not fit, and where a pattern has no state, or not here: with the reason.
        """
        if q is None:
            q, k = around.no_vectors(self.spec, k, v)
        if cache is not None or k is None or v is None:
            if return_state or state is not None or q_start is not None:
                raise CallError(
                    f"{self._facts.name}: a cache keeps states by itself: without state, q_start and return_state"
                )
            return by_cache(self.program, q, k, v, cache, return_max, scale, return_lse, self._named(inputs, more))
        inputs = self._named(inputs, more) if inputs is not None or more else {}
        check_lse(self._facts, return_lse)
        at_once = self._target != "dense" and direct(q, k, v, *inputs.values())
        if not at_once or torch._C._is_any_autocast_enabled():
            q, k, v = autocast(q, k, v)
        known = None
        if at_once:
            known = prepared(self._encoded, q.shape, q.dtype, k.shape, k.dtype, v.shape, v.dtype)
        else:
            check_call(self._facts.name, self._target, self._kinds, q, k, v)
            if self._facts.lists and not torch.compiler.is_compiling():  # then when the graph runs
                check_lists(self.program, q.shape[1], k.shape[1], q.shape[0])
        if self._target != "dense" and not (at_once and scale is None):
            check_derivatives(self._facts.name, scale, q, k, v, *inputs.values())
        if return_state or state is not None or q_start is not None:
            if sharding.distributed(q, k, v, *inputs.values()):
                raise CallError(f"{self._facts.name}: calls with states take no distributed tensors")
            around.check_results(self.spec, scale, return_lse, return_max)
            if self._facts.composed:
                of_mixture = AskedMixed(q, k, v, scale, inputs, state, q_start, return_state)
                after: Any
                out, lse, after = _in_branches(self.spec, self.branches, of_mixture)
            else:
                asked = Asked(self._encoded, q, k, v, scale, inputs, state, q_start, return_state)
                found = attended_from(asked, self._target == "dense")
                out, lse, after = found.out, found.lse if return_lse else EMPTY, found.state
            results = (out, *([lse] if return_lse else []), *([after] if return_state else []))
            return results if len(results) > 1 else out
        if not at_once and sharding.distributed(q, k, v, *inputs.values()):
            check(self.spec, sizes_of(self.spec, q, k), inputs, q.device)
            options = {"scale": scale, "return_lse": return_lse, "return_max": return_max}
            return sharding.call(self, self.spec, q, k, v, inputs, **options)
        largest: Tensor | None = None
        if self._target == "dense":
            around.check_results(self.spec, scale, return_lse, return_max)
            out, lse = (_untraced if torch.compiler.is_compiling() else around.dense)(self.spec, q, k, v, scale, inputs)
        elif self._facts.linear:
            around.check_results(self.spec, scale, return_lse, return_max)
            out, lse = around.linear(self.spec, self._encoded, q, k, v, scale, inputs, return_lse)
        elif self._mixture is not None:
            out, lse, largest = self._mixture(q, k, v, scale, inputs, return_max)
        elif self._decayed is not None:
            out, lse, largest = self._decayed(q, k, v, scale, inputs, return_max)
        elif self._facts.bare and not inputs:
            out, lse, norm = around.bare(self._encoded, q, k, v, scale, return_max, known)
        else:
            of = self._around or around.Around.of(self.spec, self._encoded)
            out, lse, norm = around.attend(of, q, k, v, scale, inputs, return_max, known)
        if not return_max:
            return (out, lse) if return_lse else out
        if self._target == "dense":
            largest = around.largest(self.spec, q, k, scale, inputs)
        elif largest is None:
            largest = ends(norm.detach()[2], (q, k, v, *inputs.values()), "the largest scores of rows")
        return (out, lse, largest) if return_lse else (out, largest)

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value!r}" for name, value in self.spec.params)
        return f"<attnspec {self._facts.name}({params}), target {self._target}>"

    def _repr_html_(self) -> str:
        from attnspec.analysis.notebook import page

        return page(self.spec)


__all__ = ["Attention", "CallError", "compile"]
