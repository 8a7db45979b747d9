"""Expressions as statements of a kernel: what both targets share of predicates, scores, derivatives and reads."""
