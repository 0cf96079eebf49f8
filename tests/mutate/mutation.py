"""One change, and who must notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """A text that occurs exactly once in a file, and what stands there instead."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  #: Files or node ids; one of them must fail.
    equivalent: str = ""  #: Why no test can notice it; "": one must.

    def wrong(self) -> str:
        """Why it does not apply to the code as it is; "": it does."""
        path = ROOT / self.file
        if not path.is_file():
            return f"{self.name}: there is no file {self.file}"
        count = path.read_text().count(self.old)
        if count != 1:
            return f"{self.name}: {self.old!r} occurs {count} times in {self.file}, expected once"
        gone = [t for t in self.tests if not (ROOT / t.partition("::")[0]).exists()]
        return f"{self.name}: no tests {', '.join(gone)}" if gone else ""
