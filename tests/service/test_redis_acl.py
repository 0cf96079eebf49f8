"""What deploy.lint says of the users of Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import lint

ACL = "deploy/redis.acl"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("+xadd", "+xad", "Unknown command"),
        ("resetchannels", "resetchanels", "Syntax error"),
        ("~rq:queues", "rq:queues", "Syntax error"),
        ("default off", "default on", "the user default is not off"),
        ("user default off\n", "", "the user default is not off"),
        ("user worker", "user trainer", "there is no user worker"),
        (">CHANGE-worker", ">hunter2", "user worker: its password is not >CHANGE-worker"),
        (">CHANGE-worker", ">CHANGE-worker >hunter2", "user worker: its password is not"),
        (">CHANGE-client", "nopass", "user client: nopass lets it do more"),
        ("-@all", "+@read", "user client: +@read lets it do more"),
        ("~justright:leader", "~*", "user client: ~* lets it do more"),
    ],
)
def test_lint_catches(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (lint.ROOT / ACL).read_text()
    assert old in text
    (tmp_path / "deploy").mkdir()
    (tmp_path / ACL).write_text(text.replace(old, new))
    (tmp_path / "Dockerfile").write_bytes((lint.ROOT / "Dockerfile").read_bytes())
    found = [text for text in lint.problems(tmp_path) if text.startswith("redis.acl: ")]
    assert any(said in problem for problem in found), found


def test_lint_says_that_there_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_bytes((lint.ROOT / "Dockerfile").read_bytes())
    assert "redis.acl: No such file or directory" in lint.problems(tmp_path)
