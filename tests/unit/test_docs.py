"""What the documents say of the code is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from justright.lifecycle import TRANSITIONS
from justright.messages import Answer
from justright.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md")])


def tree() -> set[str]:
    """README's annotated tree: the paths that it names, folders with a slash."""
    block = README[README.index("```\njustright/") + 4 :].partition("\n```")[0]
    found: set[str] = set()
    folders: list[str] = []
    for line in block.splitlines():
        name = line.split()[0]
        del folders[(len(line) - len(line.lstrip())) // 2 :]
        found.add("".join([*folders, name]))
        if name.endswith("/"):
            folders.append(name)
    return found


def test_the_tree_names_every_module_and_no_other() -> None:
    packages = ("justright", "orchestrator", "worker")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    modules = {str(path.relative_to(ROOT)) for path in files if path.read_text().strip()}
    told = {path for path in tree() if path.startswith(packages)}
    packaged = {path for path in modules if path.endswith("__init__.py")}
    assert {path for path in told if not path.endswith("/")} - packaged == modules - packaged
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in files}
    assert {path for path in told if path.endswith("/")} == folders


def test_the_tree_names_every_folder() -> None:
    folders = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")}
    assert folders | {"docs/", "examples/"} <= tree()


def test_the_lifecycle_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "lifecycle.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if re.match(r"\| [a-z] \|", line)
    ]
    told = {letter: (source, target, cause) for letter, source, target, cause in rows}
    assert told == {
        letter: (", ".join(sorted(found.source)) or "–", str(found.target), found.cause)
        for letter, found in TRANSITIONS.items()
    }
    diagram = page.partition("| letter")[0]
    assert all(re.search(rf"\b{letter}\b", diagram) for letter in TRANSITIONS)


def test_the_answer_in_the_readme_is_one() -> None:
    example = README.partition("```json")[2].partition("```")[0]
    answer = json.loads(example)
    assert set(answer) == set(Answer.model_fields)
    Answer.model_validate(answer)


def test_every_setting_is_explained() -> None:
    page = (ROOT / "deploy" / "README.md").read_text()
    for name in Settings.model_fields:
        assert f"`JUSTRIGHT_{name.upper()}`" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


THEIRS = {
    "mine.py",
    "train.py",
    "file.py",
    "path/to/file.py",
    "/shared/mine.py",
    "/tasks/digits.py",
}  # what a user would have


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    """By their whole path, or by the end of it."""
    folders = ("justright", "orchestrator", "worker", "tests", "benchmarks", "deploy", "examples")
    known = [f"/{path.relative_to(ROOT)}" for folder in folders for path in sorted(
        (ROOT / folder).rglob("*.py"))]  # fmt: skip
    for name in set(re.findall(r"[\w/]*\w\.py\b", page.read_text())) - THEIRS:
        assert any(path.endswith(f"/{name.lstrip('/')}") for path in known), name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_lines_are_short(page: Path) -> None:
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        code ^= line.startswith("```")
        prose = not code and not line.startswith(("|", ">", "    ")) and "https://" not in line
        assert not prose or len(line) <= 120, f"{page.name}:{number}"
