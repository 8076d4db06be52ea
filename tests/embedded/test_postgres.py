"""What PostgreSQL alone needs: a cluster, a password, a user who is not root, durability."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psycopg
import pytest

from scheduler.embedded import Postgres, launch
from tests.embedded.marks import Make, marks, not_as_root, write


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


@not_as_root
def test_an_ordinary_user_runs_postgres_as_itself(make: Make) -> None:
    with make(Postgres) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == os.geteuid()
