"""The images and the compose file, as far as they go without a container engine."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import compose, dockerfile, lint
from deploy.variables import expand
from justright.brokers.redis import RedisBroker
from justright.messages import WorkerInfo
from tests.helpers.servers import free_port, running_redis

ROOT = lint.ROOT
INSTRUCTIONS = dockerfile.parse((ROOT / "Dockerfile").read_text())
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PASSWORD = "correcthorse"


# -- lint ---------------------------------------------------------------------------------------


def test_lint_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.lint"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the files that lint reads."""
    for name in ("Dockerfile", "compose.yaml", "deploy/example.env"):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, place)
    return tmp_path


REQUIRED = r"${JUSTRIGHT_REDIS_PASSWORD:?write it into .env, see deploy/example.env}"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("Dockerfile", "python:3.12-slim", "python:latest", "DL3007"),
        ("Dockerfile", "USER 10001", "USER root", "stage worker: runs as root"),
        ("Dockerfile", "AS worker", "AS trainer", "there is no stage 'worker'"),
        ("Dockerfile", 'ENTRYPOINT ["justright"]', "ENTRYPOINT justright", "its ENTRYPOINT is not"),
        ("Dockerfile", 'CMD ["worker"]', 'CMD ["train"]', "`justright train`: there is no such"),
        ("Dockerfile", '"deploy.health", "worker"', '"deploy.health"', "its HEALTHCHECK is not"),
        ("compose.yaml", "services:", "services: [", "it cannot be read"),
        ("compose.yaml", "services:", "things:", "it has no services"),
        ("compose.yaml", "target: worker", "target: trainer", "'trainer' is no stage"),
        ("compose.yaml", "      TORCH:", "      TOUCH:", "the Dockerfile has no ARG TOUCH"),
        ("compose.yaml", "[orchestrator]", "[conductor]", "`justright conductor`: there is no"),
        ("compose.yaml", "[worker, --gpus,", "[worker, --gpu,", "No such option: --gpu"),
        ("compose.yaml", "command: [status]", "command: status", "not a list"),
        ("compose.yaml", "PORT:-8080", "PORT:-http", "`justright dashboard --port http`"),
        ("compose.yaml", "JUSTRIGHT_LEASE:", "JUSTRIGHT_LEES:", "JUSTRIGHT_LEES is no setting"),
        ("compose.yaml", "- state:/var", "- stat:/var", "'stat' is not defined under volumes"),
        ("compose.yaml", "- source: redis", "- source: rediss", "not defined under configs"),
        ("compose.yaml", "network_mode: host", "networks: [back]", "defined under networks"),
        ("compose.yaml", "init: true", "secrets: [token]", "'token' is not defined under secrets"),
        ("compose.yaml", "- orchestrator\n", "- conductor\n", "depends on 'conductor'"),
        ("compose.yaml", f"requirepass {REQUIRED}", "requirepass hunter2", "configs.redis.content"),
        ("compose.yaml", f":{REQUIRED}@", ":hunter2@", "JUSTRIGHT_REDIS_URL: its password"),
        ("compose.yaml", f"AUTH: {REQUIRED}", "AUTH: hunter2", "REDISCLI_AUTH has a secret"),
        ("compose.yaml", REQUIRED, "${JUSTRIGHT_REDIS_PASSWORD}", "lets Compose start without it"),
        ("compose.yaml", REQUIRED, "${JUSTRIGHT_REDIS_PASSWORD:-a}", "not of the form ${NAME:?"),
        ("compose.yaml", REQUIRED, "$JUSTRIGHT_REDIS_PASSWORD", "write variables as"),
        ("compose.yaml", '"redis-cli ping', '"redis-cli -a $$AUTH ping', "carries a secret"),
        ("compose.yaml", "appendonly yes", "appendonly no", "does not say `appendonly yes`"),
        ("compose.yaml", "noeviction", "allkeys-lru", "`maxmemory-policy noeviction`"),
        ("compose.yaml", f"requirepass {REQUIRED}", "", "does not require a password"),
        ("compose.yaml", "- redis:/data", "- redis:/dat", "no volume keeps its /data"),
        ("compose.yaml", "BIND:-127.0.0.1}", "BIND:-0.0.0.0}", "not on the loopback address"),
        ("compose.yaml", "driver: nvidia", "driver: cdi", "no worker reserves an NVIDIA GPU"),
        ("compose.yaml", "JUSTRIGHT_SECRET: *", "JUSTRIGHT_GRACE: *", "require a JUSTRIGHT_SECRET"),
        ("compose.yaml", "RIGHT_SECRET:?", "RIGHT_SECRET:-", "lets Compose start without it"),
        ("compose.yaml", "none, --tasks, /tasks]", "none]", "does not say with --tasks"),
        ("compose.yaml", "profiles: [gpu]", "profiles: []", "service worker: without a profile"),
        ("compose.yaml", "DASHBOARD_PORT", "BOARD_PORT", "BOARD_PORT is not explained"),
        ("deploy/example.env", "PASSWORD=\n", "PASSWORD=hunter2\n", "for the user to write"),
        ("deploy/example.env", "_SECRET=\n", "_SECRET=hunter2\n", "for the user to write"),
    ],
)
def test_lint_catches(copy: Path, file: str, old: str, new: str, said: str) -> None:
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    found = lint.problems(copy)
    assert any(said in problem for problem in found), found


