"""Reads the Dockerfile as instructions, and checks what hadolint cannot know: our commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import typer

from justright.cli.main import app

STAGES = ("orchestrator", "worker")  #: the stages that are images of ours


@dataclass(frozen=True)
class Instruction:
    """One instruction; its continued lines are joined."""

    stage: str  #: name of the stage it is in; empty before the first FROM
    keyword: str
    value: str

    def argv(self) -> list[str] | None:
        """The command in exec form, without HEALTHCHECK's options; None: it is in shell form."""
        text = self.value
        if self.keyword == "HEALTHCHECK":
            text = text.partition("CMD")[2]
        try:
            found = json.loads(text)
        except ValueError:
            return None
        return found if isinstance(found, list) else None


def parse(text: str) -> list[Instruction]:
    """All instructions, in order."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    instructions: list[Instruction] = []
    stage = ""
    for line in re.sub(r"\\\n", " ", kept).splitlines():
        keyword, _, value = line.strip().partition(" ")
        if not keyword:
            continue
        keyword, value = keyword.upper(), " ".join(value.split())
        if keyword == "FROM":
            stage = value.split()[-1]
        instructions.append(Instruction(stage, keyword, value))
    return instructions


def stages(instructions: list[Instruction]) -> set[str]:
    """Names of the stages."""
    return {found.stage for found in instructions if found.keyword == "FROM"}


def last(instructions: list[Instruction], stage: str, keyword: str) -> Instruction | None:
    """The instruction of a kind that holds at the end of a stage."""
    found = [i for i in instructions if (i.stage, i.keyword) == (stage, keyword)]
    return found[-1] if found else None


def check(instructions: list[Instruction]) -> Iterator[str]:
    """What is wrong with the stages that are images of ours, one message each."""
    for stage in STAGES:
        if stage not in stages(instructions):
            yield f"there is no stage {stage!r}"
            continue
        yield from (f"stage {stage}: {problem}" for problem in _check_stage(instructions, stage))


def _check_stage(instructions: list[Instruction], stage: str) -> Iterator[str]:
    user = last(instructions, stage, "USER")
    if user is None or user.value.split(":")[0] in ("root", "0"):
        yield "runs as root"
    health = last(instructions, stage, "HEALTHCHECK")
    if health is None or health.argv() != ["python", "-m", "deploy.health", stage]:
        yield f"its HEALTHCHECK is not `python -m deploy.health {stage}` in exec form"
    entry = last(instructions, stage, "ENTRYPOINT")
    if entry is None or entry.argv() != ["justright"]:
        yield 'its ENTRYPOINT is not ["justright"]'
    command = last(instructions, stage, "CMD")
    argv = None if command is None else command.argv()
    if argv is None:
        yield "it has no CMD in exec form"
    else:
        yield from check_command(argv)


def check_command(argv: list[str]) -> Iterator[str]:
    """Whether ``justright`` takes these arguments; the command itself is not run."""
    shown = " ".join(["justright", *argv])
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    command = group.commands.get(argv[0]) if argv else None
    if command is None:
        yield f"`{shown}`: there is no such command; there are {', '.join(group.commands)}"
        return
    try:
        command.make_context(argv[0], argv[1:])
    except Exception as error:  # click's own, whose module differs between typer's versions
        yield f"`{shown}`: {error}"
