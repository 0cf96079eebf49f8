"""What a worker may run: --tasks and --allow-commands, and the ways around them that do not lead
anywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from justright.errors import RefusedJob
from justright.spec import TaskRef
from worker.user_code.permission import Permission, read_permission


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a task, beside one that is not allowed and has one too."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("allowed", "allowed2", "elsewhere"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "task.py").write_text("")
        (folder / f"module_{name}.py").write_text("")
        (folder / f"package_{name}").mkdir()
        (folder / f"package_{name}" / "inner.py").write_text("")
    yield tmp_path / "allowed"
    sys.path_importer_cache.clear()  # of folders that are no more


def may(permission: Permission, target: str, folder: Path | None = None) -> bool:
    """Whether it may; a refusal names the task and the flag."""
    ref = TaskRef(target=target, folder=str(folder) if folder else None)
    try:
        permission.check(ref)
    except RefusedJob as error:
        said = str(error)
        assert target in said
        assert "--tasks " in said
        return False
    return True


def under(*tasks: str | Path) -> Permission:
    return read_permission([str(task) for task in tasks], commands=False)


# -- files -----------------------------------------------------------------------------------------


def test_a_file_under_the_folder(allowed: Path) -> None:
    (allowed / "deep" / "er").mkdir(parents=True)
    assert may(under(allowed), f"{allowed}/task.py:T")
    assert may(under(allowed), f"{allowed}/deep/er/not_yet_there.py:T")
    assert may(under(f"{allowed}/"), f"{allowed}/task.py:T")
    assert may(under("/elsewhere", allowed), f"{allowed}/task.py:T")


@pytest.mark.parametrize(
    "place",
    [
        "elsewhere/task.py",
        "allowed2/task.py",  # the name begins as that of the folder
        "allowed/../elsewhere/task.py",
        "allowed/deep/../../elsewhere/task.py",
        "allowed.py",
        "task.py",
    ],
)
def test_a_file_outside(allowed: Path, place: str) -> None:
    assert not may(under(allowed), f"{allowed.parent}/{place}:T")


def test_the_way_back_into_the_folder_is_one_into_it(allowed: Path) -> None:
    assert may(under(allowed), f"{allowed.parent}/elsewhere/../allowed/task.py:T")


def test_a_link_that_leads_out(allowed: Path) -> None:
    outside = allowed.parent / "elsewhere"
    (allowed / "link.py").symlink_to(outside / "task.py")
    (allowed / "link").symlink_to(outside)
    assert not may(under(allowed), f"{allowed}/link.py:T")
    assert not may(under(allowed), f"{allowed}/link/task.py:T")
    assert not may(under(allowed), f"{allowed}/link/../allowed2/task.py:T")
    assert may(under(allowed / "link"), f"{outside}/task.py:T"), "what was given is followed, too"


def test_a_link_that_leads_in(allowed: Path) -> None:
    (allowed.parent / "way.py").symlink_to(allowed / "task.py")
    assert may(under(allowed), f"{allowed.parent}/way.py:T")


def test_the_refusal_says_what_to_do(allowed: Path) -> None:
    outside = allowed.parent / "elsewhere"
    with pytest.raises(RefusedJob) as caught:
        under(allowed, "pkg").check(TaskRef(target=f"{outside}/task.py:T"))
    assert str(caught.value) == (
        f"this worker does not run {outside}/task.py:T: it runs tasks under {allowed}, pkg. "
        f"Start it with --tasks {outside} to let it."
    )


# -- packages and modules --------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["pkg:T", "pkg.sub:T", "pkg.sub.deeper:T"])
def test_a_package_that_was_named(target: str) -> None:
    assert may(under("pkg"), target)


@pytest.mark.parametrize(
    "target", ["pkgevil:T", "pkgevil.pkg:T", "pk:T", "evil.pkg:T", "os:system", "PKG:T", ".pkg:T"]
)
def test_what_only_looks_like_a_package_that_was_named(target: str) -> None:
    assert not may(under("pkg"), target)


def test_a_package_within_a_package() -> None:
    assert may(under("pkg.sub"), "pkg.sub.deeper:T")
    assert not may(under("pkg.sub"), "pkg:T")
    assert not may(under("pkg.sub"), "pkg.subevil:T")


@pytest.mark.parametrize(
    "target",
    ["os:system", "os.path:join", "posixpath:join", "abc:ABC", "io:open", "codecs:open",
     "subprocess:run", "sys:exit", "builtins:eval", "importlib:import_module", "shutil:rmtree",
     "torch:load", "worker.jobs.runner:JobRunner", "no_such_module_at_all:T", ":T", "T"],
)  # fmt: skip
def test_python_itself_and_what_is_installed_are_in_no_folder(
    allowed: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Wherever the worker was started: part of Python is frozen into it and lies nowhere."""
    monkeypatch.chdir(allowed)
    assert not may(under(), target)
    assert not may(under("."), target)
    assert not may(under(allowed), target, allowed)


