"""From a relation to a plan: candidates, exact tile counts, the choice, the loops, tests and tables of each pass.

No target and no tensors; costs come in as functions of counts.
"""
