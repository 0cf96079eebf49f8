"""Each kind of bad input: one clear message, the right exit code, and nothing left behind."""

from __future__ import annotations

import io
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from justright.brokers.connection import connect
from justright.brokers.memory import MemoryBroker
from justright.brokers.redis import RedisBroker
from justright.cli.live import status_tables, trial_table
from justright.cli.plain import print_answer
from justright.failures import Failure, FailureKind
from justright.lifecycle import StudyState, TrialState
from justright.messages import Snapshot, Submit, TrialView
from justright.settings import load_settings
from justright.spec import make_spec
from orchestrator.answers.answer import make_answer
from orchestrator.reconcile import Reconciler
from orchestrator.storage.ledger import open_ledger
from tests.helpers.commands import SECRET, SIGNER, justright, justright_here
from tests.helpers.leftovers import processes_of, studies_in
from tests.helpers.servers import free_port, running_redis

TASK = """
import torch

import justright


class Tiny(justright.Task):
    epochs = 1

    def model(self):
        return torch.nn.Linear(4, 2)

    def train_data(self):
        return torch.ones(32, 4), torch.ones(32, dtype=torch.long)


class RaisesInModel(Tiny):
    def model(self):
        return self.build_layers(width=3)

    def build_layers(self, width):
        raise ValueError(f"three is no good width: {width}")


class UnequalLengths(Tiny):
    def train_data(self):
        return torch.ones(32, 4), torch.ones(31, dtype=torch.long)


class WrongWidth(Tiny):
    def model(self):
        return torch.nn.Linear(5, 2)


class WrongType(Tiny):
    def train_data(self):
        return torch.ones(32, 4), torch.ones(32)


class NoTask:
    pass
"""


@dataclass
class Desk:
    """Where a command is run: a folder of the user's own, and a state that starts empty."""

    folder: Path
    tasks: Path
    state: Path

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """In a process of its own."""
        env = {"COLUMNS": "200", "NO_COLOR": "1", **env}
        return justright(*arguments, env=env, cwd=self.folder, timeout=90)

    def refused(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """What is refused before anything is started: a client's command, or what was typed."""
        env = {"COLUMNS": "200", "NO_COLOR": "1", **env}
        return justright_here(*arguments, env=env, cwd=self.folder)

    def check_nothing_left(self) -> None:
        assert processes_of(self.state) == []
        assert studies_in(self.state) == []
        assert list(self.folder.iterdir()) == []


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "cwd", tmp_path / "tasks", tmp_path / "state")
    desk.folder.mkdir()
    desk.tasks.mkdir()
    (desk.tasks / "task.py").write_text(TASK)
    return desk


def check_refused(
    desk: Desk, done: subprocess.CompletedProcess[str], code: int, *parts: str
) -> None:
    """One message with these parts on stderr, this exit code, and nothing left behind."""
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    desk.check_nothing_left()


# -- what is typed: exit code 2 ---------------------------------------------------------------

WRONG_TASKS: dict[str, tuple[list[str], list[str]]] = {
    "no-file": (["nowhere.py:Tiny"], ["nowhere.py", "no file"]),
    "no-attribute": (["{tasks}/task.py:Tyni"], ["'Tyni'", "Tiny"]),
    "no-name": (["{tasks}/task.py"], ["task.py:Tiny"]),
    "folder": (["{tasks}"], ["expected path/to/file.py:Name"]),
    "no-module": (["nosuchpackage.sub:Tiny"], ["'nosuchpackage'", "path/to/file.py:Name"]),
    "forgotten-suffix": (["./task:Tiny"], ["./task", "file.py:Name"]),
    "two": (["{tasks}/task.py:Tiny", "another"], ["another", "expected"]),
    "none": ([], ["TASK"]),
    "not-python": (["{tasks}/broken.py:Tiny"], ["broken.py", "line 2"]),
    "not-python-no-name": (["{tasks}/broken.py"], ["broken.py", "line 2"]),
    "command-without-lr": (["--", "python", "train.py"], ["no {lr}", "train.py --lr {lr}"]),
}


