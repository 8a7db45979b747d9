"""Models that run over segments, with what the lines of a spec about segments carry from one to the next."""
