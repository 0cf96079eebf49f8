"""Commands to the orchestrator, and what became of them."""

from __future__ import annotations

import time
import uuid

from justright.broker import Broker
from justright.errors import JustrightError, UsageError
from justright.messages import Command, Reply

_PATIENCE = 10.0  # seconds for an answer: a turn of the orchestrator takes a fraction of one
_POLL = 0.05  # seconds between looks


class NameTaken(UsageError):
    """A study has the name that was made up for a new one."""


def new_id() -> str:
    """An id for a command."""
    return uuid.uuid4().hex


def ask(broker: Broker, command: Command) -> Reply:
    """Send a command, and wait until the orchestrator has obeyed it.

    Raises:
        UsageError: it was refused for what was typed.
        NameTaken: ... for the name that we had made up.
        JustrightError: it was refused for another reason, or nobody answers.
    """
    refuse_another_secret(broker)
    broker.send(command)
    until = time.monotonic() + _PATIENCE
    while (reply := broker.reply(command.id)) is None:
        if time.monotonic() > until:
            raise _unanswered(broker)
        time.sleep(_POLL)
    if reply.done:
        return reply
    if reply.taken:
        raise NameTaken(reply.reason)
    raise UsageError(reply.reason) if reply.typed else JustrightError(reply.reason)


def refuse_another_secret(broker: Broker) -> None:
    """A command that the orchestrator cannot verify need not be sent.

    Raises:
        JustrightError: the active orchestrator has another secret.
    """
    if broker.other_secret():
        raise JustrightError(
            f"the orchestrator {broker.leader()} has another JUSTRIGHT_SECRET than this shell, and "
            "obeys nobody who does not know its own. Set the same one here; or, if it serves "
            "another project on the same Redis, set JUSTRIGHT_NAMESPACE on all your machines."
        )


def _unanswered(broker: Broker) -> JustrightError:
    leader = broker.leader()
    kept = "The command is kept, and obeyed as soon as one answers."
    if leader is None:
        return JustrightError(
            f"no orchestrator is active: nobody answered within {_PATIENCE:g} s. Start one with "
            f"`justright orchestrator`. {kept}"
        )
    return JustrightError(
        f"the orchestrator {leader} has not answered within {_PATIENCE:g} s: see its log. {kept}"
    )
