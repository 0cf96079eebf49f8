"""What a worker may run: tasks under the folders or packages that it was started with."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from justright.errors import RefusedJob
from justright.spec import TaskRef

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Permission:
    """The ``--tasks`` and ``--allow-commands`` of a worker."""

    folders: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()
    commands: bool = False

    def check(self, ref: TaskRef) -> TaskRef:
        """The task as it may be loaded: without a folder to import from that is not ours.

        Raises:
            RefusedJob: the task is not among them; the message names the flag.
        """
        if ref.target is None:
            if not self.commands:
                raise RefusedJob(
                    "this worker runs no command lines; start it with --allow-commands to let it."
                )
            return ref
        place = ref.target.rpartition(":")[0]
        if place.endswith(".py"):
            allowed, home = self._covers(Path(place)), str(Path(place).parent)
        else:
            allowed = self._names(place) or self._holds(place, ref.folder)
            home = ref.folder or place.partition(".")[0]
        if not allowed:
            raise RefusedJob(
                f"this worker does not run {ref.target}: it runs tasks under "
                f"{str(self) or 'no folder'}. Start it with --tasks {home} to let it."
            )
        if ref.folder is not None and not self._covers(Path(ref.folder)):
            return ref.model_copy(update={"folder": None})
        return ref

    def __str__(self) -> str:
        return ", ".join([*map(str, self.folders), *self.packages])

    def _covers(self, path: Path) -> bool:
        """Whether a file or folder lies in one of ours; links are followed first."""
        real = path.resolve()
        return any(real.is_relative_to(folder) for folder in self.folders)

    def _names(self, module: str) -> bool:
        return any(f"{module}.".startswith(f"{package}.") for package in self.packages)

    def _holds(self, module: str, folder: str | None) -> bool:
        """Whether the import would find the module in a folder of ours. Nothing is imported."""
        top = module.partition(".")[0]
        if top in sys.builtin_module_names:
            return False
        try:
            found = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return False
        if found is None and folder is not None and self._covers(Path(folder)):
            places = [Path(folder, top), Path(folder, f"{top}.py")]
            return any(place.exists() and self._covers(place) for place in places)
        if found is None:
            return False
        # "frozen" and the like are origins as well, and no places.
        located = [found.origin] if found.has_location else found.submodule_search_locations
        origins = [origin for origin in located or () if origin]
        return bool(origins) and all(self._covers(Path(origin)) for origin in origins)


def read_permission(tasks: Sequence[str], commands: bool) -> Permission:
    """What the flags mean: a dotted name is a package, and a folder as well if there is one.

    Without any, the working directory; that the root of the file system is one says nothing.
    """
    if not tasks:
        here = Path.cwd().resolve()
        return Permission(() if here == here.parent else (here,), (), commands)
    folders = [text for text in tasks if "/" in text or Path(text).is_dir() or text == "."]
    packages = tuple(text for text in tasks if _DOTTED.fullmatch(text))
    return Permission(tuple(Path(text).resolve() for text in folders), packages, commands)
