"""Calls that hold a part of a score matrix: where it lies, what is computed of it, and the operators that do so."""
