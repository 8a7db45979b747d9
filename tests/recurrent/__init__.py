"""Models that run over segments."""
