"""Patterns against what others have published: run with ``pip install -e '.[published]'; pytest tests/published``."""
