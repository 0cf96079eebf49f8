"""What the documents say of the code is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from justright.lifecycle import TRANSITIONS
from justright.messages import Answer
from justright.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md")])


def tree() -> dict[str, set[str]]:
    """README's annotated tree: the modules of each package."""
    block = README[README.index("justright/         what users import") :].partition("```")[0]
    found: dict[str, set[str]] = {}
    package = ""
    for line in block.splitlines():
        name = line.split()[0]
        if line.startswith("  "):
            found[package].add(name)
        else:
            package = name.rstrip("/")
            found[package] = set()
    return found


@pytest.mark.parametrize("package", ["justright", "orchestrator", "worker"])
def test_the_tree_names_every_module(package: str) -> None:
    modules = {path.name for path in (ROOT / package).glob("*.py") if path.read_text().strip()}
    assert tree()[package] | {"__init__.py"} == modules | {"__init__.py"}


def test_the_tree_names_every_folder() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages | {"docs", "examples"} <= set(tree())


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
