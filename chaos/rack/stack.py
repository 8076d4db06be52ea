"""A queue on the rack: its API and workers as child processes, on servers of the harness.

The stores are the harness's own, whatever the environment names: a run flushes and kills them. Processes reach the
stores only through their role's proxies; the harness goes past them. However it ends, every child is stopped; the
children of a harness that was killed are killed by the kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from urllib.parse import urlsplit

import httpx

from chaos.errors import FaultFailed, StackFailed
from chaos.rack.pair import Pair
from chaos.rack.python import program
from chaos.rack.servers import Servers, Started
from chaos.record.aim import API, LINKS, Aim, link, worker
from chaos.record.plan import Plan
from chaos.record.runs import Folder
from chaos.targets.ours.target import OURS
from chaos.targets.target import Command, Start, Target
from scheduler.embedded import Child, ChildFailed, Crew, Launch, free_port, until

START_SECONDS, PREPARE_SECONDS = 30.0, 60.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What a stack has that no plan decides."""

    api_port: int = 0  # 0: a free one
    proxied: bool = True  # a proxy on each link between a role and a store, for faults to act on
    witnessed: bool = True  # job bodies write the ledger
    variables: Mapping[str, str] = field(default_factory=dict)  # more environment for every process
    target: Target = OURS


class Stack(Started):
    """A context manager: the queue is up, and healthy, inside the block; its database is new, or kept by `servers`.

    `start_process` adds a worker to those of the plan, or brings one back. Raises StackFailed.
    """

    def __init__(self, plan: Plan, folder: Folder, servers: Servers, shape: Shape | None = None) -> None:
        super().__init__()
        self.plan, self.folder, self.servers, self.shape = plan, folder, servers, shape or Shape()
        self.target = self.shape.target
        self.database_url = ""
        self.api_port = self.shape.api_port or free_port()
        self._crew = Crew(self.target.stop_seconds)
        self._starts: Counter[Aim] = Counter()
        self._pair: Pair | None = None

    @property
    def api_url(self) -> str:
        """Where jobs are submitted; no proxy stands before it."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def redis_url(self) -> str:
        """Of the server itself, past every proxy; where there are two, of whichever is the master."""
        return self._pair.url if self._pair else self.servers.stores.redis.url

    @property
    def pair(self) -> Pair:
        """The two servers of Redis. Raises FaultFailed where the plan wants one only."""
        if self._pair is None:
            raise FaultFailed("this stack has no replica of Redis to fail over to; see `replica` of its settings")
        return self._pair

    @property
    def workers(self) -> tuple[Aim, ...]:
        """Those of the plan."""
        return tuple(worker(number) for number in range(1, self.plan.settings.workers + 1))

    # -- starting

    def _start(self) -> None:
        self._ended.callback(self._crew.end)
        self.database_url = self.servers.database(self._prepare)
        if self.plan.settings.replica:
            self._pair = self._ended.enter_context(Pair(self.servers.stores.redis))
            self._ended.callback(self._crew.end)  # its clients end before it does
        if self.shape.proxied:
            for each in LINKS:
                store = self.redis_url if each.store == "redis" else self.database_url
                self.servers.toxiproxy.create(each, f"127.0.0.1:{urlsplit(store).port}")
            self.servers.toxiproxy.sweep()
        for process in (API, *self.workers):
            self.start_process(process)
        self.await_ready()

    def _prepare(self, database_url: str) -> None:
        """Before anything can be cut, and past every proxy."""
        own = self.target.prepare(database_url)  # by the same build that is to run on it
        prepare = Command(own.arguments, {**own.variables, **self.shape.variables})
        child = self._crew.start(self._launch("prepare", prepare), doomed=True)
        if not until(lambda: not child.alive, PREPARE_SECONDS):
            child.kill()
        if child.exit_code:
            raise StackFailed(f"preparing the database ended with {child.exit_code}; {child.ending}")

    def start_process(self, process: Aim) -> int:
        """Start `api` or `worker-N`; returns its pid."""
        self._starts[process] += 1
        armed = self.plan.armed.get((process, self._starts[process]))
        wanted = Start(
            process,
            database_url=self._behind(link(str(process.role), "postgres")),
            redis_url=self._behind(link(str(process.role), "redis")),
            api_port=self.api_port,
            settings=self.plan.settings,
            ledger=self.folder.effects if self.shape.witnessed else None,
            armed=armed,
            variables=self.shape.variables,
        )
        doomed = armed is not None and armed.fault == "kill"
        return self._crew.start(self._launch(process, self.target.command(wanted)), doomed=doomed).pid

    def stop_process(self, process: Aim) -> None:
        """Ask it to end, wait until it has; killed when it does not obey."""
        self.expect_death(process)
        self.process(process).stop(self.target.stop_seconds)

    def _launch(self, name: str, command: Command) -> Launch:
        return program(command.arguments, command.variables, self.log(name), stops_by=self.target.stops_by)

    def _behind(self, to: Aim) -> str:
        """The URL of a store for a role: of its proxy, where there is one."""
        url = self.redis_url if to.store == "redis" else self.database_url
        if not self.shape.proxied:
            return url
        parts = urlsplit(url)
        port = self.servers.toxiproxy.proxy(to).port
        return parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")).geturl()

    # -- readiness and death

    def await_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until the API serves, says it is ready and sees every worker. Raises StackFailed."""

        def is_ready() -> bool:
            with httpx.Client(base_url=self.api_url, timeout=2, trust_env=False) as http:
                try:
                    return self.target.is_ready(http, len(self._starts) - 1)
                except (httpx.HTTPError, ValueError, LookupError, TypeError):
                    return False

        try:
            self._crew.until(is_ready, seconds, self.process(API), "the stack was not ready")
        except ChildFailed as error:
            raise StackFailed(str(error)) from error

    def check_alive(self) -> None:
        """Raises StackFailed when a process has died that no fault was aimed at."""
        try:
            self._crew.check()
        except ChildFailed as error:
            raise StackFailed(str(error)) from error

    def bury(self, *, restart_killed: bool) -> list[str]:
        """Those that died unasked since the last call, each told once; who a job ended may be started again."""
        told = []
        for child in self._crew.dead():
            if restart_killed and child.exit_code in {-SIGKILL, self.target.gives_up_with}:
                self.start_process(Aim(child.name))
            else:
                child.doomed = True
                told.append(f"{child.name} ended by itself with {child.exit_code}")
        return told

    def tend(self) -> list[Child]:
        """Start again what has died, ever more slowly while it keeps dying. Returns those that died just now."""
        return self._crew.tend()

    # -- for those that break it

    def process(self, name: Aim) -> Child:
        """As it was started last. Raises FaultFailed when none has that name."""
        if name not in self._starts:
            raise FaultFailed(f"no process is called {name!r}; there are {', '.join(self._starts)}")
        return self._crew.children[name]

    def starts(self, name: Aim) -> int:
        """How many times it was started."""
        return self._starts[name]

    def expect_death(self, name: Aim) -> None:
        """Its end is no trouble from now on, until it is started again."""
        self.process(name).doomed = True

    def log(self, name: str) -> Path:
        """What a process wrote, all its starts together."""
        return self.folder.logs / f"{name}.log"
