"""A queue on the rack without an experiment: started plain, filled in batches, looked at until done, wiped, stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from chaos.errors import StackFailed
from chaos.load.workload import JSON
from chaos.rack.eyes import Eyes
from chaos.rack.servers import Servers
from chaos.rack.stack import Shape, Stack
from chaos.record.aim import API, worker
from chaos.record.plan import Plan, Settings
from chaos.record.runs import Folder
from chaos.targets.ours.target import OURS

JOBS = 500
PLAIN = Shape(proxied=False, witnessed=False)
pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(toxiproxy_port=None) as own:
        yield own


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "logs").mkdir()
    return Folder(tmp_path)


async def all_final(eyes: Eyes) -> None:
    async with asyncio.timeout(60):
        while await eyes.unfinished():
            await asyncio.sleep(0.05)


async def test_a_prefilled_queue_is_drained_by_a_worker_that_comes_later_and_the_next_stack_is_empty(
    servers: Servers, folder: Folder
) -> None:
    for _ in range(2):
        with Stack(Plan("bench", 1, Settings(workers=0)), folder, servers, PLAIN) as stack:
            request = OURS.submit_batch([("NOOP", {})] * JOBS)
            async with (
                Eyes(OURS.look, stack.database_url, stack.redis_url) as eyes,
                httpx.AsyncClient(base_url=stack.api_url, headers=JSON, trust_env=False) as http,
            ):
                assert await eyes.unfinished() == 0
                assert (await http.post(request.path, content=request.content)).is_success
                assert await eyes.unfinished() == JOBS
                stack.start_process(worker(1))
                stack.await_ready()
                await all_final(eyes)
                assert len(await eyes.job_ids() or ()) == JOBS
            processes = [stack.process(name) for name in (API, worker(1))]
        assert [process.exit_code for process in processes] == [0, 0]
    assert not folder.effects.exists()


def test_a_process_that_does_not_start_is_named_with_the_end_of_its_log(servers: Servers, folder: Folder) -> None:
    shape = Shape(proxied=False, variables={"SCHEDULER_LEASE_SECONDS": "none"})
    with (
        pytest.raises(StackFailed, match=r"(?s)ended with 2.*SCHEDULER_LEASE_SECONDS"),
        Stack(Plan("bench", 1), folder, servers, shape),
    ):
        pass


def test_the_build_that_is_to_run_prepares_its_own_database(folder: Folder) -> None:
    of_another = Shape(proxied=False, witnessed=False, variables={"SCHEDULER_LOG_LEVEL": "none of these"})
    with (
        Servers(toxiproxy_port=None) as own,
        pytest.raises(StackFailed, match=r"(?s)preparing the database .*LOG_LEVEL"),
        Stack(Plan("bench", 1, Settings(workers=0)), folder, own, of_another),
    ):
        pass
