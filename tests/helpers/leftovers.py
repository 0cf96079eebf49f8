"""What a command has left behind: processes of ours that still run, studies, stray files."""

from __future__ import annotations

from pathlib import Path


def processes_of(state: Path) -> list[str]:
    """Command lines of the live processes that were started with this state folder.

    They are known by JUSTRIGHT_STATE in their environment or, as Redis writes its title over
    that, by a working directory below it.
    """
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            folder = (process / "cwd").readlink()
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # it has ended, or is none of ours
        named = f"JUSTRIGHT_STATE={state}".encode() in environment
        if command and (named or str(folder).startswith(str(state))):
            found.append(f"{process.name} {command}")
    return found


def studies_in(state: Path) -> list[str]:
    """The studies of ``tune`` in a state folder."""
    folder = state / "studies"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