@pytest.mark.parametrize(("task", "parts"), WRONG_TASKS.values(), ids=WRONG_TASKS)
def test_a_wrong_task(desk: Desk, task: list[str], parts: list[str]) -> None:
    (desk.tasks / "broken.py").write_text("import justright\nclass Tiny(:\n")
    arguments = [part.replace("{tasks}", str(desk.tasks)) for part in task]
    check_refused(desk, desk.refused("tune", *arguments), 2, *parts)


WRONG_OPTIONS: dict[str, list[str]] = {
    "--lr 1:1e-6": ["--lr", "1:1e-06", "0 < LOW < HIGH"],
    "--lr 0:1": ["--lr", "0:1", "0 < LOW < HIGH"],
    "--lr nan:1": ["--lr", "nan:1", "0 < LOW < HIGH"],
    "--lr fast": ["--lr", "'fast'", "LOW:HIGH"],
    "--lr 1e-5": ["--lr", "'1e-5'", "LOW:HIGH"],
    "--trials -3": ["--trials", "-3", "greater than or equal to 1"],
    "--trials many": ["--trials", "valid integer"],
    "--epochs 0": ["--epochs", "0", "greater than or equal to 1"],
    "--timeout 0": ["--timeout", "0", "greater than 0"],
    "--timeout nan": ["--timeout", "nan"],
    "--replicates 0": ["--replicates", "0", "greater than or equal to 1"],
    "--seed -1": ["--seed", "-1", "greater than or equal to 0"],
    "--workers 0": ["--workers", "0", "positive whole number"],
    "--sampler best": ["--sampler", "'best'", "'tpe'", "'qmc'"],
    "--pruner early": ["--pruner", "'early'", "'asha'", "'hyperband'"],
    "--lanes 0": ["--lanes", "0", "auto or a positive whole number"],
    "--lanes many": ["--lanes", "'many'", "auto or a positive whole number"],
    "--lanes 1.5": ["--lanes", "'1.5'", "auto or a positive whole number"],
    "--name ../up": ["--name", "'../up'", "letters, digits"],
    "--set hidden": ["--set", "'hidden'", "hidden=256"],
    "--set 3d=1": ["--set", "'3d=1'", "key=value"],
    "--colour red": ["--colour"],
}


@pytest.mark.parametrize("option", WRONG_OPTIONS)
def test_a_wrong_option(desk: Desk, option: str) -> None:
    done = desk.refused("tune", f"{desk.tasks}/task.py:Tiny", *option.split())
    check_refused(desk, done, 2, *WRONG_OPTIONS[option])


def test_all_complaints_come_at_once(desk: Desk) -> None:
    task = f"{desk.tasks}/task.py:Tiny"
    done = desk.run("tune", task, "--trials", "-3", "--lr", "1:1e-6", "--sampler", "best")
    check_refused(desk, done, 2, "--trials", "--lr", "--sampler")


WRONG_STUDY_FILES: dict[str, tuple[str, list[str]]] = {
    "unknown-key": ('task = "task.py:Tiny"\nlearning_rate = "1:2"', ["learning_rate", "lr,"]),
    "not-toml": ("task: task.py:Tiny", ["study.toml", "TOML"]),
    "no-task": ("trials = 3", ["TASK", "command"]),
    "task-and-command": ('task = "task.py:Tiny"\ncommand = ["x", "{lr}"]', ["either a TASK"]),
    "missing-file": ('task = "other.py:Tiny"', ["other.py", "no file"]),
    "text-for-a-number": ('task = "task.py:Tiny"\ntrials = "many"', ["--trials", "'many'"]),
    "lanes": ('task = "task.py:Tiny"\nlanes = 1.5', ["--lanes", "1.5"]),
    "range-of-three": ('task = "task.py:Tiny"\nlr = [1, 2, 3]', ["--lr", "[1, 2, 3]"]),
    "workers": ('task = "task.py:Tiny"\nworkers = "two"', ["--workers", "'two'"]),
    "set-is-no-table": ('task = "task.py:Tiny"\nset = 3', ["set", "3"]),
    "set-of-a-list": ('task = "task.py:Tiny"\n[set]\nhidden = [1, 2]', ["hidden", "[1, 2]"]),
    "command-is-text": ('command = "train.py --lr {lr}"', ["command", "list of strings"]),
    "command-of-numbers": ('command = [1, "{lr}"]', ["command", "1"]),
    "task-is-no-text": ("task = 3", ["task", "file.py:Name"]),
}