# -- the Dockerfile's steps ---------------------------------------------------------------------


def installs(stage: str) -> list[list[str]]:
    """The pip commands of a stage as words, with the defaults of its ARGs."""
    of_stage = [found for found in INSTRUCTIONS if found.stage == stage]
    pairs = (found.value.partition("=") for found in of_stage if found.keyword == "ARG")
    args = {name: value.strip('"') for name, _, value in pairs}
    runs = [found.value for found in of_stage if found.keyword == "RUN"]
    commands = [part.strip() for run in runs for part in run.split("&&")]
    return [
        shlex.split(re.sub(r"\$\{(\w+)\}", lambda found: args[found[1]], command))
        for command in commands
        if command.startswith("pip install")
    ]


def extras(stage: str) -> list[str]:
    """The extras of justright that a stage installs."""
    words = [word for install in installs(stage) for word in install if word.startswith(".[")]
    return [extra for word in words for extra in word[2:-1].split(",")]


def closure(names: list[str]) -> set[str]:
    """All distributions that extras of justright bring, by the metadata of what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    waiting += [Requirement(text) for name in names for text in EXTRAS[name]]
    found: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ["", *sorted(requirement.extras)]:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            texts = EXTRAS.get(extra, []) if name == "justright" else _requires(name)
            more = [Requirement(text) for text in texts]
            waiting += [r for r in more if not r.marker or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def _requires(name: str) -> list[str]:
    return importlib.metadata.requires(name) or []


def test_the_images_install_extras_that_exist() -> None:
    assert extras("orchestrator") == ["orchestrator", "dashboard", "postgres"]
    assert extras("worker") == ["worker"]
    in_compose = SERVICES["worker"]["build"]["args"]["EXTRAS"].split(",")
    assert {*extras("orchestrator"), *extras("worker"), *in_compose} <= set(EXTRAS)


def test_every_install_is_constrained() -> None:
    for stage in dockerfile.STAGES:
        assert installs(stage)
        for words in installs(stage):
            assert words[words.index("--constraint") + 1].endswith("constraints.txt")


def test_only_the_worker_brings_torch() -> None:
    lean = closure(extras("orchestrator"))
    assert {"optuna", "optuna-dashboard", "psycopg-binary", "redis", "sqlalchemy"} <= lean
    assert "torch" not in lean
    assert "torch" in closure(extras("worker"))


@pytest.mark.parametrize("chosen", ["", "torch==2.11.0", "torch>=2.10,<2.12"])
def test_another_torch_can_be_chosen(tmp_path: Path, chosen: str) -> None:
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    run = next(i for i in INSTRUCTIONS if i.keyword == "RUN" and "TORCH" in i.value)
    command = run.value.split("&&")[0]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env={"TORCH": chosen}, check=True)
    before = (tmp_path / "constraints.txt").read_text().splitlines()
    after = (tmp_path / "worker-constraints.txt").read_text().splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ([chosen] if chosen else [])


def copied() -> list[str]:
    """What the Dockerfile copies from the repository."""
    values = [i.value.split() for i in INSTRUCTIONS if i.keyword == "COPY"]
    return [path for words in values if not words[0].startswith("--") for path in words[:-1]]


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if not line.startswith("#")]
    let_in = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert patterns[0] == "*"
    assert all((ROOT / path).exists() for path in copied())
    assert set(copied()) == let_in


def test_every_package_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= set(copied())


# -- what the containers run --------------------------------------------------------------------


def start(argv: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command of an image."""
    with open(log, "ab") as output:
        return subprocess.Popen(argv, env=env, stdout=output, stderr=output)


