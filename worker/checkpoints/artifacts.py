"""Where checkpoints are kept: a folder, or an object store that fsspec knows (``s3://``)."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from justright.errors import ArtifactError
from justright.settings import without_password

_PRIVATE = 0o700  # the mode of our folders: checkpoints are nobody else's
_RANDOM = 4  # bytes of a name beside that of a file which is not whole yet


class Artifacts:
    """Files by names such as ``study/3/000012.pt``. What is written is whole, or not there."""

    def __init__(self, place: str) -> None:
        """
        Raises:
            ArtifactError: no such kind of place, or the package for it is not installed.
        """
        self._shown = without_password(place)
        known = {} if "://" not in place else {"use_listings_cache": False}
        try:
            # Listings are not cached: other workers write there, too.
            self._files, root = fsspec.core.url_to_fs(
                place if known else str(Path(place).expanduser().absolute()), **known
            )
        except Exception as error:  # each kind of place has its own
            raise ArtifactError(
                f"JUSTRIGHT_ARTIFACTS: found {self._shown!r}, expected a folder or a URL such as "
                f"s3://BUCKET/PATH ({_first_line(error)}). For S3: pip install 'justright[s3]'."
            ) from None
        self._root = root.rstrip("/")
        self._local = isinstance(self._files, LocalFileSystem)

    def write(self, name: str, content: bytes) -> None:
        """Write one file.

        Raises:
            ArtifactError: the place refused.
        """
        with self._worded("write"):
            path = self._path(name)
            if not self._local:
                self._files.pipe_file(path, content)  # a store shows an object when it is whole
                return
            os.makedirs(os.path.dirname(path), mode=_PRIVATE, exist_ok=True)
            beside = f"{path}.{secrets.token_hex(_RANDOM)}.part"
            try:
                with open(beside, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(beside, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise

    def read(self, name: str) -> bytes:
        """
        Raises:
            ArtifactError: it is not there, or the place refused.
        """
        with self._worded("read"):
            content: bytes = self._files.cat_file(self._path(name))
            return content

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none where there is no such folder.

        Raises:
            ArtifactError: the place refused.
        """
        with self._worded("list"):
            try:
                found = self._files.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
            files = (path.rstrip("/").rpartition("/")[2] for path in found)
            return sorted(f"{folder}/{file}" for file in files if not file.endswith(".part"))

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there.

        Raises:
            ArtifactError: the place refused.
        """
        with self._worded("remove"), contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name):
            raise ValueError(f"{name!r} is no name of a file there")
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _worded(self, doing: str) -> Any:
        try:
            yield
        except Exception as error:  # each store has its own
            raise ArtifactError(
                f"cannot {doing} checkpoints in {self._shown}: {_first_line(error)}"
            ) from error


def _first_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return without_password(str(text).strip().splitlines()[0])
