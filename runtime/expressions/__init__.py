"""Expressions of scores as functions of torch tensors."""
