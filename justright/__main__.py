"""The ``justright`` command, also as ``python -m justright``."""

from justright.cli.commands import main

if __name__ == "__main__":
    main()
