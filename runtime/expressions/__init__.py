"""Expressions over torch tensors: reals with gradients, and the functions that FlexAttention calls."""
