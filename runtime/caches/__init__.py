"""Caches of keys and values: what they keep, where it stands in memory, and queries that attend to it."""
