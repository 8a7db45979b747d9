"""``python -m attnspec``."""

from attnspec.cli import main

if __name__ == "__main__":  # other processes of a benchmark import this
    main()
