"""One frozen value from the environment; what is wrong is named together with its remedy."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from scheduler import settings
from scheduler.errors import ConfigurationError
from scheduler.jobs.retry import RetryPolicy
from scheduler.storage import stream
from scheduler.storage.postgres import Postgres


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without a setting of ours, read anew by each `load`."""
    import os

    for name in os.environ:
        if name.startswith("SCHEDULER_"):
            monkeypatch.delenv(name)
    settings.load.cache_clear()
    yield monkeypatch
    settings.load.cache_clear()


def test_the_defaults_are_the_promised_ones(environment: pytest.MonkeyPatch) -> None:
    found = settings.load()
    assert (found.port, found.host, found.stream, found.group) == (3000, "127.0.0.1", "jobs_stream", "workers")
    assert (found.lease_seconds, found.max_attempts, found.data_dir) == (5.0, 4, Path(".data"))
    assert found.retry == RetryPolicy(2.0, 2.0, 0.0)


def test_every_field_is_read_from_its_variable_and_lists_are_split_at_commas(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SCHEDULER_LEASE_SECONDS", "0.5")
    environment.setenv("SCHEDULER_JOBS", " one, two.three ,,")
    environment.setenv("SCHEDULER_API_KEYS", "a,b")
    environment.setenv("SCHEDULER_PORT", "")
    found = settings.load()
    assert (found.lease_seconds, found.jobs, found.api_keys) == (0.5, ("one", "two.three"), ("a", "b"))
    assert found.port == 3000, "empty is unset"
    assert settings.load() is found


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("", None),
        ("a,b", "a"),
        ("me:read:a,b", "a"),
        ("me:read:sha256=ab,you:admin:c", "c"),
        ("me:read:sha256=ab", None),
    ],
)
def test_a_client_sends_the_first_key_in_clear(environment: pytest.MonkeyPatch, given: str, sent: str | None) -> None:
    environment.setenv("SCHEDULER_API_KEYS", given)
    assert settings.load().own_key == sent


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:3000"),
        ("jobs.example.com", "http://jobs.example.com:3000"),
        ("::1", "http://[::1]:3000"),
        ("0.0.0.0", "http://127.0.0.1:3000"),
        ("::", "http://[::1]:3000"),
    ],
)
def test_the_command_line_reaches_an_api_wherever_it_listens(
    environment: pytest.MonkeyPatch, host: str, url: str
) -> None:
    environment.setenv("SCHEDULER_HOST", host)
    assert settings.load().own_url == url


