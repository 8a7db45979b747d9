"""Orders of positions under which tiles are cut: a file each, with what it proposes for a pattern.

A layout knows positions and sets, not kernels: what a target makes of it is asked through its properties.
"""
