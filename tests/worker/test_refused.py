"""What one store refuses to a worker costs the job that it concerns, and stops no other."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from scheduler.embedded import free_port
from tests.cluster import Cluster, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]
REFUSES = """
CREATE FUNCTION scheduler.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'no such value' USING ERRCODE = '22000';
END $$;
CREATE TRIGGER refuses BEFORE UPDATE ON scheduler.jobs FOR EACH ROW
    WHEN (NEW.status = 'PROCESSING' AND NEW.payload->>'refused' = 'yes') EXECUTE FUNCTION scheduler.refuse();
"""


def execute(cluster: Cluster, statements: str) -> None:
    with psycopg.connect(cluster.database_url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(statements.encode())


async def test_a_job_whose_claim_postgresql_refuses_keeps_none_of_its_batch_from_running(cluster: Cluster) -> None:
    execute(cluster, REFUSES)
    await cluster.api()
    async with cluster.client() as client:
        jobs = [{"type": "NOOP", "payload": {"refused": "yes" if n == 17 else "no"}} for n in range(40)]
        await client.submit_batch(jobs)
        worker = await cluster.worker()
        await eventually(lambda: cluster.unfinished() == 1, within=30)
    assert worker.poll() is None
    assert "claim_refused" in cluster.log()
    assert "tick_failed" not in cluster.log()
    execute(cluster, "DROP TRIGGER refuses ON scheduler.jobs")
    await cluster.drained()


async def test_a_worker_without_rights_to_lanes_and_dead_letters_works_on_and_readyz_names_them(
    cluster: Cluster,
) -> None:
    user, url = f"u_{cluster.stream}", urlsplit(cluster.redis_url)
    limited = url._replace(netloc=f"{user}:secret@{url.hostname}:{url.port}").geturl()
    own = f"{{{cluster.stream}}}"
    keys = (f"~{cluster.stream}", *(f"~{own}:{name}" for name in ("retry", "reconciler", "probe")))
    with cluster.redis() as admin:
        admin.execute_command("ACL", "SETUSER", user, "on", ">secret", "+@all", *keys)
        try:
            await cluster.worker(redis_url=limited)
            await cluster.api()
            async with cluster.client() as client:
                jobs = [await client.submit("FAIL" if n else "NOOP", {}, max_attempts=1) for n in range(3)]
                ends = [(await client.get(job["id"], wait=30))["status"] for job in jobs]
            assert ends == ["COMPLETED", "FAILED", "FAILED"]
            log = await eventually(cluster.log, within=20, until=lambda text: text.count("key_unusable") >= 4)
            assert log.count("key_unusable") == 4, "lanes and three keys of the letters, each once"
            cluster.start("api", redis_url=limited, api_keys="one", port=(port := free_port()))
            said = await eventually(lambda: _redis_of(port), within=30, until=lambda found: own in found)
            assert f"{cluster.stream}:dlq: " in said
        finally:
            cluster.crew.end()
            admin.execute_command("ACL", "DELUSER", user)


def _redis_of(port: int) -> str:
    try:
        answer = httpx.get(
            f"http://127.0.0.1:{port}/readyz", headers={"authorization": "Bearer one"}, trust_env=False, timeout=10
        )
    except httpx.TransportError:
        return ""
    assert answer.status_code == 503
    return str(answer.json()["redis"])