def test_settings_cannot_be_changed(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings.load().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("PORT", "70000", "less than or equal to 65535"),
        ("PORT", "abc", "valid integer"),
        ("LEASE_SECONDS", "0", "greater than 0"),
        ("LEASE_SECONDS", "nan", "SCHEDULER_LEASE_SECONDS"),
        ("LEASE_SECONDS", "inf", "SCHEDULER_LEASE_SECONDS"),
        ("CONCURRENCY", "0", "greater than or equal to 1"),
        ("MAX_ATTEMPTS", "1.5", "valid integer"),
        ("BACKOFF_FACTOR", "0.5", "greater than or equal to 1"),
        ("STREAM", "a{b}", "match pattern"),
        ("LOG_LEVEL", "LOUD", "DEBUG"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_variable_and_what_would_do(
    environment: pytest.MonkeyPatch, variable: str, value: str, remedy: str
) -> None:
    environment.setenv(f"SCHEDULER_{variable}", value)
    with pytest.raises(ConfigurationError, match=f"SCHEDULER_{variable}='{value}'".replace("{", r"\{")) as raised:
        settings.load()
    assert remedy in str(raised.value)


def test_all_wrong_values_are_named_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SCHEDULER_PORT", "x")
    environment.setenv("SCHEDULER_CONCURRENCY", "y")
    with pytest.raises(ConfigurationError, match=r"SCHEDULER_PORT='x'.*; SCHEDULER_CONCURRENCY='y'"):
        settings.load()


def test_a_variable_that_nobody_reads_is_refused_with_the_nearest_one(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SCHEDULER_LEASE_SECOND", "5")
    environment.setenv("SCHEDULER_QQQQ", "5")
    environment.setenv("SCHEDULER_TEST_REDIS_URL", "redis://x")
    environment.setenv("SCHEDULER_SAMPLES", "1")
    with pytest.raises(ConfigurationError) as raised:
        settings.load()
    nearest = "SCHEDULER_LEASE_SECOND is not a setting; did you mean SCHEDULER_LEASE_SECONDS?"
    assert str(raised.value) == f"{nearest}; SCHEDULER_QQQQ is not a setting"


@pytest.mark.parametrize(
    ("given", "missing"), [("", "DATABASE_URL"), ("DATABASE_URL", "REDIS_URL"), ("REDIS_URL", "DATABASE_URL")]
)
def test_a_missing_store_is_named_with_what_starts_one(
    environment: pytest.MonkeyPatch, given: str, missing: str
) -> None:
    if given:
        environment.setenv(f"SCHEDULER_{given}", "x://y")
    with pytest.raises(ConfigurationError, match=f"SCHEDULER_{missing} is not set; .*scheduler up"):
        settings.load().require_stores()


PASSWORD = "Secret"
BROKEN = [
    "postgresql//u:{}@h/db", "postgrsql://u:{}@h/db", "postgresql:/u:{}@h/db", "postgresql://u:{}@[::1/db",
    "postgresql://u:x@{}@127.0.0.1:1/db", "postgresql://u:{}/y@127.0.0.1:1/db", "postgresql://u:%zz{}@127.0.0.1:1/db",
    "postgresql://u:{} y@127.0.0.1:1/db", "host=127.0.0.1 port=1 pasword={}", "host=127.0.0.1 password=a {}", "{}",
    "redis//u:{}@h/0", "rdis://u:{}@h/0", "redis:/u:{}@h/0", "redis:u:{}@h", "redis://u:{}@[::1/0",
    "redis://:{}/y@127.0.0.1:1/0", "redis://:{}?y@127.0.0.1:1/0", "redis://:{}#y@127.0.0.1:1/0",
    "redis://u:/{}@127.0.0.1:1/0", "redis://u:{}@127.0.0.1:1x/0", "redis://u:{}@127.0.0.1:99999/0",
    "redis:///u:{}@127.0.0.1:1/0", "redis://u:{}@127.0.0.1:1/zero", "redis://u:{}@127.0.0.1:1/0?sokcet=1",
    "redis://u:{}@127.0.0.1:1/0?db=x",
]  # fmt: skip
WHOLE = [
    "postgresql://u:{}%40%2F@127.0.0.1:1/db", "postgresql://u@[::1]:1,127.0.0.1:2/db?password={}",
    "postgresql:///db?host=/run/postgresql&password={}", "host=@abstract password={}", "redis://u:x@{}@127.0.0.1:1/0",
    "redis://:{}@127.0.0.1", "rediss://u:{}@[::1]:1/2?ssl_cert_reqs=none", "unix://u:{}@/run/redis.sock?db=1",
]  # fmt: skip


def _connected(url: str) -> object:
    """A client of the store that the URL is meant for; nothing is connected yet."""
    is_redis = url.startswith(("r", "unix"))
    return (
        stream.connect(url, deadline_seconds=1, name="t")
        if is_redis
        else Postgres(url, size=1, deadline_seconds=1, name="t")
    )


@pytest.mark.parametrize("url", BROKEN)
def test_a_broken_url_of_a_store_is_refused_at_start_and_its_password_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"SCHEDULER_(DATABASE|REDIS)_URL is no ") as raised:
        _connected(url.format(PASSWORD))
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("url", WHOLE)
def test_a_whole_url_of_a_store_is_taken(url: str) -> None:
    assert _connected(url.format(PASSWORD))