@pytest.mark.parametrize(("text", "parts"), WRONG_STUDY_FILES.values(), ids=WRONG_STUDY_FILES)
def test_a_wrong_study_file(desk: Desk, text: str, parts: list[str]) -> None:
    path = desk.tasks / "study.toml"
    path.write_text(text)
    check_refused(desk, desk.refused("tune", str(path)), 2, *parts)


def test_a_missing_study_file(desk: Desk) -> None:
    check_refused(desk, desk.run("tune", "nowhere.toml"), 2, "nowhere.toml")


WRONG_SERVICES: dict[str, list[str]] = {
    "worker --gpus 0,x": ["--gpus", "'0,x'", "none"],
    "worker --gpus -1": ["--gpus", "'-1'", "none"],
    "worker --lanes 0": ["--lanes", "'0'", "positive whole number"],
    "worker --lanes few": ["--lanes", "'few'", "positive whole number"],
    "worker --threads 0": ["--threads", "0"],
    "worker --threads -2": ["--threads", "-2"],
    "worker --memory 0": ["--memory", "found 0", "GiB"],
    "worker --memory nan": ["--memory", "found nan", "GiB"],
    "dashboard --port 99999": ["--port", "99999"],
    "dashboard --port -1": ["--port", "-1"],
    "dashboard --host 0.0.0.0": ["--host 0.0.0.0", "JUSTRIGHT_DASHBOARD_PASSWORD"],
    "serve": ["serve"],
}


@pytest.mark.parametrize("line", WRONG_SERVICES)
def test_a_wrong_option_of_a_service(desk: Desk, clean_redis: str, line: str) -> None:
    done = desk.refused(*line.split(), JUSTRIGHT_REDIS_URL=clean_redis)
    check_refused(desk, done, 2, *WRONG_SERVICES[line])
    assert RedisBroker(connect(clean_redis, patient=False), SIGNER).workers() == []


def test_a_dashboard_password_that_is_empty(desk: Desk) -> None:
    """As in an .env where it is still to be written: it is none, and opens nothing."""
    done = desk.run("dashboard", "--host", "0.0.0.0", JUSTRIGHT_DASHBOARD_PASSWORD="")
    check_refused(desk, done, 2, "--host 0.0.0.0", "JUSTRIGHT_DASHBOARD_PASSWORD")


@pytest.mark.parametrize("secret", ["", "too short"])
@pytest.mark.parametrize("command", ["submit {task}", "worker", "orchestrator"])
def test_a_service_without_a_secret(
    desk: Desk, clean_redis: str, command: str, secret: str
) -> None:
    line = command.replace("{task}", f"{desk.tasks}/task.py:Tiny").split()
    done = desk.run(*line, JUSTRIGHT_REDIS_URL=clean_redis, JUSTRIGHT_SECRET=secret)
    check_refused(desk, done, 2, "JUSTRIGHT_SECRET", "openssl rand -hex 32")
    broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
    assert (broker.workers(), broker.leader(), broker.receive(wait=0.001)) == ([], None, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE", "soon"),
        ("LEASE", "0"),
        ("ATTEMPTS", "0"),
        ("CHECKPOINT", "0"),
        ("GRACE", "-1"),
    ],
)
def test_a_wrong_setting(desk: Desk, name: str, value: str) -> None:
    done = desk.refused("tune", f"{desk.tasks}/task.py:Tiny", **{f"JUSTRIGHT_{name}": value})
    check_refused(desk, done, 2, f"JUSTRIGHT_{name}")


def test_an_argument_that_cannot_travel(desk: Desk, clean_redis: str) -> None:
    """JSON has no number for it: refused, or sent in a form that the orchestrator can read."""
    task = f"{desk.tasks}/task.py:Tiny"
    done = desk.refused("submit", task, "--set", "x=nan", JUSTRIGHT_REDIS_URL=clean_redis)
    if done.returncode == 0:
        broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
        assert len(broker.receive(wait=0.001)) == 1
    else:
        check_refused(desk, done, 2, "x", "nan")


