"""Errors of calls. (They load no torch.)"""

from __future__ import annotations

from attnspec.errors.diagnostic import AttnspecError


class CallError(AttnspecError, ValueError):
    """The tensors of a call do not fit the pattern or each other."""
