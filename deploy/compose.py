"""Checks compose.yaml without a container engine: what it names exists, and no secret shows.

``docker compose config`` checks the form; these checks are about what is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from deploy.dockerfile import Instruction, check_command, last, stages
from deploy.variables import (
    check_secrets,
    check_variables,
    environment,
    expand,
    is_required,
    is_secret,
    is_written,
)
from justright.settings import Settings

Services = dict[str, dict[str, Any]]

_KINDS = ("configs", "networks", "secrets", "volumes")
_ARGV_SECRET = re.compile(r"\$\$?\{?\w*(PASS|SECRET|TOKEN|AUTH)|--(requirepass|pass|user)\b")


def check(root: Path, instructions: list[Instruction]) -> Iterator[str]:
    """What is wrong with ``compose.yaml`` in ``root``, one message each."""
    try:
        document = yaml.safe_load((root / "compose.yaml").read_text())
    except (OSError, yaml.YAMLError) as error:
        yield f"it cannot be read: {error}"
        return
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict) or not all(isinstance(s, dict) for s in services.values()):
        yield "it has no services, each a mapping"
        return
    for name, service in services.items():
        problems = [
            *_check_build(service, root, instructions),
            *_check_environment(service),
            *_check_trust(service),
            *_check_argv(service),
            *_check_references(service, document),
        ]
        yield from (f"service {name}: {problem}" for problem in problems)
    yield from (f"service redis: {problem}" for problem in _check_redis(document))
    yield from _check_workers(services)
    yield from check_secrets(document)
    yield from check_variables(document, root / "deploy" / "example.env")


# -- one service --------------------------------------------------------------------------------


def _check_build(
    service: dict[str, Any], root: Path, instructions: list[Instruction]
) -> Iterator[str]:
    """The stage that a service is built from, and the command it gives to ``justright``."""
    build = _build(service)
    if not build:
        return
    target = build.get("target")
    if target not in stages(instructions):
        yield f"its build target {target!r} is no stage of the Dockerfile"
        return
    context = build.get("context", ".")
    if not (root / context).is_dir():
        yield f"its build context {context!r} is no folder"
    known = {i.value.partition("=")[0] for i in instructions if i.keyword == "ARG"}
    for name in sorted(set(build.get("args") or {}) - known):
        yield f"the Dockerfile has no ARG {name}"
    default = last(instructions, target, "CMD")
    argv = service.get("command", default.argv() if default else None)
    if "entrypoint" in service:
        yield "it replaces the image's ENTRYPOINT"
    elif not isinstance(argv, list):
        yield "its command is not a list (exec form)"
    else:
        yield from check_command([expand(str(word)) for word in argv])


def _build(service: dict[str, Any]) -> dict[str, Any]:
    """How a service is built; empty: it is pulled. A text is the context alone."""
    build = service.get("build") or {}
    return build if isinstance(build, dict) else {"context": build}


def _check_environment(service: dict[str, Any]) -> Iterator[str]:
    for name, value in environment(service).items():
        if name.startswith("JUSTRIGHT_"):
            field = name.removeprefix("JUSTRIGHT_").lower()
            if field not in Settings.model_fields:
                yield f"{name} is no setting of justright"
        if is_secret(name) and is_written(value):
            yield f"{name} has a secret written into it"


def _check_trust(service: dict[str, Any]) -> Iterator[str]:
    """Who speaks to Redis signs or checks signatures; a worker runs the tasks that are mounted."""
    known = environment(service)
    if "JUSTRIGHT_REDIS_URL" in known and not is_required(known.get("JUSTRIGHT_SECRET") or ""):
        yield "it does not require a JUSTRIGHT_SECRET that the user gives"
    if _build(service).get("target") == "worker" and "--tasks" not in service.get("command", []):
        yield "its command does not say with --tasks what it may run"


def _check_argv(service: dict[str, Any]) -> Iterator[str]:
    """Whoever is on the machine can read every process's arguments."""
    places = {key: service.get(key) for key in ("command", "entrypoint")}
    places["healthcheck"] = (service.get("healthcheck") or {}).get("test")
    for place, argv in places.items():
        words = argv if isinstance(argv, list) else [argv or ""]
        for word in map(str, words):
            if _ARGV_SECRET.search(word):
                yield f"its {place} carries a secret: {word!r}"


