"""Expressions of the language elaborated into expressions of a spec: names, calls, lists, patterns, reads.

A table of rules, one for each kind of tree, and the elaborator that walks them. Nothing here knows clauses.
"""
