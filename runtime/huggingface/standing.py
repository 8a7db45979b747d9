"""What a layer needs to know of the pattern in the place of its mask, so that torch.compile can trace its calls.

It is found once: numbers and texts. What takes a compiler, or the solver, is asked of functions of such,
which torch.compile calls while it traces.
"""

from __future__ import annotations

from torch import nn

from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.huggingface.choice import Choice, layer_types
from attnspec.runtime.huggingface.constant import Numbered, constant
from attnspec.runtime.huggingface.pattern import Pattern


class Standing:
    """A pattern in the place of a mask.

    ``turns``: it turns queries and keys itself.
    ``model`` is the config of the last model that was seen to be able to have it.
    """

    def __init__(self, pattern: Pattern, number: int) -> None:
        spec = pattern.spec
        self.pattern, self.number, self.name, self.restart = pattern, number, spec.name, pattern.restart
        self._own_scale = spec.weights.linear or spec.scale is not None
        self._of_branches = any(branch.weights.linear or branch.scale is not None for branch in spec.mixture)
        self.turns = bool(spec.turns)
        self.model: object = None

    def scales(self, of_model: float | None) -> tuple[float | None, float | None]:
        """The scale of a call, and that of branches of softmax that say none.

        The model's takes the place of none that the pattern has: not of a `scale` line, nor of the 1 of products of
        features; so where some branches have such, the others are told theirs.
        """
        if self._own_scale:
            return None, None
        return (None, of_model) if self._of_branches else (of_model, None)

    def attention(self, ways: tuple[str, ...], cap: float | None, sinks: bool, of_branches: float | None) -> Attention:
        """What a layer calls where sequences lie in these ways: made once."""
        found: Attention = _ATTENTIONS.numbered(_attention(self.number, ways, cap, sinks, of_branches))
        return found

    def check_past(self, heads: int, kv_heads: int) -> None:
        """Raises CallError where what a query sees is later, or depends on it: a decoder is to predict that."""
        said = _ahead(self.number, heads, kv_heads)
        if said:
            raise CallError(said)

    def span(self, heads: int, kv_heads: int) -> int:
        """Within how many keys before a query all lie that it sees; -1 where nothing bounds that."""
        return _span(self.number, heads, kv_heads)


def of_layer(choice: int, module: nn.Module) -> Standing | None:
    """What stands in the layer that an attention is in, of a choice with this number; None: its own mask does."""
    number = getattr(module, "layer_idx", None)
    found = _of_layer(choice, layer_types(module.config), -1 if number is None else number, type(module).__name__)
    stands: Standing | None = _STANDING.numbered(found)
    return stands


def number_of(choice: Choice) -> int:
    """The number of a choice."""
    if choice not in _CHOICES:
        _CHOICES.append(choice)
    return _CHOICES.index(choice)


def standing(pattern: Pattern) -> Standing:
    """What is known of a pattern."""
    found: Standing = _STANDING.numbered(_standing(pattern))
    return found


_STANDING, _ATTENTIONS = Numbered(), Numbered()
_CHOICES: list[Choice] = []
_NOTHING = -1


def _standing(pattern: Pattern) -> int:
    return _STANDING.number(pattern, lambda number: Standing(pattern, number))


@constant
def _of_layer(choice: int, kinds: tuple[str, ...], layer: int, module: str) -> int:
    """The number of what stands in a layer, or _NOTHING."""
    patterns = _CHOICES[choice].of_types(kinds)
    if layer < 0 and len({*patterns}) > 1:
        raise CallError(f"attnspec.transformers: {module} does not know the number of its layer (layer_idx)")
    pattern = patterns[max(layer, 0)]
    return _NOTHING if pattern is None else _standing(pattern)


@constant
def _attention(number: int, ways: tuple[str, ...], cap: float | None, sinks: bool, scale: float | None) -> int:
    """The number of an attention."""
    pattern: Pattern = _STANDING.numbered(number).pattern
    wanted = number, ways, cap, sinks, scale
    return _ATTENTIONS.number(wanted, lambda _: pattern.attention(frozenset(ways), cap, sinks, scale))


@constant
def _span(number: int, heads: int, kv_heads: int) -> int:
    pattern: Pattern = _STANDING.numbered(number).pattern
    kept = pattern.kept(heads, kv_heads)
    return -1 if kept.growing or kept.fixed else kept.span


@constant
def _ahead(number: int, heads: int, kv_heads: int) -> str:
    """Why a pattern cannot stand in a decoder; empty if it can."""
    pattern: Pattern = _STANDING.numbered(number).pattern
    return pattern.why_not_past(heads, kv_heads)
