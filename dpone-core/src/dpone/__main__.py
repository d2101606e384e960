"""``python -m dpone``."""

from dpone.cli import main

if __name__ == "__main__":
    main()
