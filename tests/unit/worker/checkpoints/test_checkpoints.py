"""A training that is interrupted goes on to the same losses and the same weights, bit for bit."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from justright.brokers.memory import MemoryBroker
from justright.errors import ArtifactError
from justright.failures import FailureKind
from justright.messages import Decision, Outcome, OutcomeKind, Report, TidyJob, TrainJob, TrialWork
from justright.settings import Settings
from justright.spec import TaskRef
from justright.task import Task
from tests.helpers.commands import EXAMPLES
from worker.checkpoints.artifacts import Artifacts
from worker.checkpoints.format import Damaged, pack, unpack
from worker.checkpoints.store import Checkpoints
from worker.jobs.channel import Channel
from worker.jobs.runner import JobRunner
from worker.lanes.randomness import random_state
from worker.lanes.trial import TrialTraining
from worker.training.trainer import Taken, TaskTrainer
from worker.user_code.loading import load
from worker.user_code.permission import read_permission

CPU = torch.device("cpu")
EPOCHS = 3
Place = tuple[int, int]  # (whole epochs, batches of the next one)
Losses = list[tuple[float | None, float | None]]


def work(lr: float = 0.02, seed: int = 3, attempt: int = 1, number: int = 0) -> TrialWork:
    return TrialWork(number=number, lr=lr, seed=seed, attempt=attempt)


def checkpoints(folder: Path, attempt: int = 1, every: float = 1e9) -> Checkpoints:
    return Checkpoints(Artifacts(str(folder)), "s/0", attempt, every)


def stir() -> None:
    """What another process, or another trial in this one, does to the generators."""
    for generator in (random, np.random, torch):
        generator.manual_seed(99) if generator is torch else generator.seed(99)


def train_until(
    trainer: TaskTrainer, trial: TrialTraining, interrupted: Callable[[], bool]
) -> Taken | None:
    """The rest of an epoch, or until it is interrupted between two batches."""
    results = trainer.train_lanes(trainer.lanes([trial]), interrupted)
    return results[0] if results else None


def go_on(trainer: TaskTrainer, trial: TrialTraining, stops: set[Place]) -> tuple[Losses, bool]:
    """Train to the first of these places, or to the end (then True)."""
    losses: Losses = []
    while trial.mark < trainer.steps:
        result = train_until(trainer, trial, lambda: (trial.epoch, trial.batch) in stops)
        if result is None:
            trial.random = random_state()
            return losses, False
        losses.append((result.loss, result.train_loss))
        if (trial.epoch, 0) in stops:
            return losses, False
    return losses, True


def with_stops(
    make: Callable[[], TaskTrainer], folder: Path, stops: set[Place]
) -> tuple[Losses, TrialTraining, int]:
    """Train, with a new trainer and a restored state after each stop; the last: how many."""
    kept = checkpoints(folder)
    trainer = make()
    trial = trainer.start(work())
    losses, count = [], 0
    while True:
        more, ended = go_on(trainer, trial, stops)
        losses += more
        if ended:
            return losses, trial, count
        count += 1
        assert kept.save(trial.state(), trial.mark, trial.step)
        stir()
        trainer = make()
        stir()
        trial = trainer.start(work())
        trial.restore(next(kept.states()))


def assert_equal(one: Any, other: Any, place: str = "") -> None:
    """Tensors and plain values, the same bit for bit."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, place
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{place}.{index}")
    else:
        assert one == other, place


def timeless(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != "seconds"}


def check_goes_on(make: Callable[[], TaskTrainer], folder: Path, stops: set[Place]) -> None:
    whole, trained, _ = with_stops(make, folder / "whole", set())
    assert len(whole) == EPOCHS
    stir()
    losses, continued, count = with_stops(make, folder / "stops", stops)
    assert count == len(stops)
    assert losses == whole
    assert_equal(timeless(trained.state()), timeless(continued.state()))


def example(name: str, **settings: Any) -> Task:
    found = load(TaskRef(target=f"{EXAMPLES}/{name}", arguments=settings))
    assert isinstance(found, Task)
    return found


def test_an_example_goes_on(tmp_path: Path) -> None:
    task = example("digits.py:Digits", optimizer="adam", schedule="cosine", batch_size=128)
    check_goes_on(lambda: TaskTrainer(task, CPU, EPOCHS), tmp_path, {(0, 7), (1, 0), (2, 9)})