def test_a_module_in_a_folder(allowed: Path) -> None:
    assert may(under(allowed), "module_allowed:T", allowed)
    assert may(under(allowed), "package_allowed.inner:T", allowed)
    assert not may(under(allowed), "module_elsewhere:T", allowed), "it is not there"
    outside = allowed.parent / "elsewhere"
    assert not may(under(allowed), "module_elsewhere:T", outside)
    assert not may(under(allowed), "module_allowed:T", outside)
    assert not may(under(allowed), "module_allowed:T"), "nothing would find it"


def test_a_module_in_a_folder_by_a_link(allowed: Path) -> None:
    outside = allowed.parent / "elsewhere"
    (allowed / "leads_out.py").symlink_to(outside / "module_elsewhere.py")
    (allowed / "leads_far").symlink_to(outside)
    assert not may(under(allowed), "leads_out:T", allowed)
    assert not may(under(allowed), "leads_far.task:T", allowed)
    assert not may(under(allowed), "module_elsewhere:T", allowed / "leads_far")


def test_a_module_that_the_import_finds(allowed: Path) -> None:
    """What counts is where the import finds it, not which folder the job names."""
    outside = allowed.parent / "elsewhere"
    sys.path.append(str(allowed))
    sys.path.append(str(outside))
    assert may(under(allowed), "module_allowed:T")
    assert may(under(allowed), "package_allowed.inner:T")
    assert not may(under(allowed), "module_elsewhere:T")
    assert not may(under(allowed), "package_elsewhere.inner:T")
    (allowed / "module_elsewhere.py").write_text("")
    sys.path.remove(str(allowed))
    assert not may(under(allowed), "module_elsewhere:T", allowed), "the other one comes first"


def test_nothing_is_imported_to_find_out(allowed: Path) -> None:
    (allowed / "loud.py").write_text("raise SystemExit('imported')")
    (allowed / "loud_package").mkdir()
    (allowed / "loud_package" / "__init__.py").write_text("raise SystemExit('imported')")
    sys.path.append(str(allowed))
    assert may(under(allowed), "loud:T")
    assert may(under(allowed), "loud_package.inner:T")
    assert not {"loud", "loud_package"} & set(sys.modules)


# -- without --tasks -------------------------------------------------------------------------------


def test_without_the_flag_it_is_the_working_directory(
    allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(allowed)
    permission = under()
    monkeypatch.chdir(allowed.parent / "elsewhere")  # later moves change nothing
    assert permission == under(allowed)
    assert may(permission, f"{allowed}/task.py:T")
    assert not may(permission, f"{allowed.parent}/elsewhere/task.py:T")


def test_the_root_is_no_such_directory(allowed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager starts everything there: it must not stand for all files."""
    monkeypatch.chdir("/")
    assert under() == Permission()
    with pytest.raises(RefusedJob, match=r"under no folder\. Start it with --tasks "):
        under().check(TaskRef(target=f"{allowed}/task.py:T"))
    assert not may(under(), "os:system")
    assert may(under("/"), f"{allowed}/task.py:T"), "who writes it means it"


def test_a_name_of_a_folder_that_is_there_is_the_folder_as_well(
    allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(allowed.parent)
    assert under("allowed") == Permission(under(allowed).folders, ("allowed",))
    assert under("pkg") == Permission((), ("pkg",))
    assert under("./pkg").folders == (allowed.parent / "pkg",)
    monkeypatch.chdir(allowed)
    assert under(".") == under(allowed)


# -- commands --------------------------------------------------------------------------------------


def test_commands_need_their_own_flag(allowed: Path) -> None:
    command = TaskRef(command=("python", f"{allowed}/task.py", "{lr}"))
    with pytest.raises(RefusedJob, match="--allow-commands"):
        under(allowed).check(command)
    read_permission([str(allowed)], commands=True).check(command)
    outside = TaskRef(target=f"{allowed.parent}/elsewhere/task.py:T")
    with pytest.raises(RefusedJob, match="--tasks"):
        read_permission([str(allowed)], commands=True).check(outside)
