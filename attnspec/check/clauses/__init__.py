"""A file for each kind of line of a body: what it may say, and the part of the spec that it becomes.

Expressions are elaborated by ``check.expressions``, which knows nothing of lines.
"""
