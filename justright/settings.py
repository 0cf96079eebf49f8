"""Settings: environment variables that begin with JUSTRIGHT_, read once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from justright import logs
from justright.errors import UsageError
from justright.signing import Signer

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"

# Names in the state folder; each study of ``tune`` has a journal and checkpoints of its own.
STUDIES, JOURNAL, ARTIFACTS = "studies", "journal.log", "artifacts"

#: Variables that hold secrets, or URLs with a password.
SECRETS = (
    "JUSTRIGHT_REDIS_URL",
    "JUSTRIGHT_STORAGE",
    "JUSTRIGHT_SECRET",
    "JUSTRIGHT_ARTIFACTS",
    "JUSTRIGHT_DASHBOARD_PASSWORD",
)


def _default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "justright"


class Settings(BaseSettings):
    """What the environment says. URLs may hold passwords, so they are secrets: never printed."""

    # An empty variable, as in an .env that is not filled in, is none: no password opens nothing.
    model_config = SettingsConfigDict(
        env_prefix="JUSTRIGHT_", env_ignore_empty=True, extra="ignore"
    )

    redis_url: SecretStr = SecretStr(DEFAULT_REDIS_URL)  #: redis://, rediss:// or unix://
    storage: SecretStr | None = None  #: A journal file's path, or a SQLAlchemy URL.
    state: Path = Field(default_factory=_default_state)  #: Where ``tune`` keeps its things.
    #: Of all keys and queues in Redis, so that several projects can share one; "": none.
    namespace: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")
    lease: float = Field(default=10.0, gt=0)  #: Seconds without a heartbeat until a job is lost.
    attempts: int = Field(default=3, ge=1)  #: Executions of a trial before it is failed for good.
    secret: SecretStr | None = None  #: Signs jobs and commands; the same on all machines.
    artifacts: SecretStr | None = None  #: Where checkpoints are: a folder, or s3://BUCKET/PATH.
    retention: float = Field(default=30.0, gt=0)  #: Days that clients can read a study's end.
    checkpoint: float = Field(default=30.0, gt=0)  #: Seconds of training between checkpoints.
    grace: float = Field(default=20.0, gt=0)  #: Seconds that a worker has to leave.
    log: str = "info"  #: Level of the logs (debug, info, warning, error), ``json``, or both.
    dashboard_password: SecretStr | None = None  #: Asked for by the dashboard where it is set.

    @field_validator("log")
    @classmethod
    def _check_log(cls, value: str) -> str:
        logs.read_setting(value)
        return value

    @property
    def storage_place(self) -> str:
        """The storage as a path or URL, with the default filled in."""
        if self.storage is not None:
            return self.storage.get_secret_value()
        return str(self.state / JOURNAL)

    @property
    def artifact_place(self) -> str:
        """The folder or URL of checkpoints, with the default filled in."""
        if self.artifacts is not None:
            return self.artifacts.get_secret_value()
        return str(self.state / ARTIFACTS)

    def signer(self) -> Signer:
        """What signs, and checks signatures.

        Raises:
            UsageError: no secret is set, or it is too short.
        """
        if self.secret is None:
            raise UsageError(
                "JUSTRIGHT_SECRET is not set: it signs every job, so that workers run nobody "
                "else's. Make one with `openssl rand -hex 32`, and give the same to the "
                "orchestrator, the workers and whoever submits."
            )
        return Signer(self.secret.get_secret_value())

    @property
    def redis_given(self) -> bool:
        """Whether the user named a Redis (else only the default address is known)."""
        return "redis_url" in self.model_fields_set


def load_settings(**flags: Any) -> Settings:
    """Read the settings; ``flags`` that are not None win over the environment.

    Raises:
        UsageError: a variable's value is out of its range.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(item) for item in error.errors())) from None


def _explain(item: Any) -> str:
    """One line for one pydantic complaint."""
    ours = item["type"] == "value_error"  # by a validator of ours, in our words
    what = str(item["ctx"]["error"]) if ours else item["msg"].lower()
    return f"{Settings.model_config['env_prefix']}{str(item['loc'][0]).upper()}: {what}"


def without_password(url: str) -> str:
    """The URL as it may be shown: its password, if any, replaced by stars.

    Up to the last "@", since people forget to encode one that is in their password.
    """
    scheme, slashes, rest = url.partition("://") if "://" in url else ("", "", url)
    shown = scheme + slashes + re.sub(r"^([^:/@]*):.*@", r"\1:***@", rest)
    return re.sub(r"(?i)([?&][^=&]*(?:password|secret|token)=)[^&]*", r"\1***", shown)
