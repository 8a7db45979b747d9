"""Attention whose weights are products of features: what vectors are mapped to, and what decays between them."""
