"""Where checkpoints are kept: a folder and an object store (S3's protocol) behave alike."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

from justright.brokers.memory import MemoryBroker
from justright.errors import ArtifactError
from justright.failures import FailureKind
from justright.messages import Outcome, OutcomeKind, TrainJob, TrialWork
from justright.settings import Settings
from justright.spec import TaskRef
from worker.checkpoints.artifacts import Artifacts
from worker.jobs.channel import Channel
from worker.jobs.runner import JobRunner
from worker.user_code.permission import read_permission

KEY = "a-key-that-only-tests-know"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """A server of S3's protocol on a free port of this machine; yields its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, which the environment's credentials open."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    name = f"bucket-{secrets.token_hex(4)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["folder", "new folder", "file URL", "s3", "s3 path"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param.startswith("s3"):
        bucket = request.getfixturevalue("bucket")
        return f"s3://{bucket}/some/where/" if "path" in request.param else f"s3://{bucket}"
    folder = tmp_path if request.param == "folder" else tmp_path / "not yet" / "thére"
    return f"file://{folder}" if "URL" in request.param else str(folder)


# -- what both promise -----------------------------------------------------------------------------


def test_what_is_written_is_read_by_others(place: str) -> None:
    content = bytes(range(256)) * 1000
    writer, reader = Artifacts(place), Artifacts(place)
    assert reader.names("study/3") == []
    writer.write("study/3/000012.pt", content)
    assert reader.read("study/3/000012.pt") == content
    assert reader.names("study/3") == ["study/3/000012.pt"]
    assert writer.read("study/3/000012.pt") == content


def test_writing_again_replaces(place: str) -> None:
    artifacts = Artifacts(place)
    for content in (b"first", b"", b"second, and longer"):
        artifacts.write("s/0/a.pt", content)
        assert artifacts.read("s/0/a.pt") == content
        assert artifacts.names("s/0") == ["s/0/a.pt"]


def test_the_names_of_a_folder_are_sorted_and_only_its_own(place: str) -> None:
    artifacts = Artifacts(place)
    for name in ("s/1/b.pt", "s/1/a.pt", "s/1/c.pt", "s/10/d.pt", "s-2/1/e.pt", "t.pt"):
        artifacts.write(name, b"x")
    assert artifacts.names("s/1") == ["s/1/a.pt", "s/1/b.pt", "s/1/c.pt"]
    assert artifacts.names("s/10") == ["s/10/d.pt"]
    assert artifacts.names("s/2") == []
    assert artifacts.names("nothing") == []


def test_what_is_removed_is_gone_and_nothing_else(place: str) -> None:
    artifacts = Artifacts(place)
    others = ["s/1/b.pt", "s/10/a.pt", "s/1.pt", "s1/1/a.pt", "s/1/a.pt.old"]
    for name in ("s/1/a.pt", *others):
        artifacts.write(name, name.encode())
    artifacts.remove("s/1/a.pt")
    assert artifacts.names("s/1") == ["s/1/a.pt.old", "s/1/b.pt"]
    artifacts.remove("s/1")
    assert artifacts.names("s/1") == []
    assert {name: artifacts.read(name) for name in others[1:4]} == {
        name: name.encode() for name in others[1:4]
    }
    artifacts.remove("s")
    assert artifacts.names("s/10") == []
    assert artifacts.read("s1/1/a.pt") == b"s1/1/a.pt"


def test_what_is_not_there_is_removed_already(place: str) -> None:
    artifacts = Artifacts(place)
    artifacts.remove("s/0/a.pt")
    artifacts.remove("s")
    artifacts.write("s/0/a.pt", b"x")
    artifacts.remove("s/0/b.pt")
    artifacts.remove("s/0/a")
    assert artifacts.names("s/0") == ["s/0/a.pt"]


def test_reading_what_is_not_there(place: str) -> None:
    with pytest.raises(ArtifactError, match="cannot read checkpoints in "):
        Artifacts(place).read("s/0/a.pt")


@pytest.mark.parametrize(
    "name", ["", "..", "../a.pt", "s/../../a.pt", "/a.pt", "s//a.pt", ".", "s/"]
)
def test_a_name_that_leads_elsewhere(place: str, name: str) -> None:
    artifacts = Artifacts(place)
    for call in (
        artifacts.read,
        artifacts.names,
        artifacts.remove,
        lambda n: artifacts.write(n, b""),
    ):
        with pytest.raises(ArtifactError, match="is no name"):
            call(name)


# -- a folder alone --------------------------------------------------------------------------------


def test_what_a_kill_left_behind_does_not_count(tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))
    artifacts.write("s/0/a.pt", b"x")
    (tmp_path / "s" / "0" / "b.pt.01ab23cd.part").write_bytes(b"half")
    assert artifacts.names("s/0") == ["s/0/a.pt"]
    artifacts.remove("s/0")
    assert list((tmp_path / "s").iterdir()) == []


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = Artifacts(str(tmp_path))
    artifacts.write("s/0/a.pt", b"before")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match=f"cannot write checkpoints in {tmp_path}: No space"):
        artifacts.write("s/0/a.pt", b"after")
    assert [path.name for path in (tmp_path / "s" / "0").iterdir()] == ["a.pt"]
    assert artifacts.read("s/0/a.pt") == b"before"


