"""``python -m robsearch`` is ``robsearch``."""

from robsearch.cli import main

if __name__ == "__main__":
    main()
