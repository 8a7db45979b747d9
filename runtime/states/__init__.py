"""Sequences in pieces, where weights are products of features: a state is what is left of the tokens before."""
