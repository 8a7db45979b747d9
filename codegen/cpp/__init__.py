"""A plan as C++ text: one translation unit for a direction, an element type and a head size.

``library/`` holds the hand-written headers, which are read as text.
"""
