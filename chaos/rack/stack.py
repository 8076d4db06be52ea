"""The whole system under test, in child processes: stores, Toxiproxy, API and workers; and the world faults act on.

The stack stands on stores of the harness, whatever the environment names: a run flushes and kills them. API and
workers reach the stores only through their role's proxies; the harness goes past them. However it ends, every child
is stopped and every temporary folder removed; the children of a harness that was killed are killed by the kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from urllib.parse import urlsplit

import httpx
import redis

from chaos.errors import FaultFailed, StackFailed
from chaos.faults.fault import LINKS
from chaos.faults.toxiproxy import Toxiproxy
from chaos.rack.servers import Servers, Started
from chaos.record.history import Effect
from chaos.record.recorder import Tail
from chaos.record.runs import Folder
from scheduler.embedded import Server, ServerFailed, Stores, free_port, launch

ROOT = Path(__file__).parent.parent.parent
START_SECONDS, STOP_SECONDS = 30.0, 15.0
BUSY_NS = 30_000_000  # a body that has run this long is no longer about to end, whatever its type
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a stack, how it is set, and where it listens (port 0: a free one)."""

    workers: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    control: str | None = None  # the address that CHAOS_CONTROL gets
    control_on: str = "worker"  # a process name, or a role
    api_port: int = 0
    toxiproxy_port: int = 0
    data_dir: Path | None = None  # None: a temporary one
    witnessed: bool = True  # job bodies write the ledger
    armed: dict[tuple[str, int], str] = field(default_factory=dict)  # (process, n-th start) -> its crash point


