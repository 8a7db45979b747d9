"""What a person asks of a pattern before it runs: differences, empty rows, cache need, reach, a picture.

Each file answers one question from the relation. Nothing is printed (``report``) and nothing is tiled (``codegen``).
"""
