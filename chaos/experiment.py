"""Carries out a plan: steady → inject → heal → drain → judge, everything recorded, every fault healed.

A fault that cannot be injected or healed, and a Toxiproxy that hangs, are troubles of the harness: the run goes on
to its end and its verdict is at best unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from chaos.console import Progress
from chaos.errors import ChaosError, StackFailed
from chaos.faults.catalogue import make_fault
from chaos.faults.nemesis import Nemesis
from chaos.judge import judge
from chaos.load.load import Destination, Load
from chaos.rack.eyes import Eyes
from chaos.rack.servers import Servers
from chaos.rack.sink import Sink
from chaos.rack.stack import Shape, Stack
from chaos.rack.world import StackWorld
from chaos.record import runs
from chaos.record.aim import Aim
from chaos.record.history import Final, Stores
from chaos.record.plan import Manifest, Phase, Plan, Planned
from chaos.record.recorder import Appender, Recorder, write_records
from chaos.record.runs import Folder
from chaos.record.verdict import Judgement
from chaos.scenarios import find

EMPTY_SECONDS = 5.0  # Redis is to be empty, and the DLQ whole, this long after the last job became final
FIRST_JOB_SECONDS = 60.0  # what a load may need until it submits; not measured
READERS = 16  # connections that ask for final statuses; not measured


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: its folder, and what it was judged."""

    folder: Folder
    judgement: Judgement


def carry_out(
    plan: Plan, progress: Progress, servers: Servers | None = None, *, runs_dir: Path = runs.RUNS, api_port: int = 0
) -> Result:
    """Run and judge, on shared servers or on its own; port 0 is a free one.

    Raises ChaosError when the harness itself fails; what was recorded until then stays.
    """
    scenario = find(plan.scenario)
    folder = runs.create(plan.scenario, plan.seed, runs_dir)
    wall, mono = runs.clock_origin()
    manifest = Manifest(
        *msgspec.structs.astuple(plan),
        run=folder.path.name,
        started_at=runs.stamp(),
        wall_origin=wall,
        mono_origin_ns=mono,
        versions=runs.versions(),
        machine=runs.machine(),
        commit=runs.commit(),
    )
    folder.write(folder.manifest, manifest)
    progress.phase("start", f"{plan.scenario}, seed {plan.seed}: {scenario.claim}")
    with ExitStack() as ended:
        own = servers or ended.enter_context(Servers())
        stack = ended.enter_context(Stack(plan, folder, own, Shape(api_port=api_port)))
        experiment = Experiment(stack, scenario.load(plan.settings), manifest, progress)
        asyncio.run(experiment.run())
    progress.phase("judge")
    judgement = judge(runs.load_run(folder.path), scenario.promises)
    folder.write(folder.verdict, judgement)
    return Result(folder, judgement)


