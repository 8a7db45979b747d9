"""Mistakes as data: codes, titles, spans, notes and helps, and how one is drawn.

Every message of the compiler has its function here, grouped by what it is about. Nothing here knows grammar, specs or
sets: what a message names comes in as text and spans.
"""
