"""The layouts that are tried for a pattern, in the order in which they are compared: a line for each.

A layout that is not worth trying for some pairs proposes nothing for them.
"""

from __future__ import annotations

from attnspec.codegen.layouts import columns, comb, grid, residue

PROPOSALS = (comb.proposals, residue.proposals, grid.proposals, columns.proposals)
"""For all pairs of a part of a relation."""

SPLITS = (residue.splits, columns.splits)
"""For some terms of a union, the other terms staying in order."""