class Experiment:
    """One run on a stack that is up."""

    def __init__(self, stack: Stack, load: Load, manifest: Manifest, progress: Progress) -> None:
        self._stack, self._load, self._manifest, self._progress = stack, load, manifest, progress
        self._settings, self._target, self._folder = manifest.settings, stack.target, stack.folder
        self._recorder = Recorder(self._folder.history)
        self._nemesis = Nemesis(StackWorld(stack), self._recorder)
        self._phases: list[Phase] = []
        self._troubles: list[str] = []
        self._deaths: list[str] = []
        self._versions: dict[str, str] = {}
        self._give_up = asyncio.Event()
        self._broken: defaultdict[Aim, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self) -> None:
        """All phases in order. However it ends, faults are healed and what was recorded is on disk."""
        urls = self._stack.database_url, self._stack.redis_url
        try:
            async with Eyes(self._target.look, *urls) as eyes, Sink(self._recorder) as sink:
                self._versions = await eyes.versions() | {"toxiproxy": self._stack.servers.toxiproxy.version()}
                async with _background(self._watch(eyes)), _background(self._submit(sink.url)) as submitting:
                    await self._phases_in_order(eyes, submitting)
                await self._collect(eyes)
        finally:
            self._recorder.close()
            self._write_manifest()
            self._folder.settle_history()

    async def _phases_in_order(self, eyes: Eyes, submitting: asyncio.Task[None]) -> None:
        try:
            async with self._phase("steady"):
                await self._first_submit()
                await asyncio.sleep(self._settings.steady_seconds)
            async with self._phase("inject"):
                await self._play()
        finally:
            async with self._phase("heal"):
                await self._attempt("heal", asyncio.to_thread(self._nemesis.heal_all))
        await self._attempt("recover", asyncio.to_thread(self._stack.await_ready))
        async with self._phase("drain"):
            await self._drain(eyes, submitting)

    @asynccontextmanager
    async def _phase(self, name: Any) -> AsyncIterator[None]:
        started_ns = time.monotonic_ns()
        self._progress.phase(name)
        try:
            yield
        finally:
            self._phases.append(Phase(name, started_ns, time.monotonic_ns()))

    async def _attempt(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        """Do it; a failure of the harness is written down and the run goes on."""
        try:
            await work
        except StackFailed as failed:
            self._troubles.append(f"{what}: {failed}")
        except ChaosError as failed:
            self._troubles.append(f"{what}: {failed}")
            self._progress.trouble(str(failed))

    # -- phases

    async def _first_submit(self) -> None:
        """A load may need seconds to start; time counts from what it submits first."""
        async with asyncio.timeout(FIRST_JOB_SECONDS):
            while not self._folder.history.stat().st_size:
                await asyncio.sleep(0.02)

    async def _play(self) -> None:
        """Each fault sets in at its time and lasts its seconds, whatever the others do, while load goes on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(self._settings.duration))
            for planned in self._manifest.schedule:
                group.create_task(self._attempt(f"{planned.fault} {planned.target}", self._play_one(planned)))

    async def _play_one(self, planned: Planned) -> None:
        """A target is broken by one fault at a time: one whose healing takes long puts off the next."""
        fault = make_fault(planned)
        await asyncio.sleep(planned.at)
        async with self._broken[planned.target]:
            await asyncio.to_thread(self._nemesis.inject, fault)
            self._progress.fault(planned, active=True)
            await asyncio.sleep(planned.seconds)
            await asyncio.to_thread(self._nemesis.heal, fault)
            self._progress.fault(planned, active=False)

    async def _drain(self, eyes: Eyes, submitting: asyncio.Task[None]) -> None:
        """Until nothing is unfinished and nobody submits, but no longer than the plan allows."""
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                while not submitting.done() or await eyes.unfinished() != 0:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self._give_up.set()

    # -- beside the phases

    async def _submit(self, sink_url: str) -> None:
        to = Destination(self._target, self._stack.api_url, sink_url, self._recorder, self._folder, self._manifest.seed)
        await self._attempt("load", self._load.run(to, self._give_up))

    async def _watch(self, eyes: Eyes) -> None:
        """Sample the stores, see which jobs become final, and who dies unasked, four times a second."""
        seen: dict[str, tuple[str, int]] = {}
        with Appender(self._folder.samples) as samples:
            while True:
                sample, finished = await eyes.sample(), await eyes.just_finished()
                samples.append(sample)
                fresh = [each for each in finished if seen.get(each[0]) != each[1:]]
                if fresh:
                    seen.update((each[0], each[1:]) for each in fresh)
                    op = self._recorder.invoke("observer", "observe", {})
                    self._recorder.ok(op, {"finished": fresh})
                self._deaths += await asyncio.to_thread(self._stack.bury, restart_killed=self._settings.supervised)
                self._progress.sample(sample, finished=len(seen), jobs=self._load.jobs)
                await asyncio.sleep(self._settings.sample_seconds)

    # -- afterwards

    async def _collect(self, eyes: Eyes) -> None:
        """What every job came to, as the queue tells it, and what Redis still holds."""
        deadline = time.monotonic() + EMPTY_SECONDS
        stores, failed = await eyes.stores(), await eyes.failed()
        while not _has_settled(stores, failed) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            stores = await eyes.stores()
        ids = await eyes.job_ids()
        if ids is None:
            raise StackFailed("PostgreSQL cannot be read after the drain: nothing can be judged")
        write_records(self._folder.finals, await self._finals(ids))
        self._folder.write(self._folder.stores, stores)

    async def _finals(self, ids: list[str]) -> list[Final]:
        limits = httpx.Limits(max_connections=READERS)
        async with httpx.AsyncClient(
            base_url=self._stack.api_url, limits=limits, timeout=httpx.Timeout(10, pool=None), trust_env=False
        ) as http:
            answers = await asyncio.gather(*(http.get(self._target.find(job).path) for job in ids))
        return [self._target.final(answer.content) for answer in answers if answer.is_success]

    def _write_manifest(self) -> None:
        now = time.monotonic_ns()
        judged = Phase("judge", now, now)
        done = msgspec.structs.replace(
            self._manifest,
            finished_at=runs.stamp(),
            versions=self._manifest.versions | self._versions,
            phases=[*self._phases, judged],
            troubles=self._troubles,
            deaths=self._deaths,
        )
        self._folder.write(self._folder.manifest, done)


def _has_settled(stores: Stores, failed: int | None) -> bool:
    """Whether Redis agrees with PostgreSQL again, as far as numbers tell."""
    empty = not (stores.stream or stores.pending or stores.retry)
    return empty and stores.dlq is not None and len(stores.dlq) == failed


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """A task that lives as long as the block; its failure is the block's."""
    task = asyncio.create_task(work)
    try:
        yield task
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])