class Stack(Started):
    """A context manager: the system is up, and healthy, inside the block. Without `servers` it starts its own."""

    def __init__(self, folder: Folder, shape: Shape, servers: Servers | None = None) -> None:
        super().__init__()
        self.folder, self.shape = folder, shape
        self._shared, self._servers = servers is not None, servers
        self.database_url = ""
        self.api_port = shape.api_port or free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._expected_dead: set[str] = set()
        self._ledger = Tail(folder.effects)
        self._open_since: dict[tuple[int, str, int], int] = {}
        self._starts: Counter[str] = Counter()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def stores(self) -> Stores:
        return self._running.stores

    @property
    def toxiproxy(self) -> Toxiproxy:
        return self._running.toxiproxy

    @property
    def _running(self) -> Servers:
        if self._servers is None:
            raise StackFailed("the stack is not started")
        return self._servers

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(f"worker-{number}" for number in range(1, self.shape.workers + 1))

    # -- starting

    def _start(self) -> None:
        if self._servers is None:
            own = Servers(self.shape.data_dir, toxiproxy_port=self.shape.toxiproxy_port)
            self._servers = self._ended.enter_context(own)
        upstreams = {"redis": self.stores.redis.port, "postgres": self.stores.postgres.port}
        for link in LINKS:
            self.toxiproxy.create(link, f"127.0.0.1:{upstreams[link.partition('-')[2]]}")
        self.toxiproxy.sweep()
        self._ended.callback(lambda: end(self._processes.values()))
        self._open_database()
        for name in ("api", *self.workers):
            self.start_process(name)
        self.await_ready()

    def _open_database(self) -> None:
        if self._shared:
            self.database_url = self._running.fresh_database(self._migrate)
            return
        self.database_url = self.stores.postgres.url
        self._migrate(self.database_url)

    def _migrate(self, url: str) -> None:
        """Before anything can be cut, and past every proxy."""
        process = self._launch("migrate", "migrate", {"SCHEDULER_DATABASE_URL": url})
        if process.wait(60):
            raise StackFailed(f"`scheduler migrate` ended with {process.returncode}; {self._ending('migrate')}")

    def start_process(self, name: str) -> int:
        """Start `api` or `worker-N`; returns its pid."""
        role = name.partition("-")[0]
        self._starts[name] += 1
        point = self.shape.armed.get((name, self._starts[name]))
        self._processes[name] = self._launch(name, role, {"SCHEDULER_CRASH_POINTS": point} if point else {})
        self._expected_dead.discard(name)
        if point and ":kill" in point:
            self._expected_dead.add(name)
        return self._processes[name].pid

    def _launch(self, name: str, role: str, more: dict[str, str]) -> subprocess.Popen[bytes]:
        variables = self._environment(name, role) | more
        return launch_python(["scheduler", role], variables, self.folder.logs / f"{name}.log")

    def _environment(self, name: str, role: str) -> dict[str, str]:
        link = "api" if role == "api" else "worker"
        jobs = ["chaos.rack.bodies"] if self.shape.witnessed else []
        found = {
            "SCHEDULER_DATABASE_URL": self._behind(f"{link}-postgres", self.database_url),
            "SCHEDULER_REDIS_URL": self._behind(f"{link}-redis", self.stores.redis.url),
            "SCHEDULER_PORT": str(self.api_port),
            "CHAOS_LEDGER": str(self.folder.effects.absolute()),
        }
        if self.shape.control and self.shape.control_on in {name, role, "*"}:
            jobs.append("chaos.controls.loader")
            found["CHAOS_CONTROL"] = self.shape.control
        return found | {"SCHEDULER_JOBS": ",".join(jobs)} | self.shape.environment

    def _behind(self, link: str, url: str) -> str:
        parts = urlsplit(url)
        port = self.toxiproxy.proxy(link).port
        return parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")).geturl()

    # -- readiness and death

    def await_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until the API serves, says it is ready and sees every worker. Raises StackFailed."""
        wanted = len(self.workers)

        def is_ready() -> bool:
            self.check_alive()
            with httpx.Client(base_url=self.api_url, timeout=2, trust_env=False) as http:
                try:
                    ready = http.get("/readyz").is_success
                    return ready and len(http.get("/stats").json()["workers"]) >= wanted
                except (httpx.HTTPError, ValueError, LookupError, TypeError):
                    return False

        if not _until(is_ready, seconds):
            raise StackFailed(f"the stack was not ready within {seconds:g} s; {self._ending('api')}")

    def check_alive(self) -> None:
        """Raises StackFailed when a process has died that no fault was aimed at."""
        for name, process in self._processes.items():
            if process.poll() is not None and name not in self._expected_dead:
                raise StackFailed(f"{name} ended by itself with {process.returncode}; {self._ending(name)}")

    def bury(self, *, restart_killed: bool) -> list[str]:
        """Those that died unasked since the last call, each told once; a job's SIGKILL of its worker may be mended."""
        told = []
        for name, process in self._processes.items():
            if process.poll() is None or name in self._expected_dead:
                continue
            if restart_killed and process.returncode == -SIGKILL:
                self.start_process(name)
            else:
                self._expected_dead.add(name)
                told.append(f"{name} ended by itself with {process.returncode}")
        return told

    def _ending(self, name: str) -> str:
        log = self.folder.logs / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
        return f"{log} ends with:\n" + "\n".join(f"    {line}" for line in lines or ["(nothing)"])

    # -- the world that faults act on

    def pid(self, process: str) -> int:
        server = self._store(process)
        return server.pid if server else self._process(process).pid

    def signal(self, process: str, number: Signals) -> int:
        """To a store goes to all its processes: PostgreSQL serves each connection with one."""
        if server := self._store(process):
            return self._signal_server(server, number)
        child = self._process(process)
        if child.poll() is not None:
            raise FaultFailed(f"{process} is gone already, with {child.returncode}; there is nothing to {number.name}")
        if number in {SIGKILL, SIGTERM}:
            self._expected_dead.add(process)
        child.send_signal(number)
        return child.pid

    def replace(self, process: str) -> int:
        if server := self._store(process):
            try:
                return server.start().pid
            except ServerFailed as error:
                raise FaultFailed(str(error)) from error
        try:
            self._process(process).wait(STOP_SECONDS * 2)
        except subprocess.TimeoutExpired as error:
            raise FaultFailed(f"{process} did not end within {STOP_SECONDS * 2:g} s of its signal") from error
        return self.start_process(process)

    def flush_redis(self) -> int:
        with redis.Redis.from_url(self.stores.redis.url, socket_timeout=5, socket_connect_timeout=5) as client:
            keys = client.dbsize()
            client.flushall()
        return int(keys)

    def await_busy(self, process: str, seconds: float) -> bool:
        pid = self._process(process).pid
        return _until(lambda: self._is_busy(pid), seconds)

    def await_point(self, process: str, point: str, seconds: float) -> int | None:
        child = self._process(process)
        spec = self.shape.armed[process, self._starts[process]]
        log = self.folder.logs / f"{process}.log"

        def is_reached() -> bool:
            if ":kill" in spec:
                return child.poll() is not None
            if ":stall" in spec:
                return _state(child.pid) == "T"
            return f"crash_point point={point} action=lose" in log.read_text(errors="replace")

        return child.pid if _until(is_reached, seconds) else None

    def _is_busy(self, pid: int) -> bool:
        for effect in self._ledger.read():
            self._note(effect)
        old = time.monotonic_ns() - BUSY_NS
        return any(key[0] == pid and since < old for key, since in self._open_since.items())

    def _note(self, effect: Effect) -> None:
        key = (effect.pid, effect.job_id, effect.attempt)
        if effect.event == "start":
            self._open_since[key] = effect.time_ns
        else:
            self._open_since.pop(key, None)

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        if name not in self._processes:
            raise FaultFailed(f"no process is called {name!r}; there are {', '.join(self._processes)}")
        return self._processes[name]

    def _store(self, name: str) -> Server | None:
        return {"redis": self.stores.redis, "postgres": self.stores.postgres}.get(name)

    def _signal_server(self, server: Server, number: Signals) -> int:
        pid = server.pid
        if number == SIGTERM:
            server.stop()
            return pid
        for child in _children(pid):
            with suppress(ProcessLookupError):
                os.kill(child, number)
        if number == SIGKILL:
            server.kill()
        else:
            os.kill(pid, number)
        return pid


def launch_python(module: list[str], variables: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """`python -m module …` with these variables and few others; killed with us, even while SIGSTOP keeps it deaf."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {key: os.environ[key] for key in KEPT if key in os.environ}
    environment = kept | {"PYTHONPATH": path} | variables
    return launch([sys.executable, "-m", *module], log=log, dies_by=SIGKILL, environment=environment)


def end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to all, time to obey, then SIGKILL to those that did not."""
    living = [process for process in processes if process.poll() is None]
    for process in living:
        process.send_signal(SIGTERM)
        process.send_signal(SIGCONT)
    deadline = time.monotonic() + STOP_SECONDS
    for process in living:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)


def _children(parent: int) -> Iterator[int]:
    listing = ["ps", "-A", "-o", "pid=,ppid="]
    table = subprocess.run(listing, capture_output=True, text=True, timeout=10, check=True).stdout
    for line in table.splitlines():
        pid, ppid = map(int, line.split())
        if ppid == parent:
            yield pid


def _state(pid: int) -> str:
    """One letter: T is stopped, R running, S asleep."""
    if (stat := Path(f"/proc/{pid}/stat")).exists():
        return stat.read_text().rpartition(")")[2].split()[0]
    listing = ["ps", "-o", "state=", "-p", str(pid)]
    return subprocess.run(listing, capture_output=True, text=True, timeout=10, check=False).stdout.strip()[:1]


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