def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Artifacts("~/kept").write("s/0/a.pt", b"x")
    assert (tmp_path / "kept" / "s" / "0" / "a.pt").read_bytes() == b"x"


def test_others_do_not_read_them(tmp_path: Path) -> None:
    Artifacts(str(tmp_path / "kept")).write("s/0/a.pt", b"x")
    assert (tmp_path / "kept" / "s" / "0").stat().st_mode & 0o077 == 0


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    artifacts = Artifacts(str(tmp_path / "file"))
    with pytest.raises(ArtifactError, match=f"cannot write checkpoints in {tmp_path}/file: "):
        artifacts.write("s/0/a.pt", b"x")
    with pytest.raises(ArtifactError):
        artifacts.read("s/0/a.pt")


# -- places that are none --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["nosuch://x", "nosuch://user:geheim@host/x", "github://x", "ftp://user:geheim@127.0.0.1:1/x"],
)
def test_a_place_of_no_use(place: str) -> None:
    with pytest.raises(ArtifactError, match="JUSTRIGHT_ARTIFACTS: found ") as caught:
        Artifacts(place)
    assert "expected a folder or a URL such as s3://BUCKET/PATH" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    artifacts = Artifacts(f"s3://{bucket}-none/x")
    for call in (artifacts.read, lambda n: artifacts.write(n, b"")):
        with pytest.raises(
            ArtifactError, match=rf"checkpoints in s3://{bucket}-none/x: "
        ) as caught:
            call("s/0/a.pt")
        assert KEY not in str(caught.value)
        assert "\n" not in str(caught.value)


# -- a training ------------------------------------------------------------------------------------


TASK = """
import torch

import justright


class Tiny(justright.Task):
    epochs = 3
    batch_size = 8

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5),
                                   torch.nn.Linear(4, 2))

    def train_data(self):
        inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        return inputs, (inputs.sum(1) > 0).long()
"""


def train(task: Path, place: str, attempt: int, batches: int | None = None) -> Outcome:
    """One attempt, given back after so many batches, by a worker that has nothing in memory."""
    broker = MemoryBroker()
    channel = Channel(broker)
    left = [batches or 10**9]

    def alive() -> None:
        left[0] -= torch.is_grad_enabled()  # those of the validation do not count here
        if left[0] == 0 and torch.is_grad_enabled():
            channel.leave("the worker was asked to leave", FailureKind.RETURNED)

    settings = Settings.model_validate({"artifacts": place})
    runner = JobRunner(channel, read_permission([str(task.parent)], False), settings, alive)
    work = TrialWork(number=0, lr=0.1, seed=0, attempt=attempt)
    target = TaskRef(target=f"{task}:Tiny")
    runner.run(TrainJob(id="j", study="s", task=target, checkpoint_prefix="s-1", trials=(work,)))
    outcome = broker.receive(0)[-1]
    assert isinstance(outcome, Outcome)
    return outcome


def test_a_training_goes_on_from_an_object_store(
    bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = tmp_path / "tiny_on_s3.py"
    task.write_text(TASK)
    place = f"s3://{bucket}/checkpoints"
    whole = train(task, str(tmp_path / "elsewhere"), attempt=1)
    assert whole.kind is OutcomeKind.COMPLETE
    left = train(task, place, attempt=1, batches=8)
    assert (left.kind, left.step) == (OutcomeKind.FAILED, 1)
    assert left.failure is not None
    assert left.failure.kind is FailureKind.RETURNED
    assert len(Artifacts(place).names("s-1/0")) == 1
    with caplog.at_level("INFO"):
        ended = train(task, place, attempt=2)
    [event] = [one for one in caplog.records if one.getMessage() == "trial goes on"]
    assert vars(event)["about"]["step"] == 1
    assert ended.kind is OutcomeKind.COMPLETE
    assert ended.losses == whole.losses
    assert Artifacts(place).names("s-1/0") == []
