"""From trees to specs: names, kinds and parameters are resolved, and all mistakes of a file are collected.

``check`` knows files and parameters, ``check.clauses`` a line each, ``check.expressions`` what stands in them.
"""
