"""Commands on Redis: signed on their way, and answered."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, cast

import redis

from justright.broker import CommandBroker
from justright.brokers.redis_keys import REPLY_KEPT, Keys
from justright.errors import MessageError, UsageError
from justright.messages import Command, Event, Reply, decode, decode_as
from justright.settings import load_settings
from justright.signing import Signer

log = logging.getLogger(__name__)

_ID = "id"  # field of a stream's entry
_LONGEST_ID = 64  # characters of a command's


class RedisCommands(CommandBroker):
    """What clients ask of the orchestrator, and what they hear of it."""

    def __init__(self, client: redis.Redis, signer: Signer | None, namespace: str | None) -> None:
        self._signer = signer
        # redis-py types every answer as "value or awaitable"; this is the synchronous client.
        self._redis = cast(Any, client)
        self._namespace = load_settings().namespace if namespace is None else namespace
        self._keys = Keys(self._namespace)

    def send(self, command: Command) -> None:
        sealed = self._sealing().seal("command", command.encode())
        # The id stands beside it as well: who cannot open it can still answer.
        self._redis.xadd(self._keys.commands, {"m": sealed, _ID: command.id})

    def reply(self, command: str) -> Reply | None:
        raw = self._redis.get(self._keys.reply(command))
        return None if raw is None else decode_as(Reply, raw)

    def answer(self, replies: Sequence[Reply]) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for reply in replies:
                pipe.set(self._keys.reply(reply.id), reply.encode(), ex=REPLY_KEPT)
            pipe.execute()

    def other_secret(self) -> bool:
        """Whether the active orchestrator has another secret than this connection."""
        known = self._redis.get(self._keys.secret)
        return known is not None and known.decode() != self._sealing().fingerprint

    def _sealing(self) -> Signer:
        if self._signer is None:
            raise UsageError("this connection signs nothing: set JUSTRIGHT_SECRET")
        return self._signer

    def _read_entry(
        self, commands: bool, entry_id: bytes, fields: dict[bytes, bytes]
    ) -> Iterable[Command | Event]:
        """The messages of one stream entry; what is unreadable is logged, never fatal."""
        sender = fields.pop(_ID.encode(), b"").decode("utf-8", "replace") if commands else ""
        for raw in fields.values():
            try:
                message = decode(self._sealing().open("command", raw) if commands else raw)
            except MessageError as error:
                log.warning("dropped stream entry %s: %s", entry_id.decode(), error)
                if sender and len(sender) <= _LONGEST_ID:
                    reason = f"the orchestrator refused it: {error}"
                    self.answer([Reply(id=sender, done=False, reason=reason)])
                continue
            if isinstance(message, Command if commands else Event):
                yield message
            else:
                log.warning("dropped stream entry %s: a %s", entry_id.decode(), message.type)
