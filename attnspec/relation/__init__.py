"""The pattern as a Presburger set: lowered, split into loops and counted, for every length at once.

No tiles, no tensors. The doors to islpy are :mod:`attnspec.relation.presburger` and, for how hard its
sets are, :mod:`attnspec.relation.hardness`.
"""
