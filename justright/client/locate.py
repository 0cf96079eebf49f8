"""Where studies are: on the service that the settings name, in a ``tune`` that runs, or kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.client.asking import ask, new_id
from justright.client.submit import unknown_study
from justright.errors import RedisUnavailable, UsageError
from justright.lifecycle import STUDY_ACTIVE, STUDY_FINISHED, StudyState
from justright.local.study_folder import LocalStudy, local_studies
from justright.messages import Cancel, Delete, Pause, Resume, Snapshot, WorkerInfo
from justright.settings import Settings, load_settings
from justright.signing import Signer


@dataclass
class Overview:
    """What ``status`` shows."""

    snapshots: list[Snapshot] = field(default_factory=list)
    workers: list[WorkerInfo] = field(default_factory=list)
    leader: str | None = None

    @property
    def active(self) -> bool:
        """Whether any study has not ended."""
        return any(snapshot.state in STUDY_ACTIVE for snapshot in self.snapshots)

    def add(self, broker: RedisBroker, only: str | None) -> None:
        """Add what a Redis shows."""
        names = broker.studies() if only is None else [only]
        found = (broker.snapshot(name) for name in names)
        self.snapshots += [snapshot for snapshot in found if snapshot is not None]
        self.workers += broker.workers()
        self.leader = self.leader or broker.leader()


def gather(study: str | None) -> Overview:
    """Everything, or one study (then ``snapshots`` has exactly that one).

    Raises:
        UsageError: there is no such study.
        RedisUnavailable: a Redis was named in the settings and does not answer.
    """
    settings = load_settings()
    overview = Overview()
    for local in local_studies(settings):
        if study in (None, local.name):
            _add_local(overview, local)
    if settings.redis_given and not (study and overview.snapshots):
        overview.add(connect_service(settings), study)
    elif not settings.redis_given:
        _add_default_service(overview, settings, study)
    if study is not None and not overview.snapshots:
        raise unknown_study(study, _known_names(settings))
    return overview


def _known_names(settings: Settings) -> list[str]:
    """Names of all studies, for the error about one that is not among them."""
    overview = Overview()
    _add_default_service(overview, settings, None)
    names = {local.name for local in local_studies(settings)}
    return sorted(names | {snapshot.study for snapshot in overview.snapshots})


def send_command(message: Cancel | Pause | Resume) -> None:
    """Tell the orchestrator of a study, where it runs, to cancel, pause or resume it.

    Raises:
        UsageError: there is no such study, it does not run, or it has ended.
        JustrightError: the orchestrator refused it, or nobody answers.
    """
    study = message.study
    snapshot = gather(study).snapshots[0]
    if snapshot.state in STUDY_FINISHED:
        raise UsageError(f"study {study} has ended already ({snapshot.state}).")
    if isinstance(message, Resume) and snapshot.state != StudyState.PAUSED:
        raise UsageError(f"study {study} is not paused ({snapshot.state}).")
    settings = load_settings()
    local = LocalStudy(settings, study)
    broker = _connect_running(local)
    if broker is None and local.journal.is_file():
        raise UsageError(f"study {study} does not run: {_interrupted(study)}")
    ask(broker or connect_service(settings, signs=True), message)


def delete(study: str) -> None:
    """Remove a study that has ended, with its checkpoints: one of ``tune`` or one of the service.

    Raises:
        UsageError: there is no such study, or it still runs.
        JustrightError: the orchestrator refused it, or nobody answers.
    """
    gather(study)
    settings = load_settings()
    local = LocalStudy(settings, study)
    if not local.journal.is_file():
        ask(connect_service(settings, signs=True), Delete(id=new_id(), study=study))
        return
    local.open()  # refused while its tune runs
    local.discard()


def find_resting(study: str) -> Snapshot | None:
    """A study of ``tune`` that was ended or paused and does not run, as it was kept.

    Raises:
        UsageError: there is no such study.
    """
    snapshot = gather(study).snapshots[0]
    local = LocalStudy(load_settings(), study)
    return snapshot if local.journal.is_file() and _connect_running(local) is None else None


def _interrupted(study: str) -> str:
    return f"its tune was ended. It is kept: justright resume {study} goes on with it."


def connect_service(
    settings: Settings, *, signs: bool = False, patient: bool = False
) -> RedisBroker:
    """The Redis that the settings name. ``signs``: commands shall be sent there.

    Raises:
        UsageError: ``signs``, and there is no secret.
        RedisUnavailable: it does not answer.
    """
    signer = settings.signer() if signs else None
    client = connect(
        settings.redis_url.get_secret_value(), patient=patient, writes="commands" if signs else None
    )
    return RedisBroker(client, signer)


def _connect_running(local: LocalStudy) -> RedisBroker | None:
    url = local.connection()
    if url is None:
        return None
    try:
        return RedisBroker(connect(url, patient=False), Signer(local.secret()))
    except RedisUnavailable:
        return None  # its tune was killed and could not tidy up


def _add_local(overview: Overview, local: LocalStudy) -> None:
    running = _connect_running(local)
    if running is not None:
        overview.add(running, local.name)
        return
    snapshot = local.recall()
    if snapshot is None:
        return
    if snapshot.state in STUDY_ACTIVE:
        state = StudyState.INTERRUPTED
        answer = snapshot.answer and snapshot.answer.model_copy(update={"state": state})
        changes = {"state": state, "answer": answer, "note": _interrupted(local.name)}
        snapshot = snapshot.model_copy(update=changes)
    overview.snapshots.append(snapshot)


def _add_default_service(overview: Overview, settings: Settings, study: str | None) -> None:
    """A service on the default address is shown as well; that there is none is no error."""
    try:
        overview.add(connect_service(settings), study)
    except RedisUnavailable:
        return
