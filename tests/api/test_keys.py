"""Keys: what each role may do, rotation without a restart, the audit, patience with wrong ones; a start without any."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from hashlib import sha256
from typing import Any

import httpx
import psycopg
import pytest

from scheduler.api.access import audit, keys
from scheduler.api.access.audit import Audit
from scheduler.api.access.guard import Guard
from scheduler.errors import ConfigurationError, Denied
from scheduler.facts.facts import tally
from scheduler.settings import Settings
from scheduler.storage.store import Store
from tests.cluster import Cluster, eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e]

NOOP = {"type": "NOOP", "payload": {}}
JOB = "01900000-0000-7000-8000-000000000000"
# what each request is answered with where it is let in, and the roles that are
REQUESTS: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/jobs", NOOP, 202, "submit operate admin"),
    ("POST", "/jobs/batch", {"jobs": [NOOP]}, 202, "submit operate admin"),
    ("GET", f"/jobs/{JOB}", None, 404, "submit read operate admin"),
    ("GET", "/jobs", None, 200, "read operate admin"),
    ("GET", "/dlq", None, 200, "read operate admin"),
    ("GET", "/stats", None, 200, "read operate admin"),
    ("GET", "/metrics", None, 200, "read operate admin"),
    ("GET", "/docs", None, 200, "submit read operate admin"),
    ("POST", f"/jobs/{JOB}/cancel", None, 404, "operate admin"),
    ("POST", "/dlq/redrive", {}, 200, "operate admin"),
    ("DELETE", "/dlq", {}, 200, "admin"),
]
WRONG = [
    "me:root:secret",
    "me:admin:",
    "me:secret",
    ":admin:secret",
    "a b:admin:secret",
    "me:admin:sha256=12",
    "sha256=" + 64 * "a",
    "me:admin:secret:more",
]


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _run(cluster: Cluster, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scheduler", *words]
    return subprocess.run(
        command, env=cluster.environment(**settings), capture_output=True, text=True, timeout=60, check=False
    )


def _audit(cluster: Cluster) -> list[tuple[Any, ...]]:
    return cluster.rows("SELECT caller, action, detail, status, calls FROM scheduler.audit ORDER BY id")


async def test_a_role_may_do_what_its_row_says_and_each_destructive_call_is_noted(cluster: Cluster) -> None:
    roles = ("submit", "read", "operate", "admin")
    digest = sha256(b"of-read").hexdigest()
    given = f"s:submit:of-submit, r:read:sha256={digest}, o:operate:of-operate, of-admin"
    async with httpx.AsyncClient(base_url=await cluster.api(api_keys=given), timeout=30, trust_env=False) as http:
        for role in roles:
            for method, path, body, status, may in REQUESTS:
                answer = await http.request(method, path, json=body, headers=_bearer(f"of-{role}"))
                assert answer.status_code == (status if role in may.split() else 403), (role, path)
                if answer.status_code == 403:
                    assert f"has the role {role}" in answer.json()["detail"]
        await http.request("DELETE", "/dlq", json={"dry_run": True}, headers=_bearer("of-admin"))
        await http.post("/dlq/redrive", json={"type": "x"}, headers=_bearer(digest))
        done = await eventually(lambda: [row for row in _audit(cluster) if row[3] is None], until=lambda r: len(r) >= 5)
    cancel, drive, purge = ("cancel", JOB), ("redrive", "0 by "), ("purge", "0 by ")
    assert [(caller, (action, detail.partition("{")[0]), calls) for caller, action, detail, _, calls in done] == [
        ("o", cancel, 1),
        ("o", drive, 1),
        ("key-4", cancel, 1),
        ("key-4", drive, 1),
        ("key-4", purge, 1),
    ]


async def test_keys_are_added_and_revoked_without_a_restart_and_without_postgres_the_last_known_go_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await cluster.api()
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:

        async def asked(key: str) -> int:
            return (await http.get("/stats", headers=_bearer(key))).status_code

        assert await asked("none") == 200, "open as long as there is no key"
        old = _run(cluster, "keys", "add", "ann", "--role", "read").stdout.strip()
        assert len(old) == 64
        await eventually(lambda: asked("none"), until=lambda code: code == 401)
        assert (await asked(old), (await http.post("/jobs", json=NOOP, headers=_bearer(old))).status_code) == (200, 403)
        new = _run(cluster, "keys", "add", "ann-2", "--role", "submit").stdout.strip()
        refused = _run(cluster, "keys", "add", "ann", "--role", "admin")
        assert (refused.returncode, refused.stdout, "'ann' is in use" in refused.stderr) == (2, "", True)
        await eventually(
            lambda: http.post("/jobs", json=NOOP, headers=_bearer(new)), until=lambda answer: answer.status_code == 202
        )
        assert _run(cluster, "keys", "revoke", "ann").returncode == 0
        await eventually(lambda: asked(old), until=lambda code: code == 401)
        shown = _run(cluster, "keys", "list").stdout
        assert "ann-2" in shown
        assert not [key for key in (old, new, sha256(new.encode()).hexdigest()) if key in shown]
        listed = cluster.rows("SELECT name, role, encode(sha256, 'hex') FROM scheduler.api_keys")
        assert listed == [("ann-2", "submit", sha256(new.encode()).hexdigest())]
        commands = [(action, detail) for _, action, detail, status, _ in _audit(cluster) if status is None]
        assert commands == [("keys add", "ann read"), ("keys add", "ann-2 submit"), ("keys revoke", "ann read")]
        with psycopg.connect(cluster.database_url, autocommit=True) as admin:
            admin.execute("ALTER TABLE scheduler.api_keys RENAME TO away")  # its reading fails from now on
            await eventually(lambda: "service=keys" in cluster.log())
            assert (await http.post("/jobs", json=NOOP, headers=_bearer(new))).status_code == 202
            assert await asked("none") == 401
            admin.execute("ALTER TABLE scheduler.away RENAME TO api_keys")


async def test_who_sends_wrong_keys_is_slowed_down_and_counted_and_valid_keys_are_not(cluster: Cluster) -> None:
    url = await cluster.api(api_keys="one")
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        wrong = [await http.get("/jobs", headers=_bearer(f"guess-{n}")) for n in range(250)]
        counted = Counter(answer.status_code for answer in wrong)
        assert set(counted) == {401, 429}
        assert counted[401] < 250
        late = next(answer for answer in wrong if answer.status_code == 429)
        assert 1 <= int(late.headers["retry-after"]) <= 10
        assert (await http.post("/jobs", json=NOOP, headers=_bearer("one"))).status_code == 202
        assert (await http.get("/jobs", headers={"host": "evil.example", "x": "\\"})).status_code == 421
        await eventually(
            lambda: sum(row[4] for row in _audit(cluster)) == 251, within=30, of="251 refusals in the audit"
        )
        refused = Counter[int]()
        for caller, action, _, status, calls in _audit(cluster):
            assert (caller, action) == ("", "GET /jobs")
            refused[status] += calls
        assert refused == counted + Counter({421: 1})
        text = (await http.get("/metrics", headers=_bearer("one"))).text
        assert 'scheduler_turned_away_total{process="api"} 251.0' in text
        assert "turned_away" in cluster.log()
        assert "guess-" not in cluster.log()


async def test_a_flood_of_refusals_makes_a_bounded_number_of_rows_and_old_ones_are_pruned(
    store: Store, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Audit(store, retention_seconds=3_600)
    scope = {"type": "http", "method": "GET", "path": "/\x00\ud800é" + "x" * 9_999}
    for n in range(5_000):
        own.refused({**scope, "client": (f"10.0.{n // 256}.{n % 256}", 1)}, "", Denied(401, "no key"))
    await own.tick()
    rows = _audit(cluster)
    assert len(rows) == audit.MOST_KINDS + 1
    assert sum(calls for *_, calls in rows) == 5_000
    assert max(len(row[1]) for row in rows) < 2_000
    with psycopg.connect(cluster.database_url, autocommit=True) as admin:
        admin.execute("UPDATE scheduler.audit SET at = now() - interval '2 hours' WHERE id % 2 = 0")
    assert await store.prune_audit(3_600, 5_000) == len(rows) // 2
    monkeypatch.setattr("scheduler.storage.store.MAX_REFUSALS", 3)
    own.did({**scope, "caller": keys.ANYONE}, "cancel", JOB)
    await own.tick()
    assert await store.prune_audit(3_600, 5_000) == len(rows) - len(rows) // 2 - 3
    assert [row[1] for row in _audit(cluster)][3:] == ["cancel"]


async def test_what_does_not_fit_into_the_audit_is_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_HELD", 2)
    own, scope = Audit(store, 1), {"type": "http", "client": None, "caller": keys.ANYONE}
    lost = tally["audit_lost"]
    for _ in range(5):
        own.did(scope, "cancel", JOB)
    assert tally["audit_lost"] - lost == 3


async def test_a_key_of_a_wrong_form_is_refused_at_start_and_not_shown(store: Store) -> None:
    for entry in WRONG:
        with pytest.raises(ConfigurationError, match="SCHEDULER_API_KEYS: entry 2 is no KEY, NAME:ROLE:KEY or") as told:
            Guard(Settings(api_keys=("good", entry)), store)
        assert "secret" not in str(told.value)
    assert "good" not in repr(Settings(api_keys=("good",)))


async def test_others_than_this_machine_need_a_key_or_the_start_is_refused(cluster: Cluster, store: Store) -> None:
    refused = _run(cluster, "api", host="0.0.0.0", port=0)
    assert (refused.returncode, "SCHEDULER_OPEN=1" in refused.stderr) == (2, True), refused.stderr
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        url = await cluster.api(host="0.0.0.0", open=1)
        assert (await http.get(f"{url}/stats")).status_code == 200
        await store.add_key("first", "read", sha256(b"one").digest())
        url = await cluster.api(host="0.0.0.0")
        assert (await http.get(f"{url}/stats")).status_code == 401
        assert (await http.get(f"{url}/stats", headers=_bearer("one"))).status_code == 200
        await store.revoke_key("first")

        async def asked() -> int:
            return (await http.get(f"{url}/stats", headers=_bearer("one"))).status_code

        await eventually(asked, until=lambda code: code == 401, of="no key left, and closed all the same")


async def test_a_key_that_can_be_guessed_is_refused_where_others_can_try(store: Store) -> None:
    for host in ("0.0.0.0", "::", "10.1.2.3", "jobs.example.com"):
        for text in ("short", "me:read:short"):
            with pytest.raises(ConfigurationError, match="entry 1 can be guessed"):
                Guard(Settings(host=host, api_keys=(text,)), store)
            Guard(Settings(host=host, api_keys=(text,), open=True), store)
        Guard(Settings(host=host, api_keys=("a-key-of-some-length", f"me:read:sha256={'a' * 64}")), store)
    for host in ("127.0.0.1", "localhost", "::1"):
        Guard(Settings(host=host, api_keys=("short",)), store)


async def test_a_key_has_a_name_of_its_own_in_plain_characters_and_there_are_so_many(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a b", "", "x" * 101, "a:b", "é", "a\n"):
        assert not await store.add_key(name, "read", sha256(name.encode()).digest()), name
    monkeypatch.setattr("scheduler.storage.store.MAX_KEYS", 2)
    added = [await store.add_key(name, "read", sha256(name.encode()).digest()) for name in ("a", "a", "b", "c")]
    assert added == [True, False, True, False]
    assert not await store.revoke_key("c")


async def test_the_command_line_sends_the_first_key_that_it_knows(cluster: Cluster) -> None:
    hashed = f"r:read:sha256={sha256(b'x').hexdigest()}"
    await cluster.api(api_keys=f"{hashed},me:submit:abc")
    port = cluster.url.rpartition(":")[2]
    sent = _run(cluster, "submit", "NOOP", port=port, api_keys=f"{hashed},me:submit:abc")
    assert (sent.returncode, sent.stderr) == (0, "")
    refused = _run(cluster, "dlq", "purge", "--yes", port=port, api_keys="abc")
    assert (refused.returncode, "has the role submit" in refused.stderr) == (1, True)
