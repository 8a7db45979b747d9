"""Mask and score functions written for FlexAttention, as patterns of ours: traced, and printed as a spec."""
