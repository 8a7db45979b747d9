"""Measurement: races with peers, ceilings of this machine, checks of kernels against dense attention.

Nothing that a call of a pattern needs.
"""