def _check_references(service: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """Volumes, configs, secrets, networks and services that it names are defined."""
    for kind in _KINDS:
        defined = set(document.get(kind) or {})
        if kind == "networks":
            defined.add("default")
        for item in service.get(kind) or []:
            name = _volume(item) if kind == "volumes" else _source(item)
            if name is not None and name not in defined:
                yield f"{name!r} is not defined under {kind}"
    for name in service.get("depends_on") or []:
        if name not in document["services"]:
            yield f"it depends on {name!r}, which is no service"
    mode = str(service.get("network_mode", ""))
    if mode.startswith("service:") and mode.removeprefix("service:") not in document["services"]:
        yield f"its network_mode {mode!r} names no service"


def _source(item: Any) -> str:
    return str(item["source"] if isinstance(item, dict) else item)


def _volume(item: Any) -> str | None:
    """The named volume of a volume's entry; None: it has no name."""
    if isinstance(item, dict):
        return str(item["source"]) if item.get("type") == "volume" and "source" in item else None
    source, colon, _ = expand(str(item)).partition(":")
    return source if colon and not source.startswith((".", "/", "~")) else None


def _target(item: Any) -> str:
    """Where a volume's entry is in the container."""
    if isinstance(item, dict):
        return str(item.get("target"))
    return expand(str(item)).split(":")[1]


# -- Redis and workers --------------------------------------------------------------------------


def redis_config(document: dict[str, Any]) -> str:
    """The configuration file that the service ``redis`` is started with; "" if it has none."""
    service = document["services"].get("redis") or {}
    command = service.get("command")
    for item in service.get("configs") or []:
        if isinstance(item, dict) and isinstance(command, list) and item.get("target") in command:
            config = (document.get("configs") or {}).get(item.get("source")) or {}
            return str(config.get("content", ""))
    return ""


def _check_redis(document: dict[str, Any]) -> Iterator[str]:
    service = document["services"].get("redis")
    if service is None:
        yield "there is none"
        return
    words = (line.split(maxsplit=1) for line in redis_config(document).splitlines())
    lines = dict(pair for pair in words if len(pair) == 2)
    if not lines:
        yield "its command does not name one of its configs"
    for name, expected in [("appendonly", "yes"), ("maxmemory-policy", "noeviction")]:
        if lines.get(name) != expected:
            yield f"its configuration does not say `{name} {expected}`"
    if not is_required(lines.get("requirepass", "")):
        yield "its configuration does not require a password that the user gives"
    if not any(_volume(item) and _target(item) == "/data" for item in service.get("volumes") or []):
        yield "no volume keeps its /data"
    if "test" not in (service.get("healthcheck") or {}):
        yield "it has no healthcheck"
    for port in map(str, service.get("ports") or []):
        if not expand(port).startswith("127.0.0.1:"):
            yield f"its port {port!r} is not on the loopback address by default"


def _check_workers(services: Services) -> Iterator[str]:
    workers = {
        name: service
        for name, service in services.items()
        if _build(service).get("target") == "worker"
    }
    with_gpu = [name for name, service in workers.items() if _has_gpu(service)]
    if not with_gpu:
        yield "no worker reserves an NVIDIA GPU"
    if len(with_gpu) == len(workers):
        yield "no worker does without a GPU"
    for name, service in workers.items():
        if not service.get("profiles"):
            yield f"service {name}: without a profile it starts on machines of the other kind, too"


def _has_gpu(service: dict[str, Any]) -> bool:
    found: Any = service
    for key in ("deploy", "resources", "reservations", "devices"):
        found = (found or {}).get(key)
    return any(
        device.get("driver") == "nvidia" and "gpu" in (device.get("capabilities") or [])
        for device in found or []
    )
