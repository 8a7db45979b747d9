"""A plan as the text of a Python file with Triton kernels and the functions that launch them.

``softmax/`` writes what is particular to softmax; ``library/`` holds hand-written text. Nothing here imports triton.
"""