def test_at_every_batch(tmp_path: Path) -> None:
    task = example("diabetes.py:Diabetes", optimizer="adamw", batch_size=64)
    stops = {(epoch, batch) for epoch in range(EPOCHS) for batch in range(6)} - {(0, 0)}
    check_goes_on(lambda: TaskTrainer(task, CPU, EPOCHS), tmp_path, stops)


# -- data with randomness of its own ---------------------------------------------------------------


class Noisy(Dataset[Any]):
    """Draws from all three generators for each sample."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = torch.rand(4) + float(np.random.normal()) + random.random()
        return noise + index, index % 2


class NoisyTask(Task):
    epochs = EPOCHS
    optimizer = "adam"
    workers = 0
    own_generator = stay = False

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3),
            torch.nn.Linear(8, 2),
        )  # fmt: skip

    def train_data(self) -> Any:
        generator = torch.Generator() if self.own_generator else None
        return DataLoader(
            Noisy(), batch_size=5, shuffle=True, num_workers=self.workers, generator=generator,
            persistent_workers=self.stay,
        )  # fmt: skip

    def validation_data(self) -> Any:
        return DataLoader(Noisy(), batch_size=15)


@pytest.mark.parametrize("settings", [{}, {"own_generator": True}])
def test_random_augmentation(settings: dict[str, Any], tmp_path: Path) -> None:
    task = NoisyTask(**settings)
    stops = {(0, 3), (1, 0), (1, 1), (2, 5)}
    check_goes_on(lambda: TaskTrainer(task, CPU), tmp_path, stops)


def test_a_plain_dataset(tmp_path: Path) -> None:
    class Plain(NoisyTask):
        batch_size = 7

        def train_data(self) -> Any:
            return Noisy()

    check_goes_on(lambda: TaskTrainer(Plain(), CPU), tmp_path, {(0, 3), (1, 0), (2, 4)})


def test_saving_on_the_way_changes_nothing(tmp_path: Path) -> None:
    """A checkpoint may be written at any batch of a training that goes on."""
    trainer = TaskTrainer(NoisyTask(), CPU)
    whole, trained, _ = with_stops(lambda: trainer, tmp_path / "whole", set())
    kept = checkpoints(tmp_path / "kept")
    trial = trainer.start(work())

    def save() -> bool:
        trial.random = random_state()
        assert kept.save(trial.state(), trial.mark, trial.step)
        trial.random = {}
        return False

    losses = [train_until(trainer, trial, save) for _ in range(EPOCHS)]
    assert [(result.loss, result.train_loss) for result in losses if result] == whole
    assert_equal(timeless(trial.state()), timeless(trained.state()))


# -- the files -------------------------------------------------------------------------------------


def a_state(epoch: int = 1) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"w": torch.arange(5.0)}, "losses": {1: 0.5, 2: None}}


def test_what_was_packed_is_unpacked() -> None:
    state = a_state() | {"random": random_state(), "total": torch.tensor(0.1), "nothing": None}
    assert_equal(unpack(pack(state)), state)


def test_two_are_kept(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path)
    places = [(0, 9), (0, 10), (1, 0), (1, 2), (9, 100), (10, 1), (11, 0)]
    for count, (epoch, batch) in enumerate(places, start=1):
        assert kept.save(a_state(count), epoch, batch)
        assert len(list((tmp_path / "s" / "0").iterdir())) == min(count, 2)
        assert [state["epoch"] for state in kept.states()] == [count, count - 1][:count]
    kept.clear()
    assert not (tmp_path / "s" / "0").exists()
    assert list(kept.states()) == []


def test_what_a_kill_left_behind_is_no_checkpoint(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path)
    kept.save(a_state(1), 1, 0)
    [path] = (tmp_path / "s" / "0").iterdir()
    path.with_name(f"{path.name}.00ff00ff.part").write_bytes(pack(a_state(2))[:50])
    path.with_name("9999-00000009-0000000000.pt.00ff00ff.part").write_bytes(pack(a_state(3)))
    (path.parent / "notes.txt").write_text("somebody's")
    assert [state["epoch"] for state in kept.states()] == [1]
    kept.save(a_state(4), 4, 0)
    kept.save(a_state(5), 5, 0)
    assert [state["epoch"] for state in kept.states()] == [5, 4]
    assert (path.parent / "notes.txt").exists()


def test_a_worker_that_was_taken_for_dead_disturbs_nobody(tmp_path: Path) -> None:
    """It still writes its own; the next attempt's are the ones that count."""
    first, second = checkpoints(tmp_path, attempt=1), checkpoints(tmp_path, attempt=2)
    first.save(a_state(1), 5, 0)
    for step in range(1, 4):
        second.save(a_state(100 + step), step, 0)
        first.save(a_state(step), 5 + step, 0)
        assert next(checkpoints(tmp_path, attempt=3).states())["epoch"] == 100 + step


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_when_one_is_due(tmp_path: Path, every: float) -> None:
    kept = checkpoints(tmp_path, every=every)
    assert kept.due is (every == 0.0)
    kept._cost = 1e6  # a store that takes days is not asked again at once
    assert not kept.due


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.place,)


