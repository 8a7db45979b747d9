"""The checked pattern: expressions over positions, the clauses made of them, and their meaning as arrays.

Values only, frozen, each with its text. No trees (``language``) and no integer sets (``relation``); numpy is imported
when a meaning is asked for.
"""
