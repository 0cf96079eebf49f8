"""Checks the Dockerfile and compose.yaml: python -m deploy.lint

No container engine is needed. Each problem is a line on stderr; the exit code is 1 if there is one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy import compose, dockerfile

ROOT = Path(__file__).resolve().parent.parent


def problems(root: Path) -> list[str]:
    """What is wrong with the Dockerfile and compose.yaml in ``root``, one message each."""
    try:
        instructions = dockerfile.parse((root / "Dockerfile").read_text())
    except OSError as error:
        return [f"Dockerfile: {error.strerror}"]
    return [
        *_hadolint(root / "Dockerfile"),
        *(f"Dockerfile: {problem}" for problem in dockerfile.check(instructions)),
        *(f"compose.yaml: {problem}" for problem in compose.check(root, instructions)),
    ]


def _hadolint(file: Path) -> Iterator[str]:
    """What hadolint says; its wheel puts it beside the interpreter, which need not be on PATH."""
    beside = Path(sys.executable).parent / "hadolint"
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        yield "there is no hadolint: pip install 'justright[check]'"
        return
    done = subprocess.run(
        [program, "--no-color", file.name],
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    yield from done.stdout.splitlines()
    if done.returncode != 0 and not done.stdout:
        yield f"hadolint ended with exit code {done.returncode}: {done.stderr.strip()}"


def main() -> int:
    """Check this repository; returns the exit code."""
    found = problems(ROOT)
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print("Dockerfile and compose.yaml: all well")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