def signed(content: bytes) -> bytes:
    """Anything, with the head of a checkpoint and its right checksum."""
    return (
        b"justright checkpoint 1 " + hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    )


def torched(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def flipped(raw: bytes, at: float) -> bytes:
    place = int(at * (len(raw) - 1))
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


DAMAGE: dict[str, Callable[[bytes, Path], bytes]] = {
    "a bit of the head": lambda raw, mark: flipped(raw, 0.0),
    "a bit of the checksum": lambda raw, mark: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:],
    "a bit in the middle": lambda raw, mark: flipped(raw, 0.5),
    "the last bit": lambda raw, mark: flipped(raw, 1.0),
    "cut off": lambda raw, mark: raw[: len(raw) // 2],
    "without its last byte": lambda raw, mark: raw[:-1],
    "longer": lambda raw, mark: raw + b"\0",
    "only the head": lambda raw, mark: raw[: raw.index(b"\n") + 1],
    "empty": lambda raw, mark: b"",
    "zeros": lambda raw, mark: bytes(len(raw)),
    "another program's": lambda raw, mark: torched(a_state()),
    "a list": lambda raw, mark: signed(torched([1, 2, 3])),
    "no file of torch": lambda raw, mark: signed(b"whatever"),
    "nothing, with its checksum": lambda raw, mark: signed(b""),
    "a bomb": lambda raw, mark: pickle.dumps(Bomb(mark)),
    "a bomb with a checksum": lambda raw, mark: signed(pickle.dumps(Bomb(mark))),
    "a bomb in torch's format": lambda raw, mark: signed(torched({"model": Bomb(mark)})),
    "a bomb in torch's old format": lambda raw, mark: signed(
        torched({"model": Bomb(mark)}, _use_new_zipfile_serialization=False)
    ),
}
EACH_DAMAGE = pytest.mark.parametrize("damage", DAMAGE)


@EACH_DAMAGE
@pytest.mark.filterwarnings("ignore")  # torch warns of an old format of its own
def test_what_is_damaged_is_not_unpacked(damage: str, tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        unpack(DAMAGE[damage](pack(a_state()), tmp_path / "it ran"))
    assert not (tmp_path / "it ran").exists()


def test_the_bomb_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "it ran")))
    assert (tmp_path / "it ran").is_dir()


# -- in a worker -----------------------------------------------------------------------------------

