"""A fencing token in the study database: of two orchestrators, only the latest one writes.

A leader that was stopped and wakes up believes that it still leads. So each one that takes over
writes a higher token, and every transaction that wrote something compares it with its own before
it commits. (A journal needs none: its file is locked for as long as its writer lives.)
"""

from __future__ import annotations

from typing import Any

import sqlalchemy
from sqlalchemy import event

from justright.errors import StorageLost

_TABLE = sqlalchemy.Table(
    "justright_leader",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True, autoincrement=False),
    sqlalchemy.Column("token", sqlalchemy.BigInteger, nullable=False),
)
_WRITES = ("INSERT", "UPDATE", "DELETE")
_WROTE = "justright wrote"


def take_over(engine: sqlalchemy.Engine) -> int:
    """Become the one that writes through this engine; returns the token.

    From now on a transaction of anybody who took over before raises ``StorageLost`` as it commits.
    """
    _TABLE.create(engine, checkfirst=True)
    with engine.begin() as connection:
        raised = _TABLE.update().values(token=_TABLE.c.token + 1)
        if connection.execute(raised).rowcount == 0:
            connection.execute(_TABLE.insert().values(id=1, token=1))
        token = int(connection.execute(sqlalchemy.select(_TABLE.c.token)).scalar_one())
    _guard(engine, token)
    return token


def _guard(engine: sqlalchemy.Engine, token: int) -> None:
    # Held against a successor until this transaction has ended. SQLite has one writer anyway.
    question = sqlalchemy.select(_TABLE.c.token).with_for_update(read=True)

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip()[:6].upper() in _WRITES:
            connection.info[_WROTE] = True

    @event.listens_for(engine, "rollback")
    def forget(connection: Any) -> None:
        connection.info.pop(_WROTE, None)

    @event.listens_for(engine, "commit")
    def check(connection: Any) -> None:
        if connection.info.pop(_WROTE, False):
            found = connection.execute(question).scalar_one()
            if found != token:
                raise StorageLost(
                    f"another orchestrator has taken over (its token is {found}, ours is {token})"
                )
