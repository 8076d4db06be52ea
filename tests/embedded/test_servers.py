"""Embedded stores as processes: started, killed, kept, refused. Real servers, on data folders of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from scheduler.embedded import Postgres, Redis, Server, ServerFailed, embedded, is_free
from scheduler.embedded.process import runs_on
from scheduler.embedded.server import LARGEST_LOG_BYTES
from tests.embedded.marks import Make, both, marks, write


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