def image_argv(stage: str, keyword: str) -> list[str]:
    """What an instruction runs, with this Python's programs in place of the image's."""
    found = dockerfile.last(INSTRUCTIONS, stage, keyword)
    argv = None if found is None else found.argv()
    assert argv is not None
    here = {"python": [sys.executable], "justright": [sys.executable, "-P", "-m", "justright"]}
    return here.get(argv[0], argv[:1]) + argv[1:]


def healthy(argv: list[str], env: dict[str, str]) -> tuple[bool, str]:
    """Run a health check as a container does; what it says is on one stream or the other."""
    done = subprocess.run(
        argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return done.returncode == 0, done.stdout + done.stderr


def await_healthy(argv: list[str], env: dict[str, str], log: Path) -> None:
    deadline = time.monotonic() + 120
    while not healthy(argv, env)[0]:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a container, with a Redis that wants a password."""
    with running_redis(tmp_path, password=PASSWORD) as url:
        yield {**os.environ, "JUSTRIGHT_REDIS_URL": url, "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def broker(env: dict[str, str]) -> RedisBroker:
    return RedisBroker(redis.Redis.from_url(env["JUSTRIGHT_REDIS_URL"]))


def test_health_of_an_orchestrator(env: dict[str, str], broker: RedisBroker) -> None:
    check = image_argv("orchestrator", "HEALTHCHECK")
    assert healthy(check, env) == (False, "unhealthy: no orchestrator is active\n")
    broker.lead("one-1", 60)
    assert healthy(check, env) == (True, "one-1 is active\n")
    broker.resign("one-1")
    assert not healthy(check, env)[0]


def test_health_of_a_worker(env: dict[str, str], broker: RedisBroker) -> None:
    check = image_argv("worker", "HEALTHCHECK")
    info = WorkerInfo(name="w1", pool="default", host="elsewhere", pid=1, device="cpu")
    broker.beat(info, 60)
    assert not healthy(check, env)[0]
    mine = info.model_copy(update={"name": "w2", "host": socket.gethostname()})
    broker.beat(mine, 60)
    assert healthy(check, env) == (True, "w2 (cpu)\n")
    on_gpu = SERVICES["worker"]["healthcheck"]["test"]
    assert on_gpu[:4] == ["CMD", "python", "-m", "deploy.health"]
    found, said = healthy([sys.executable, *on_gpu[2:]], env)
    assert not found
    assert "trains on cpu, expected cuda" in said
    broker.beat(mine.model_copy(update={"device": "cuda:0"}), 60)
    assert healthy([sys.executable, *on_gpu[2:]], env)[0]
    broker.leave(mine)
    assert not healthy(check, env)[0]


@pytest.mark.parametrize("stage", dockerfile.STAGES)
def test_health_without_redis(env: dict[str, str], stage: str) -> None:
    check = image_argv(stage, "HEALTHCHECK")
    for url, said in [
        (f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0", "no Redis answers"),
        (env["JUSTRIGHT_REDIS_URL"].replace(PASSWORD, "wrong"), "refused the password"),
    ]:
        found, message = healthy(check, env | {"JUSTRIGHT_REDIS_URL": url})
        assert not found
        assert said in message


@pytest.mark.parametrize("stage", dockerfile.STAGES)
def test_an_image_starts_is_healthy_and_ends(
    tmp_path: Path, env: dict[str, str], stage: str
) -> None:
    log, check = tmp_path / "log", image_argv(stage, "HEALTHCHECK")
    command = dockerfile.last(INSTRUCTIONS, stage, "CMD")
    assert command is not None
    process = start(image_argv(stage, "ENTRYPOINT") + (command.argv() or []), log, env)
    try:
        await_healthy(check, env, log)
        process.send_signal(signal.SIGTERM)
        # A worker that is still importing torch has no handler yet: the signal ends it as well.
        assert process.wait(timeout=20) in (0, -signal.SIGTERM), log.read_text()
    finally:
        process.kill()
        process.wait()
    assert PASSWORD not in log.read_text()


@pytest.mark.parametrize("password", ["", PASSWORD])
def test_the_dashboard_service_is_healthy(
    tmp_path: Path, env: dict[str, str], password: str
) -> None:
    """With a password of its own, its health check knows it, too."""
    if password:
        env = env | {"JUSTRIGHT_DASHBOARD_PASSWORD": password}
    port, service = str(free_port()), SERVICES["dashboard"]
    variable = "${JUSTRIGHT_DASHBOARD_PORT:-8080}"
    words = [word.replace(variable, port) for word in service["healthcheck"]["test"]]
    check = [sys.executable, *words[2:]]
    assert not healthy(check, env)[0]
    command = image_argv(service["build"]["target"], "ENTRYPOINT")
    command += [word.replace(variable, port) for word in service["command"]]
    log = tmp_path / "log"
    process = start(command, log, env)
    try:
        await_healthy(check, env, log)
        found, said = healthy(check, env | {"JUSTRIGHT_DASHBOARD_PASSWORD": "wrong"})
        assert found == (not password), said
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_redis_takes_its_configuration(tmp_path: Path) -> None:
    """AOF on, nothing evicted, and nothing without the password; as the healthcheck sees it."""
    from justright.local.embedded_redis import redis_server

    port = free_port()
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    text = compose.redis_config(document).replace(REQUIRED, PASSWORD)
    server = subprocess.Popen(
        [redis_server(), "-"], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        assert server.stdin is not None
        server.stdin.write(f"{text}\nport {port}\nbind 127.0.0.1\n".encode())
        server.stdin.close()
        client: Any = redis.Redis(port=port, password=PASSWORD)
        deadline = time.monotonic() + 20
        while True:
            try:
                assert client.config_get("appendonly") == {"appendonly": "yes"}
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        _check_redis_health(port)
    finally:
        server.terminate()
        server.wait(timeout=20)


REDIS_CLI = """
import os, sys, redis
port, command = int(sys.argv[2]), sys.argv[3:]
try:
    client = redis.Redis(port=port, password=os.environ.get("REDISCLI_AUTH") or None)
    print("PONG" if client.execute_command(*command) else "")
except redis.RedisError as error:
    print(error)
"""


def _check_redis_health(port: int) -> None:
    """The service's own healthcheck, by redis-cli or, where there is none, what does the same."""
    found = shutil.which("redis-cli", path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")
    program = [found] if found else [sys.executable, "-c", REDIS_CLI]
    kind, command = SERVICES["redis"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    command = command.replace("redis-cli", f"{shlex.join(program)} -p {port}")
    for password, code in [(PASSWORD, 0), ("wrong", 1), ("", 1)]:
        done = subprocess.run(
            ["sh", "-c", command],
            env={"REDISCLI_AUTH": password},
            stderr=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == code


def test_the_variables_have_defaults_that_work() -> None:
    assert expand("${JUSTRIGHT_TASKS:-./examples}:/tasks:ro") == "./examples:/tasks:ro"
    assert expand(":${JUSTRIGHT_REDIS_PASSWORD:?write it}@") == ":JUSTRIGHT_REDIS_PASSWORD@"
