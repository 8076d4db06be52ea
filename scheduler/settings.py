"""Configuration as one frozen value. This is the only file that reads the environment."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from scheduler.errors import ConfigurationError, nearest
from scheduler.jobs.retry import RetryPolicy

PREFIX = "SCHEDULER_"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (to listen on -> how this machine reaches it)
OF_TESTS = "TEST_"  # read by scheduler.testing.fixtures, of no meaning to a process


def _words(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 366)]


class Settings(BaseSettings):
    """Every field is read from `SCHEDULER_<FIELD>` in capitals; lists are separated by commas."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True, extra="forbid")

    database_url: str | None = None
    redis_url: str | None = None
    data_dir: Path = Path(".data")
    host: str = "127.0.0.1"
    port: int = Field(3000, ge=0, le=65_535)
    stream: str = Field("jobs_stream", pattern=r"^[^{}\s]{1,100}$")
    group: str = Field("workers", min_length=1, max_length=100)
    jobs: Words = ()
    api_keys: Words = Field((), repr=False)
    """Each is KEY, NAME:ROLE:KEY or NAME:ROLE:sha256=HEX."""
    hosts: Words = ()
    """Names that `Host` may have, besides loopback's and `host`."""
    open: bool = False
    """Whether an API that others than this machine can reach may do without keys."""

    concurrency: int = Field(100, ge=1, le=10_000)
    lease_seconds: Seconds = 5.0
    max_attempts: int = Field(4, ge=1, le=1_000)
    backoff_base_seconds: Seconds = 2.0
    backoff_factor: float = Field(2.0, ge=1, le=100)
    backoff_jitter: float = Field(0.0, ge=0, le=10)
    grace_seconds: float = Field(10.0, ge=0, le=86_400)
    stall_seconds: Seconds = 60.0
    unhandled_seconds: Seconds = 60.0
    retention_seconds: Seconds = 7 * 86_400.0
    store_deadline_seconds: Seconds = 2.0

    max_backlog: int = Field(1_000_000, ge=1)
    max_payload_bytes: int = Field(1 << 20, ge=1_024)
    max_request_bytes: int = Field(16 << 20, ge=1_024)
    smtp_url: str | None = None
    smtp_from: str = Field("scheduler@localhost", pattern=r"^[^\s@<>,;]+@[^\s@<>,;]+$", max_length=254)
    samples: bool = False
    webhook_hosts: Words = ()
    crash_points: Words = ()
    log_format: str = Field("text", pattern="^(text|json)$")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @property
    def retry(self) -> RetryPolicy:
        """The back-off that these settings make."""
        return RetryPolicy(self.backoff_base_seconds, self.backoff_factor, self.backoff_jitter)

    @property
    def is_public(self) -> bool:
        """Whether others than this machine can reach an API on `host`."""
        return self.host not in LOOPBACK

    @property
    def own_url(self) -> str:
        """Where programs on this machine reach an API on `host`."""
        host = EVERYWHERE.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def own_key(self) -> str | None:
        """What a client sends: the first of the keys that are given in clear."""
        keys = (text.rpartition(":")[2] for text in self.api_keys)
        return next((key for key in keys if not key.lower().startswith("sha256=")), None)

    def require_stores(self) -> tuple[str, str]:
        """The two URLs. Raises ConfigurationError naming the one that is missing."""
        if not self.database_url or not self.redis_url:
            missing = "DATABASE_URL" if not self.database_url else "REDIS_URL"
            raise ConfigurationError(
                f"{PREFIX}{missing} is not set; set it, or run `scheduler up`, which starts embedded stores"
            )
        return self.database_url, self.redis_url


@lru_cache(maxsize=1)
def load() -> Settings:
    """The settings of this process. Raises ConfigurationError that names the variable, its value and the remedy."""
    if unknown := _unknown_variables():
        raise ConfigurationError("; ".join(unknown))
    try:
        return Settings()
    except ValidationError as error:
        lines = [_explain(dict(item)) for item in error.errors()]
        raise ConfigurationError("; ".join(lines)) from error


def _explain(item: dict[str, Any]) -> str:
    field = str(item["loc"][0]) if item["loc"] else "?"
    name = field if field.startswith(PREFIX) else PREFIX + field.upper()
    return f"{name}={item['input']!r}: {item['msg']}"


def _unknown_variables() -> list[str]:
    """One reproach for each SCHEDULER_ variable that no field reads, with the nearest known name."""
    known = {field.upper() for field in Settings.model_fields}
    return [
        f"{name} is not a setting" + (f"; did you mean {PREFIX}{hint}?" if (hint := nearest(own, known)) else "")
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and not (own := name.removeprefix(PREFIX)).startswith(OF_TESTS) and own not in known
    ]
