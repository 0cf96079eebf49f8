"""The ``justright`` command, also as ``python -m justright``."""

from justright.cli.main import main

if __name__ == "__main__":
    main()
