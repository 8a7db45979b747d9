"""``python -m attnspec``."""

from attnspec.cli import main

main()
