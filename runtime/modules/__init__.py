"""Models and layers made of patterns."""
