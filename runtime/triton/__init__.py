"""Triton kernels: loaded as modules, their schedules measured, called; and compiled ahead of time.

The one place that imports triton, and only when a kernel is wanted.
"""
