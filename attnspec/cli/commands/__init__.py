"""A file for each command, imported only when that command runs."""
