"""``python -m hyperloader.cli`` is the command ``hyperloader``."""

from hyperloader.cli import main

if __name__ == "__main__":
    main()