# -- names of studies -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["best", "cancel", "pause", "resume", "status"])
def test_an_unknown_study(desk: Desk, clean_redis: str, command: str) -> None:
    done = desk.refused(command, "typo", JUSTRIGHT_REDIS_URL=clean_redis)
    check_refused(desk, done, 2, "'typo'", "no studies yet")


@pytest.mark.parametrize("command", ["best", "cancel", "pause", "resume", "status"])
def test_an_unknown_study_beside_a_known_one(desk: Desk, clean_redis: str, command: str) -> None:
    RedisBroker(connect(clean_redis, patient=False), SIGNER).publish(a_snapshot("known", None))
    done = desk.refused(command, "typo", JUSTRIGHT_REDIS_URL=clean_redis)
    check_refused(desk, done, 2, "'typo'", "There are: known")


def test_a_name_that_another_study_has(desk: Desk, clean_redis: str) -> None:
    RedisBroker(connect(clean_redis, patient=False), SIGNER).publish(a_snapshot("known"))
    task = f"{desk.tasks}/task.py:Tiny"
    done = desk.refused("submit", task, "--name", "known", JUSTRIGHT_REDIS_URL=clean_redis)
    check_refused(desk, done, 2, "known", "task", "another --name")
    assert RedisBroker(connect(clean_redis, patient=False), SIGNER).receive(wait=0.001) == []


def test_a_name_that_a_study_of_somebody_else_has(tmp_path: Path) -> None:
    """The storage may be shared with other users of Optuna: theirs is left alone, and said."""
    books = open_ledger(str(tmp_path / "journal.log"))
    optuna.create_study(storage=books.storage, study_name="known")
    broker = MemoryBroker()
    reconciler = Reconciler(broker, books, load_settings())
    broker.send(Submit(id="1", spec=make_spec({"name": "known", "task": {"target": "/x.py:T"}})))
    reconciler.turn(wait=0.0)
    snapshot = broker.snapshot("known")
    assert snapshot is not None
    assert snapshot.state == StudyState.FAILED
    assert snapshot.failure is not None
    assert snapshot.failure.kind == FailureKind.USAGE
    assert "known" in snapshot.failure.message
    [kept] = books.storage.get_all_studies()
    assert kept.user_attrs == {}
    books.close()


def a_snapshot(study: str, failure: Failure | None = None) -> Snapshot:
    spec = make_spec({"name": study, "task": {"target": "/x.py:T"}})
    trial = TrialView(number=0, lr=0.1, state=TrialState.FAILED, failure=failure)
    answer = make_answer(
        study, StudyState.RUNNING, None, [], horizon=None, initial_loss=None, seconds=0.0, seed=0
    )
    return Snapshot(
        study=study, submission="1", spec=spec, state=StudyState.RUNNING, task="x.py:T", total=30,
        horizon=None, trials=(trial,), answer=answer, failure=failure,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["no layer [/up] here", "no [lr] of [red]mine[/red]"])
def test_words_of_the_user_are_shown_as_they_are(text: str) -> None:
    """They may look like markup of the table's own."""
    snapshot = a_snapshot("known", Failure(kind=FailureKind.USER, message=text))
    snapshot = snapshot.model_copy(update={"note": text, "task": text})
    console = Console(width=400, record=True, file=io.StringIO())
    print_answer(snapshot, console)
    console.print(status_tables([snapshot], [], None))
    console.print(trial_table(snapshot, rows=5))
    assert console.export_text().count(text) == 4


# -- the world: exit code 1 -------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "submit {task}",
        "status",
        "best s",
        "cancel s",
        "pause s",
        "resume s",
        "worker",
        "orchestrator",
    ],
)
def test_a_redis_that_is_not_there(desk: Desk, command: str) -> None:
    url = f"redis://:hush@127.0.0.1:{free_port()}/0"
    line = command.replace("{task}", f"{desk.tasks}/task.py:Tiny").split()
    run = desk.run if command in ("worker", "orchestrator", "status") else desk.refused
    done = run(*line, JUSTRIGHT_REDIS_URL=url)
    shown = url.replace("hush", "***")
    check_refused(desk, done, 1, f"no Redis answers at {shown}", "JUSTRIGHT_REDIS_URL")
    assert "hush" not in done.stderr


