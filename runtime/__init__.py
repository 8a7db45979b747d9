"""Text to callable: compiler, cache, operators, and the tools that run and time them."""
