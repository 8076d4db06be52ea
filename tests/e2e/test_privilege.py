"""The least that docs/deploying.md asks of the stores is enough, over TLS, through all of a job's life."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import redis
import trustme

from scheduler.embedded import Redis, Stores
from scheduler.runtime import run_migrate
from scheduler.settings import Settings
from tests.cluster import ROOT, Cluster, eventually

pytestmark = pytest.mark.e2e
PAGE = (ROOT / "docs/deploying.md").read_text()
PASSWORDS = {"OWNER_PASSWORD": "owners", "APP_PASSWORD": "apps", "REDIS_PASSWORD": "index"}
ADMIN_SQL, OWNER_SQL = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
ACL = next(text for text in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) if text.startswith("ACL SETUSER"))


def _filled(text: str) -> str:
    return re.sub("|".join(PASSWORDS), lambda found: PASSWORDS[found[0]], text)


def _execute(url: str, statements: str) -> None:
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        for statement in filter(str.strip, statements.split(";")):
            connection.execute(statement.encode())


@dataclass(frozen=True)
class Least:
    """A record and an index, with what the page grants and nothing else. `admin` may do everything in Redis."""

    admin: str
    owner: str
    app: str
    index: str


@pytest.fixture
def least(stores: Stores, cluster: Cluster, tmp_path: Path) -> Iterator[Least]:
    admin, usual = stores.postgres.url, cluster.redis_url
    at = f"{urlsplit(admin).hostname}:{urlsplit(admin).port}/scheduler"
    with Redis(tmp_path / "redis") as server:
        with redis.Redis.from_url(server.url, socket_timeout=5) as client:
            client.execute_command(*_filled(ACL).split())
        _execute(admin, _filled(ADMIN_SQL))
        try:
            yield Least(
                server.url,
                f"postgresql://scheduler_owner:owners@{at}",
                f"postgresql://scheduler_app:apps@{at}",
                f"redis://scheduler:index@127.0.0.1:{server.port}/0",
            )
        finally:
            cluster.redis_url = usual
            _execute(admin, "DROP DATABASE scheduler WITH (FORCE); DROP ROLE scheduler_app; DROP ROLE scheduler_owner")


@asynccontextmanager
async def _behind_tls(url: str, certificate: ssl.SSLContext) -> AsyncIterator[int]:
    """A port of `localhost` that speaks TLS and leads to the server of `url`, which has none."""
    plain, joined = urlsplit(url), set[asyncio.Future[None]]()

    def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        joined.add(asyncio.ensure_future(connect(reader, writer)))

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            if plain.scheme == "postgresql":
                assert await reader.readexactly(8) == b"\0\0\0\x08\x04\xd2\x16\x2f"  # SSLRequest
                writer.write(b"S")
                await writer.start_tls(certificate)
            far_reader, far_writer = await asyncio.open_connection(plain.hostname, plain.port)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    context = None if plain.scheme == "postgresql" else certificate
    async with await asyncio.start_server(join, "localhost", 0, ssl=context, family=2) as server:
        yield server.sockets[0].getsockname()[1]
        if joined:
            await asyncio.wait(joined, timeout=30)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with closing(sink), suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()


@pytest.fixture
async def encrypted(least: Least, cluster: Cluster, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """The settings of an API or a worker: the roles of the page, over TLS."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trusted = quote(str(tmp_path / "ca.pem"))
    async with AsyncExitStack() as stack:
        postgres, index = [
            await stack.enter_async_context(_behind_tls(url, context)) for url in (least.app, least.index)
        ]
        app = urlsplit(least.app)._replace(netloc=f"scheduler_app:apps@localhost:{postgres}")
        yield {
            "database_url": f"{app.geturl()}?sslmode=verify-full&sslrootcert={trusted}",
            "redis_url": f"rediss://scheduler:index@localhost:{index}/0?ssl_ca_certs={trusted}",
            "stream": "jobs_stream",
        }
        cluster.crew.end()


async def test_api_and_workers_live_with_the_roles_of_the_page_over_tls(
    cluster: Cluster, least: Least, encrypted: dict[str, str]
) -> None:
    await run_migrate(Settings(database_url=least.owner))
    _execute(least.owner, OWNER_SQL)
    cluster.database_url, cluster.redis_url, cluster.stream = least.owner, least.admin, "jobs_stream"
    cluster.settings |= {**encrypted, "lease_seconds": 2, "backoff_base_seconds": 0.2, "samples": 1}
    await cluster.api()
    doomed = await cluster.worker()
    async with cluster.client() as client:
        flaky = await client.submit("FLAKY", {"failures": 1})
        dead = await client.submit("FAIL", {}, max_attempts=1)
        later = await client.submit("NOOP", {}, delay_seconds=30)
        await client.cancel(later["id"])
        assert [(await client.get(job["id"], wait=30))["status"] for job in (flaky, dead, later)] == [
            *("COMPLETED", "FAILED", "CANCELLED"),
        ]
        await client.redrive(ids=[dead["id"]])
        await eventually(lambda: cluster.redis_lengths()["dlq"] == 1 and cluster.unfinished() == 0, within=30)
        crash = await client.submit("CRASH", {}, max_attempts=2)
        await eventually(lambda: doomed.poll() is not None, within=30, of="the death of the worker")
        with suppress(Exception):  # the second body kills its worker, too
            await cluster.worker()
        await cluster.worker()
        assert (await client.get(crash["id"], wait=30))["status"] == "FAILED"
        await client.purge(type="FAIL")
        await eventually(lambda: cluster.redis_lengths()["dlq"] == 1, within=30)
    await cluster.drained()
    assert "permission" not in cluster.log()
    with redis.Redis.from_url(least.admin, socket_timeout=5) as admin:
        assert [entry["object"] for entry in admin.acl_log()] == []


def test_the_page_lists_every_command_of_every_script() -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "scheduler/storage").glob("*.lua"))
    used = set(re.findall(r"redis\.p?call\('([A-Z]+)'(?:, '((?:(?<=XGROUP', ')|(?<=XINFO', '))[A-Z]+)')?", scripts))
    words = {f"+{command}|{sub}".lower() if sub else f"+{command}".lower() for command, sub in used}
    assert len(words) > 20
    assert words - set(ACL.split()) == set()


async def test_what_the_role_lacks_ends_api_and_worker_with_its_name(
    cluster: Cluster, least: Least, encrypted: dict[str, str]
) -> None:
    async def told(command: str) -> str:
        process = cluster.start(command, **encrypted)
        await eventually(lambda: process.poll() is not None, within=60, of=f"the end of {command}")
        assert process.returncode == 2
        return (cluster.folder / f"{command}-{len(cluster.processes) - 1}.log").read_text()

    assert "permission denied for database scheduler; run `scheduler migrate` as the owner" in await told("worker")
    await run_migrate(Settings(database_url=least.owner))
    _execute(least.owner, OWNER_SQL + "REVOKE DELETE ON scheduler.jobs FROM scheduler_app")
    for command in ("api", "worker"):
        text = await told(command)
        assert "GRANT DELETE ON scheduler.jobs TO scheduler_app" in text
        assert "Traceback" not in text