TASK = """
import torch

import justright


class Tiny(justright.Task):
    epochs = 4
    batch_size = 8
    optimizer = "adam"
    hidden = 6

    def model(self):
        return torch.nn.Sequential(
            torch.nn.Linear(4, self.hidden), torch.nn.BatchNorm1d(self.hidden),
            torch.nn.Dropout(0.4), torch.nn.Linear(self.hidden, 2),
        )

    def train_data(self):
        inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        return inputs, (inputs.sum(1) > 0).long()


class Strange(Tiny):
    def optimizer(parameters, lr):
        made = torch.optim.SGD(parameters, lr=lr)
        made.param_groups[0]["note"] = lambda: None  # nothing that a file can hold
        return made
"""
BATCHES = 5  # of an epoch
PLACE = "s-1"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_for_checkpoints.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is due always."""
    monkeypatch.setattr(Checkpoints, "due", property(lambda self: True))


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> list[Place]:
    """The places from which trainings went on."""
    places: list[Place] = []
    restore = TrialTraining.restore

    def noting(self: TrialTraining, state: dict[str, Any]) -> None:
        restore(self, state)
        places.append((self.epoch, self.batch))

    monkeypatch.setattr(TrialTraining, "restore", noting)
    return places


@dataclass
class Ended:
    """What came of one attempt of each trial of a job."""

    outcomes: list[Outcome]
    reports: dict[int, list[tuple[int, float | None]]] = field(default_factory=dict)

    @property
    def only(self) -> Outcome:
        [outcome] = self.outcomes
        return outcome

    def returned(self) -> bool:
        return all(
            one.kind is OutcomeKind.FAILED
            and one.failure is not None
            and one.failure.kind is FailureKind.RETURNED
            for one in self.outcomes
        )


def run(
    task: Path,
    folder: Path,
    *works: TrialWork,
    leave: int = 10**9,
    decision: Decision | None = None,
    until: int | None = None,
    name: str = "Tiny",
    **arguments: Any,
) -> Ended:
    """A job in a worker that has nothing in memory; ``leave``: after so many signs of life."""
    broker = MemoryBroker()
    channel = Channel(broker)
    left = [leave]

    def alive() -> None:
        left[0] -= torch.is_grad_enabled()  # those of the validation do not count here
        if left[0] == 0 and torch.is_grad_enabled():
            channel.leave("the worker was asked to leave", FailureKind.RETURNED)
        channel.flush()  # so that a decision is heard in the next epoch at the latest

    if decision is not None:
        broker.decide("s", {one.number: decision for one in works})
    settings = Settings.model_validate({"artifacts": str(folder)})
    runner = JobRunner(channel, read_permission([str(task.parent)], False), settings, alive)
    stir()
    ref = TaskRef(target=f"{task}:{name}", arguments=arguments)
    runner.run(
        TrainJob(id="j", study="s", task=ref, until=until, checkpoint_prefix=PLACE, trials=works)
    )
    ended = Ended([])
    for event in broker.receive(0):
        if isinstance(event, Report):
            ended.reports.setdefault(event.trial, []).append((event.step, event.loss))
        elif isinstance(event, Outcome):
            ended.outcomes.append(event)
    ended.outcomes.sort(key=lambda outcome: outcome.trial)
    return ended


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The training that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "tiny_for_checkpoints.py"
    path.write_text(TASK)
    ended = run(path, folder / "kept", work())
    assert ended.only.kind is OutcomeKind.COMPLETE
    assert len(ended.only.losses) == 4
    return ended


def names(folder: Path, trial: int = 0) -> list[str]:
    return Artifacts(str(folder)).names(f"{PLACE}/{trial}")


@pytest.mark.parametrize("leave", [1, 4, 5, 6, 13, 19])
def test_a_worker_that_leaves_gives_back_what_another_goes_on_with(
    task: Path, whole: Ended, tmp_path: Path, restored: list[Place], leave: int
) -> None:
    """A sign of life comes with each batch but an epoch's last, and with each report."""
    folder = tmp_path / "kept"
    left = run(task, folder, work(), leave=leave)
    assert left.returned()
    epoch, batch = divmod(leave, BATCHES)
    assert left.only.step == epoch
    assert left.only.losses == whole.only.losses[:epoch]
    assert len(names(folder)) == 1
    ended = run(task, folder, work(attempt=2))
    assert restored == [(epoch, batch)]
    assert ended.only.kind is OutcomeKind.COMPLETE
    assert ended.only.losses == whole.only.losses
    assert ended.reports[0] == whole.reports[0][epoch:], "what was reported is not trained again"
    assert names(folder) == []


def test_many_that_leave(task: Path, whole: Ended, tmp_path: Path, restored: list[Place]) -> None:
    folder = tmp_path / "kept"
    attempt = 1
    while not (ended := run(task, folder, work(attempt=attempt), leave=2)).only.losses[3:]:
        assert ended.returned()
        attempt += 1
    assert ended.only.losses == whole.only.losses
    assert attempt > 5
    assert len(restored) == attempt - 1
    assert restored == sorted(set(restored))


