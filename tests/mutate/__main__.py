"""Applies each mutation to a copy of the tree, and runs the tests that must notice it.

python -m tests.mutate            all
python -m tests.mutate NAME ...   some
python -m tests.mutate --list
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutate.mutation import ROOT, Mutation
from tests.mutate.orchestrator import MUTATIONS as OF_ORCHESTRATOR
from tests.mutate.search import MUTATIONS as OF_SEARCH
from tests.mutate.shared import MUTATIONS as OF_SHARED
from tests.mutate.worker import MUTATIONS as OF_WORKER

MUTATIONS = (*OF_ORCHESTRATOR, *OF_SEARCH, *OF_SHARED, *OF_WORKER)
_FOLDERS = ("justright", "orchestrator", "worker", "tests", "examples", "benchmarks", "deploy")
_FILES = ("pyproject.toml", "README.md", "constraints.txt")
_PATIENCE = 900.0  # seconds for the tests of one mutation; one that hangs has been noticed


class Copies:
    """Copies of the tree, one for each thread."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._local, self._lock, self._count = (
            folder,
            threading.local(),
            threading.Lock(),
            0,
        )

    def mine(self) -> Path:
        """That of this thread."""
        if not hasattr(self._local, "place"):
            with self._lock:
                self._count += 1
                place = self._folder / str(self._count)
            for name in _FOLDERS:
                shutil.copytree(
                    ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__")
                )
            for name in _FILES:
                shutil.copy(ROOT / name, place / name)
            self._local.place = place
        found: Path = self._local.place
        return found


def passes(place: Path, tests: tuple[str, ...]) -> bool:
    """Whether the tests pass in a copy, whose own packages they import."""
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider",
            "--hypothesis-profile", "quick", *tests,
        ],
        cwd=place, env={**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=_PATIENCE, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1):  # no tests, or pytest itself failed
        raise RuntimeError(f"{tests}: {done.stdout.decode('utf-8', 'replace')[-2000:]}")
    return done.returncode == 0


def is_killed(copies: Copies, mutation: Mutation) -> bool:
    """Whether a test notices it."""
    place = copies.mine()
    path = place / mutation.file
    text = path.read_text()
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        return not passes(place, mutation.tests)
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("-n", "--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    unknown = set(options.names) - {one.name for one in MUTATIONS}
    if unknown:
        parser.error(f"no mutation {', '.join(sorted(unknown))}; see --list")
    chosen = [one for one in MUTATIONS if not options.names or one.name in options.names]
    if options.list:
        for one in chosen:
            print(
                f"{one.name}: {one.file}"
                + (f" (equivalent: {one.equivalent})" if one.equivalent else "")
            )
        return 0
    wrong = [text for one in chosen if (text := one.wrong())]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    return run([one for one in chosen if not one.equivalent], options.jobs, len(chosen))


def run(mutations: list[Mutation], jobs: int, total: int) -> int:
    """Try them; 0 if all are killed."""
    with tempfile.TemporaryDirectory(prefix="justright-mutate-") as folder:
        copies = Copies(Path(folder))
        tests = tuple(dict.fromkeys(test for one in mutations for test in one.tests))
        if not passes(copies.mine(), tests):
            print("the tests fail without any mutation: mend that first", file=sys.stderr)
            return 1
        with ThreadPoolExecutor(jobs) as pool:
            killed = list(pool.map(lambda one: is_killed(copies, one), mutations))
    for one, noticed in zip(mutations, killed, strict=True):
        if not noticed:
            print(f"survived: {one.name} ({one.file}: {one.old!r} -> {one.new!r})")
    if total > len(mutations):
        print(f"{total - len(mutations)} more are equivalent: see --list")
    print(f"{len(mutations)} mutations, {sum(killed)} killed")
    return 0 if all(killed) else 1


if __name__ == "__main__":
    sys.exit(main())
