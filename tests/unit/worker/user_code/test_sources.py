"""Fingerprints of the user's code: what counts as another code, and what does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from justright.spec import TaskRef
from worker.user_code.sources import Sources, differing, fingerprint

TASK = """
import justright
import helper

class Mine(justright.Task):
    scale = 1
"""


def of(folder: Path, arguments: dict[str, str] | None = None) -> dict[str, str]:
    """The fingerprints that a new process finds."""
    ref = TaskRef(target=f"{folder}/mine.py:Mine", arguments=dict(arguments or {}))
    script = (
        "import json, sys; from justright.spec import TaskRef\n"
        "from worker.user_code.loading import load; from worker.user_code.sources import Sources\n"
        "ref = TaskRef.model_validate_json(sys.argv[1]); found = Sources()\n"
        "load(ref.model_copy(update={'arguments': {}})); print(json.dumps(found.of(ref)))"
    )
    import json

    done = subprocess.run(
        [sys.executable, "-c", script, ref.model_dump_json()], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "tasks"
    place.mkdir()
    (place / "mine.py").write_text(TASK)
    (place / "helper.py").write_text("WIDTH = 8\n")
    (place / "data.csv").write_text("1,2\n")
    (place / "net.yaml").write_text("width: 8\n")
    return place


def test_the_task_and_what_it_imports_from_its_folder(folder: Path) -> None:
    assert set(of(folder)) == {"mine.py", "helper.py"}


EDITS = {
    "a comment": ("mine.py", "# a comment\n" + TASK, []),
    "layout": ("mine.py", TASK.replace("scale = 1", "scale   =   1"), []),
    "a value": ("mine.py", TASK.replace("scale = 1", "scale = 2"), ["mine.py"]),
    "a helper": ("helper.py", "WIDTH = 16\n", ["helper.py"]),
    "data": ("data.csv", "3,4\n", []),
    "a file of settings": ("net.yaml", "width: 16\n", ["--set net={folder}/net.yaml"]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_counts_as_another_code(folder: Path, edit: str) -> None:
    file, text, expected = EDITS[edit]
    arguments = {"net": f"{folder}/net.yaml"}
    before = of(folder, arguments)
    (folder / file).write_text(text)
    found = [
        name.replace(str(folder), "{folder}") for name in differing(before, of(folder, arguments))
    ]
    assert found == expected


def test_machines_that_keep_it_in_different_places_agree(folder: Path) -> None:
    before = of(folder)
    moved = folder.rename(folder.parent / "elsewhere")
    assert of(moved) == before


def test_a_module_that_only_one_of_them_has_loaded_is_no_difference() -> None:
    assert differing({"a.py": "1", "b.py": "2"}, {"a.py": "1", "c.py": "3"}) == []


def test_a_program_is_known_by_its_file_and_not_by_what_it_writes(folder: Path) -> None:
    script, log = folder / "train.py", folder / "log.json"
    script.write_text("print('loss', 1)")
    log.write_text("{}")
    command = (sys.executable, str(script), "--lr", "{lr}", "--log", str(log))
    assert set(Sources().of(TaskRef(command=command))) == {str(script)}


def test_a_file_that_is_no_python_is_known_by_its_bytes(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def (")
    before = fingerprint(broken)
    broken.write_text("def  (")
    assert before != fingerprint(broken) != ""
    assert fingerprint(tmp_path / "nothing.py") == ""