def test_trials_side_by_side(task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    works = [work(number=0), work(number=1, lr=0.1), work(number=2, seed=4)]
    whole = run(task, tmp_path / "whole", *works)
    left = run(task, folder, *works, leave=18)
    assert left.returned()
    assert [len(names(folder, trial)) for trial in range(3)] == [1, 1, 1]
    again = [one.model_copy(update={"attempt": 2}) for one in works]
    ended = run(task, folder, *again)
    assert [one.losses for one in ended.outcomes] == [one.losses for one in whole.outcomes]
    assert [names(folder, trial) for trial in range(3)] == [[], [], []]


def test_paused_and_resumed(
    task: Path, whole: Ended, tmp_path: Path, restored: list[Place]
) -> None:
    folder = tmp_path / "kept"
    decision = Decision(attempt=1, action="pause", reason="asked to")
    paused = run(task, folder, work(), decision=decision)
    assert paused.only.kind is OutcomeKind.PAUSED
    assert paused.only.failure is None
    assert 1 <= paused.only.step <= 2
    assert len(names(folder)) == 1
    ended = run(task, folder, work(attempt=2), decision=decision)
    assert ended.only.kind is OutcomeKind.COMPLETE, "the decision was for another attempt"
    assert restored == [(paused.only.step, 0)]
    assert ended.only.losses == whole.only.losses


def test_from_rung_to_rung(task: Path, whole: Ended, tmp_path: Path, restored: list[Place]) -> None:
    folder = tmp_path / "kept"
    for attempt, until in enumerate((1, 3), start=1):
        paused = run(task, folder, work(attempt=attempt), until=until)
        assert (paused.only.kind, paused.only.step) == (OutcomeKind.PAUSED, until)
        assert paused.only.losses == whole.only.losses[:until]
    ended = run(task, folder, work(attempt=3), until=4)
    assert ended.only.kind is OutcomeKind.COMPLETE
    assert restored == [(1, 0), (3, 0)]
    assert ended.only.losses == whole.only.losses
    assert names(folder) == []


def test_a_trial_that_has_ended_keeps_none(
    task: Path, tmp_path: Path, each_batch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kept"
    written: list[str] = []
    write = Artifacts.write

    def noting(self: Artifacts, name: str, content: bytes) -> None:
        write(self, name, content)
        written.append(name)

    monkeypatch.setattr(Artifacts, "write", noting)
    stop = Decision(attempt=1, action="stop", reason="worse")
    kinds = [
        run(task, folder, work()).only.kind,
        run(task, folder, work(), decision=stop).only.kind,
        run(task, folder, work(lr=1e30)).only.kind,
    ]
    assert kinds == [OutcomeKind.COMPLETE, OutcomeKind.STOPPED, OutcomeKind.DIVERGED]
    assert len(written) > 20
    assert not (folder / PLACE / "0").exists()


def test_a_study_that_has_ended_keeps_none(task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    run(task, folder, work(number=0), work(number=1), leave=3)
    assert names(folder, 0)
    broker = MemoryBroker()
    settings = Settings.model_validate({"artifacts": str(folder)})
    runner = JobRunner(Channel(broker), read_permission([str(task.parent)], False), settings)
    ref = TaskRef(target=f"{task}:Tiny")
    runner.run(TidyJob(id="j", study="s", task=ref, checkpoint_prefix=PLACE))
    assert not (folder / PLACE).exists()
    assert broker.receive(0) == []


# -- checkpoints of no use -------------------------------------------------------------------------


SOME = ["a bit in the middle", "cut off", "a list", "a bomb with a checksum"]


@pytest.mark.parametrize("damage", SOME)
@pytest.mark.usefixtures("each_batch")
def test_the_one_before_is_used(
    task: Path, whole: Ended, tmp_path: Path, restored: list[Place],
    caplog: pytest.LogCaptureFixture, damage: str,
) -> None:  # fmt: skip
    check_damage(task, whole, tmp_path, restored, caplog, damage)


def check_damage(
    task: Path, whole: Ended, tmp_path: Path, restored: list[Place],
    caplog: pytest.LogCaptureFixture, damage: str,
) -> None:  # fmt: skip
    """The training goes on from the checkpoint before the damaged one."""
    folder, mark = tmp_path / "kept", tmp_path / "it ran"
    assert run(task, folder, work(), leave=8).returned()
    before, last = names(folder)
    path = folder / last
    path.write_bytes(DAMAGE[damage](path.read_bytes(), mark))
    with caplog.at_level(logging.WARNING):
        ended = run(task, folder, work(attempt=2))
    assert f"checkpoint {last} cannot be used: " in caplog.text
    assert before not in caplog.text
    assert restored == [(1, 2)]
    assert ended.only.kind is OutcomeKind.COMPLETE
    assert ended.only.losses == whole.only.losses
    assert not mark.exists()
    assert names(folder) == []


def test_none_that_is_left(task: Path, whole: Ended, tmp_path: Path, each_batch: None) -> None:
    folder = tmp_path / "kept"
    run(task, folder, work(), leave=8)
    for name in names(folder):
        (folder / name).write_bytes(b"")
    ended = run(task, folder, work(attempt=2))
    assert ended.reports == whole.reports
    assert ended.only.losses == whole.only.losses


def test_that_of_another_trial_is_not_used(
    task: Path, whole: Ended, tmp_path: Path, each_batch: None, restored: list[Place],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It is whole; it only lies in the wrong place."""
    folder = tmp_path / "kept"
    run(task, folder, work(), leave=8)
    run(task, folder, work(number=1, lr=0.5), leave=8)
    other = (folder / names(folder, 1)[-1]).read_bytes()
    (folder / names(folder, 0)[-1]).write_bytes(other)
    ended = run(task, folder, work(attempt=2))
    assert "a checkpoint of trial 0 does not fit: it is of another trial: lr 0.5" in caplog.text
    assert restored == [(1, 2)]
    assert ended.only.losses == whole.only.losses


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another rate": ({"lr": 0.03}, {}),
    "another seed": ({"seed": 4}, {}),
    "a wider model": ({}, {"hidden": 7}),
    "another optimizer": ({}, {"optimizer": "sgd"}),
    "a similar optimizer": ({}, {"optimizer": "adamw"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_not_used(
    task: Path, tmp_path: Path, each_batch: None, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    """The trial begins anew, and the checkpoints that it writes then are those that count."""
    folder = tmp_path / "kept"
    trial, arguments = CHANGES[change]
    whole = run(task, tmp_path / "whole", work(**trial), **arguments)
    run(task, folder, work(), leave=18)
    with caplog.at_level(logging.INFO):
        left = run(task, folder, work(attempt=2, **trial), leave=8, **arguments)
    assert caplog.text.count("a checkpoint of trial 0 does not fit: ") == 2
    assert "goes on" not in caplog.text
    assert left.returned()
    assert left.reports[0] == whole.reports[0][:1]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        ended = run(task, folder, work(attempt=3, **trial), **arguments)
    [event] = [one for one in caplog.records if one.getMessage() == "trial goes on"]
    assert vars(event)["about"]["step"] == 1
    assert ended.reports[0] == whole.reports[0][1:]
    assert ended.only.losses == whole.only.losses


def test_a_first_attempt_asks_for_none(task: Path, tmp_path: Path, restored: list[Place]) -> None:
    folder = tmp_path / "kept"
    run(task, folder, work(), leave=8)
    run(task, folder, work())
    assert restored == []


# -- a place that refuses --------------------------------------------------------------------------


def read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def refuse(self: Artifacts, name: str, content: bytes) -> None:
        raise ArtifactError("cannot write checkpoints in /kept: Read-only file system")

    monkeypatch.setattr(Artifacts, "write", refuse)
    return tmp_path / "kept"


def a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("somebody's")
    return tmp_path / "file"


def a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    return tmp_path / "kept"


@pytest.mark.parametrize("refusing", [read_only, a_file, a_full_disk])
def test_a_place_that_refuses_costs_only_checkpoints(
    task: Path, whole: Ended, tmp_path: Path, each_batch: None, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, refusing: Callable[[pytest.MonkeyPatch, Path], Path],
) -> None:  # fmt: skip
    folder = refusing(monkeypatch, tmp_path)
    caplog.clear()
    ended = run(task, folder, work())
    assert ended.only.kind is OutcomeKind.COMPLETE
    assert ended.only.losses == whole.only.losses
    assert "no checkpoint: cannot write checkpoints in " in caplog.text
    assert run(task, folder, work(attempt=2), leave=8).returned()
    assert run(task, folder, work(attempt=3)).only.losses == whole.only.losses


def test_a_state_that_no_file_can_hold(
    task: Path, tmp_path: Path, each_batch: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's own optimizer may keep anything: its trainings go on without checkpoints."""
    ended = run(task, tmp_path / "kept", work(), name="Strange")
    assert ended.only.kind is OutcomeKind.COMPLETE
    assert "no checkpoint: its state cannot be saved: " in caplog.text


def test_a_study_without_a_place_keeps_none(task: Path, tmp_path: Path) -> None:
    broker = MemoryBroker()
    settings = Settings.model_validate({"artifacts": str(tmp_path / "kept")})
    runner = JobRunner(Channel(broker), read_permission([str(task.parent)], False), settings)
    runner.run(TrainJob(id="j", study="s", task=TaskRef(target=f"{task}:Tiny"), trials=(work(),)))
    outcome = broker.receive(0)[-1]
    assert isinstance(outcome, Outcome)
    assert outcome.kind is OutcomeKind.COMPLETE
    assert not (tmp_path / "kept").exists()