def test_a_redis_that_never_answers(desk: Desk) -> None:
    """Something listens, and says nothing: a wrong port, or a stopped server."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        done = desk.refused("status", JUSTRIGHT_REDIS_URL=url)
    check_refused(desk, done, 1, f"no Redis answers at {url}")


SECRETS = ["hush", "hu@sh", "hu:sh", "@hush", "hu sh"]


@pytest.mark.parametrize("password", SECRETS)
def test_a_wrong_password_of_redis(desk: Desk, tmp_path: Path, password: str) -> None:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis", password="right", durable=False) as url:
        done = desk.refused("status", JUSTRIGHT_REDIS_URL=url.replace(":right@", f":{password}@"))
    check_refused(desk, done, 1, "refused the password", "JUSTRIGHT_REDIS_URL")
    for part in re.split(r"[@: ]", password):
        assert not part or part not in done.stderr


def test_a_missing_password_of_redis(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis", password="right", durable=False) as url:
        done = desk.refused("status", JUSTRIGHT_REDIS_URL=url.replace(":right@", ""))
    check_refused(desk, done, 1, "refused the password", "redis://:PASSWORD@HOST:PORT/0")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:6379", "http://127.0.0.1", "redis://127.0.0.1:port/0", ":hush@127.0.0.1"]
)
def test_an_address_that_is_none(desk: Desk, url: str) -> None:
    done = desk.refused("status", JUSTRIGHT_REDIS_URL=url)
    check_refused(desk, done, 1, "redis://HOST:PORT/0", "JUSTRIGHT_REDIS_URL")
    assert "hush" not in done.stderr


def refused_storage(desk: Desk, redis_url: str, place: str, code: int, *parts: str) -> str:
    """Start the orchestrator on a storage that it cannot have; returns what it said."""
    env = {"JUSTRIGHT_REDIS_URL": redis_url, "JUSTRIGHT_STORAGE": place}
    done = desk.run("orchestrator", **env)
    check_refused(desk, done, code, *parts)
    assert RedisBroker(connect(redis_url, patient=False), SIGNER).leader() is None
    return done.stderr


@pytest.mark.parametrize(
    "place",
    [
        "postgresql+psycopg://me:hush@127.0.0.1:{port}/studies",
        "postgresql://me:hush@127.0.0.1:{port}/studies",
        "postgresql+psycopg://me@127.0.0.1:{port}/studies?password=hush&connect_timeout=5",
    ],
)
def test_a_database_that_is_not_there(desk: Desk, clean_redis: str, place: str) -> None:
    port = free_port()
    place = place.replace("{port}", str(port))
    said = refused_storage(
        desk, clean_redis, place, 1, f"127.0.0.1:{port}/studies", "refused", "server runs"
    )
    assert "hush" not in said


def test_a_database_password_that_is_not_encoded(desk: Desk, clean_redis: str) -> None:
    """SQLAlchemy ends it at the first @ and takes the rest for the host, which errors name."""
    place = f"postgresql+psycopg://me:hu@sh@127.0.0.1:{free_port()}/studies"
    said = refused_storage(desk, clean_redis, place, 2, "%40")
    assert "sh@" not in said


@pytest.mark.parametrize(
    ("scheme", "parts"),
    [
        ("mysql+pymysql", ["pymysql"]),
        ("postgresql+psycopg2", ["postgresql+psycopg://", "justright[postgres]"]),
    ],
)
def test_a_database_without_its_driver(
    desk: Desk, clean_redis: str, scheme: str, parts: list[str]
) -> None:
    place = f"{scheme}://me:hush@127.0.0.1:{free_port()}/studies"
    said = refused_storage(desk, clean_redis, place, 1, *parts)
    assert "hush" not in said
    assert "None" not in said


def test_a_storage_of_no_known_kind(desk: Desk, clean_redis: str) -> None:
    said = refused_storage(
        desk, clean_redis, "mongodb://me:hush@127.0.0.1/studies", 2, "mongodb://me:***@", "journal"
    )
    assert "hush" not in said


def test_a_database_file_that_cannot_be(desk: Desk, clean_redis: str) -> None:
    place = f"sqlite:///{desk.tasks}/task.py/studies.db"
    refused_storage(desk, clean_redis, place, 1, "studies.db", "refused")


def test_a_journal_that_cannot_be(desk: Desk, clean_redis: str) -> None:
    place = f"{desk.tasks}/task.py/journal.log"
    refused_storage(desk, clean_redis, place, 1, place, "JUSTRIGHT_STORAGE")


@pytest.mark.parametrize("content", [b"notes", b"first line\nsecond", b"SQLite format 3\0\1\n\2"])
def test_a_file_that_is_no_journal_stays_as_it_is(
    desk: Desk, clean_redis: str, content: bytes
) -> None:
    path = desk.tasks / "notes"
    path.write_bytes(content)
    refused_storage(desk, clean_redis, str(path), 1, str(path), "journal")
    assert path.read_bytes() == content


def test_a_state_that_cannot_be(desk: Desk) -> None:
    task = f"{desk.tasks}/task.py"
    done = desk.refused("tune", f"{task}:Tiny", JUSTRIGHT_STATE=f"{task}/state")
    check_refused(desk, done, 1, task, "JUSTRIGHT_STATE")


# -- the user's own code, as far as a worker must have looked at it ----------------------------

UNFIT_DATA: dict[str, list[str]] = {
    "UnequalLengths": ["train_data() returned 32 inputs and 31 targets", "as many"],
    "WrongWidth": ["model()", "(32, 4)", "32x4 and 5x2"],
    "WrongType": ["loss(output, target)", "(32,)", "float32"],
}


@pytest.mark.parametrize("name", UNFIT_DATA)
def test_data_that_does_not_fit(desk: Desk, name: str) -> None:
    done = desk.run("tune", f"{desk.tasks}/task.py:{name}", "--json")
    check_refused(desk, done, 1, *UNFIT_DATA[name])


def check_their_traceback(desk: Desk, stderr: str, file: Path, *lines: str) -> None:
    """The user's traceback has their frames, and nobody else's."""
    assert stderr.count("Traceback (most recent call last)") == 1
    frames = re.findall(r'File "([^"]+)"', stderr)
    assert frames
    assert set(frames) == {str(file)}
    for line in lines:
        assert line in stderr
    desk.check_nothing_left()


def test_a_model_that_raises(desk: Desk) -> None:
    done = desk.run("tune", f"{desk.tasks}/task.py:RaisesInModel", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    check_their_traceback(
        desk, done.stderr, desk.tasks / "task.py",
        "in model", "in build_layers", "ValueError: three is no good width: 3",
    )  # fmt: skip


def test_a_file_that_raises_when_imported(desk: Desk) -> None:
    path = desk.tasks / "raises.py"
    path.write_text(f"{TASK}\ntorch.nn.Linear(-1, 2)\n")
    done = desk.run("tune", f"{path}:Tiny")
    assert done.returncode == 1
    assert done.stdout == ""
    check_their_traceback(desk, done.stderr, path, "torch.nn.Linear(-1, 2)", "RuntimeError")


def test_a_class_that_is_no_task(desk: Desk) -> None:
    done = desk.run("tune", f"{desk.tasks}/task.py:NoTask")
    check_refused(desk, done, 1, "NoTask", "justright.Task", "objective")


def test_a_module_that_ours_would_hide(desk: Desk) -> None:
    (desk.tasks / "worker.py").write_text("")
    done = desk.run("tune", f"{desk.tasks}/task.py:Tiny")
    check_refused(desk, done, 2, str(desk.tasks), "'worker'", "Rename it")


@pytest.mark.parametrize("command", ["orchestrator", "worker", "status", "dashboard", "doctor"])
def test_every_command_refuses_a_wrong_setting(command: str) -> None:
    """Before anything is started; nothing of the other settings is shown."""
    env = {"JUSTRIGHT_LOG": "loud", "JUSTRIGHT_REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"}
    done = justright(command, env=env, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: JUSTRIGHT_LOG: found 'loud', expected a level")
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    assert "hunter2" not in done.stderr
