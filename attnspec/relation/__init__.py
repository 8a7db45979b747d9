"""The pattern as a Presburger set: lowered, split into loops and counted, for every length at once.

No tiles, no tensors. The one door to islpy is :mod:`attnspec.relation.presburger`.
"""
