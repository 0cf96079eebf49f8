"""Checks what a study needs and says how to mend what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import redis

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.cli.packages import load_package
from justright.client.asking import refuse_another_secret
from justright.client.targets import resolve
from justright.errors import EXIT_ANSWER, EXIT_ERROR, JustrightError, RedisUnavailable
from justright.local.embedded_redis import redis_server
from justright.settings import Settings, load_settings, without_password

_OLDEST_PYTHON = (3, 11)
_OLDEST_REDIS = (6, 2)
_CLOCK_TOLERANCE = 2.0  # seconds
_GIB = 2**30
_MICROS = 1e6  # in a second
_FREE_DISK = 512 * 2**20  # bytes below which the state folder is worth a warning


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, and what to do where it is not."""

    what: str
    well: bool
    found: str
    mend: str = ""


def examine(task: str | None, *, as_json: bool) -> int:
    """Run all checks and print them; returns 0 if all is well, else 1."""
    settings = load_settings()
    findings = [*_machine(settings), *_redis(settings), *_storage(settings)]
    findings += [*_artifacts(settings), _gpus()]
    if task is not None:
        findings.append(_task(task))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.well else 'BAD '} {finding.what}: {finding.found}")
            if finding.mend:
                print(f"     {finding.mend}")
    return EXIT_ANSWER if all(finding.well for finding in findings) else EXIT_ERROR


def _machine(settings: Settings) -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("python", sys.version_info >= _OLDEST_PYTHON, version)
    try:
        yield Finding("embedded redis", True, redis_server())
    except JustrightError as error:
        # Only `tune` brings its own: a machine of a service has none, and needs none.
        mend = "" if settings.redis_given else str(error)
        yield Finding("embedded redis", settings.redis_given, "none", mend)
    yield _state_folder(settings.state)


def _state_folder(folder: Path) -> Finding:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return Finding(
            "state folder",
            False,
            f"{folder}: {error.strerror}",
            "name a place you can write to in JUSTRIGHT_STATE",
        )
    free = shutil.disk_usage(nearest).free
    return Finding(
        "state folder",
        free > _FREE_DISK,
        f"{folder}, {free / _GIB:.1f} GiB free",
        "" if free > _FREE_DISK else "make room, or set JUSTRIGHT_STATE to another disk",
    )


def _redis(settings: Settings) -> Iterator[Finding]:
    """The service's Redis, where one is named or there by default."""
    url = settings.redis_url.get_secret_value()
    shown = without_password(url)
    try:
        client = connect(url, patient=False, writes="commands")
    except RedisUnavailable as error:
        if settings.redis_given:
            yield Finding("redis", False, shown, str(error))
        else:
            yield Finding("redis", True, f"none at {shown}: `tune` brings its own")
        return
    info = cast(dict[str, object], client.info())
    version = str(info["redis_version"])
    recent = tuple(int(part) for part in version.split(".")[:2]) >= _OLDEST_REDIS
    oldest = ".".join(str(part) for part in _OLDEST_REDIS)
    mend = "" if recent else f"justright needs Redis {oldest} or newer, or Valkey"
    yield Finding("redis", recent, f"{shown}, version {version}", mend)
    concerns = RedisBroker(client).concerns()
    for concern in concerns:
        yield Finding("redis configuration", False, "it may lose jobs", concern)
    if not concerns:
        yield Finding("redis configuration", True, "append-only file on, no eviction")
    yield _secret(settings, client)
    yield _clock(client)
    yield from _service(RedisBroker(client))


def _secret(settings: Settings, client: redis.Redis) -> Finding:
    try:
        broker = RedisBroker(client, settings.signer())
    except JustrightError as error:
        return Finding("secret", False, "none that can be used", str(error))
    try:
        refuse_another_secret(broker)
    except redis.exceptions.NoPermissionError:
        return Finding("secret", True, "set; whether it is the orchestrator's is not known")
    except JustrightError as error:
        return Finding("secret", False, "not that of the orchestrator", str(error))
    return Finding("secret", True, "set")


def _clock(client: redis.Redis) -> Finding:
    before = time.time()
    seconds, micros = client.time()
    apart = abs(seconds + micros / _MICROS - (before + time.time()) / 2)
    return Finding(
        "clock",
        apart < _CLOCK_TOLERANCE,
        f"{apart:.3f} s from that of Redis",
        "" if apart < _CLOCK_TOLERANCE else "set the clocks by NTP (chrony, timesyncd)",
    )


def _service(broker: RedisBroker) -> Iterator[Finding]:
    try:
        leader, workers = broker.leader(), broker.workers()
    except redis.exceptions.NoPermissionError:
        yield Finding("orchestrator", True, "not known: this user of Redis may not ask")
        return
    yield Finding(
        "orchestrator",
        leader is not None,
        leader or "none is active",
        "" if leader else "start one: justright orchestrator",
    )
    yield Finding(
        "workers",
        bool(workers),
        ", ".join(f"{w.name} ({w.device}, pool {w.pool})" for w in workers) or "none",
        "" if workers else "start one on each machine with a GPU: justright worker",
    )
    for worker in workers:
        if worker.refusing:
            yield Finding("worker", False, f"{worker.name} refuses its jobs", worker.refusing)


def _storage(settings: Settings) -> Iterator[Finding]:
    """Only a storage that was named: the default is made when it is first needed."""
    if settings.storage is None:
        return
    place = settings.storage_place
    shown = without_password(place)
    try:
        if "://" in place:
            load_package("orchestrator.storage.ledger").open_database(place)
        elif not os.access(Path(place).expanduser().absolute().parent, os.W_OK):
            raise JustrightError(f"the folder of {place} cannot be written to, or is not there")
    except JustrightError as error:
        yield Finding("storage", False, shown, str(error))
    except ImportError as error:
        yield Finding("storage", False, shown, f"pip install 'justright[orchestrator]' ({error})")
    else:
        yield Finding("storage", True, shown)


def _artifacts(settings: Settings) -> Iterator[Finding]:
    """Where checkpoints are: can one be written, read and removed?"""
    if settings.artifacts is None:
        where = f"{settings.artifact_place}, on this machine only"
        yield Finding(
            "checkpoints",
            True,
            where,
            ""
            if not settings.redis_given
            else "for trials to go on on other machines, name a "
            "place that all workers see in JUSTRIGHT_ARTIFACTS: a folder, or s3://BUCKET/PATH",
        )
        return
    shown = without_password(settings.artifact_place)
    try:
        place = load_package("worker.checkpoints.artifacts").Artifacts(settings.artifact_place)
        place.write("doctor/try", b"justright")
        place.read("doctor/try")
        place.remove("doctor")
    except JustrightError as error:
        yield Finding("checkpoints", False, shown, str(error))
    except ImportError:
        return  # this machine is no worker
    else:
        yield Finding("checkpoints", True, shown)


def _gpus() -> Finding:
    gpus = load_package("worker.main").visible_gpus()
    return Finding("gpus", True, ", ".join(gpus) if gpus else "none: trains on the CPU")


def _task(task: str) -> Finding:
    """Load the task and try a batch of it, as a worker would."""
    try:
        # What the user's code prints is not ours to mix into the findings.
        with contextlib.redirect_stdout(sys.stderr):
            return Finding(
                "task", True, load_package("worker.jobs.look").look_at(resolve(task, Path.cwd()))
            )
    except JustrightError as error:
        return Finding("task", False, task, getattr(error, "traceback", "") or str(error))
    except ImportError as error:
        return Finding("task", False, task, f"pip install 'justright[worker]' ({error})")
