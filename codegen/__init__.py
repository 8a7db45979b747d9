"""Relation to kernel text: tiles, loops, costs and C++. Knows no tensors and imports no torch."""
