"""Embedded stores are closed to other users: passwords, accounts, modes of files; what is planted is refused."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from scheduler.embedded import Postgres, Redis, Server, ServerFailed, Untrusted
from scheduler.embedded import postgres as postgres_module
from scheduler.embedded.private import SERVERS
from tests.cluster import ROOT
from tests.embedded.marks import Make, as_root, both, marks, write

REFUSED = [
    "SHUTDOWN",
    "FLUSHALL",
    "REPLICAOF NO ONE",
    "CONFIG SET dir /tmp",
    "MODULE LIST",
    "DEBUG SLEEP 0",
    "ACL LIST",
]


def test_redis_wants_a_password_and_its_clients_may_not_reconfigure_it(make: Make) -> None:
    with make(Redis) as server:
        assert isinstance(server, Redis)
        with redis.Redis(port=server.port, socket_timeout=5) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with redis.Redis.from_url(server.client_url, socket_timeout=5) as client:
            client.set("a", 1)
            assert client.config_get("maxmemory-policy")
            for words in REFUSED:
                with pytest.raises(redis.ResponseError, match=r"permissions|not allowed"):
                    client.execute_command(*words.split())
        with redis.Redis.from_url(server.url, socket_timeout=5) as owner:
            assert owner.config_set("maxmemory", 0)
            secrets = [server.url.split(":")[2].partition("@")[0], server.client_url.split(":")[2].partition("@")[0]]
            assert not any(secret in str(owner.config_get("*")) + str(owner.acl_list()) for secret in secrets)


@both
def test_nothing_of_a_server_can_be_read_by_others_and_no_password_is_on_its_command_line(
    kind: type[Server], folder: Path, make: Make
) -> None:
    with make(kind) as server:
        write(server)
        entries = [server.folder, server.log, folder / f"{kind.name}.state"]
        assert [path for path in entries if path.stat().st_mode & 0o077] == []
        listing = subprocess.run(["ps", "axwwo", "args"], capture_output=True, text=True, check=True, timeout=10).stdout
        secrets = [path.read_text() for path in server.folder.glob("password*")]
        assert secrets
        assert not any(secret in listing for secret in secrets)


def test_a_data_folder_is_made_for_its_owner_alone(folder: Path, make: Make) -> None:
    with make(Redis, folder / "data"):
        assert (folder / "data").stat().st_mode & 0o777 == 0o700


@as_root
@both
def test_under_root_a_server_runs_as_a_user_of_its_own_below_a_private_folder(
    kind: type[Server], folder: Path, make: Make
) -> None:
    above = folder / "above"
    above.mkdir(mode=0o700)
    with make(kind, above / "data") as server:
        write(server)
        assert Path(f"/proc/{server.pid}").stat().st_uid == SERVERS.uid
        assert server.folder.stat().st_uid == SERVERS.uid
        assert not (above / "data" / kind.name).is_symlink()
        server.kill()
        server.start()
    with make(kind, above / "data") as again:
        assert marks(again) == 1
    with pytest.raises(KeyError):
        pwd.getpwuid(SERVERS.uid)


@as_root
def test_a_server_starts_for_a_process_whose_standard_streams_are_closed(folder: Path) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    start = "from pathlib import Path; from scheduler.embedded import Postgres, Redis\n"
    start += f"for kind in (Redis, Postgres):\n    kind(Path({str(private)!r})).start().stop()"
    words = [sys.executable, "-c", f"import os; os.closerange(0, 3)\n{start}"]
    assert subprocess.run(words, cwd=ROOT, timeout=120, check=False).returncode == 0


# -- what is planted


@both
def test_a_link_or_a_file_in_the_place_of_the_data_is_refused_and_left_alone(
    kind: type[Server], folder: Path, make: Make
) -> None:
    victim, place = folder / "victim", folder / kind.name
    victim.mkdir(mode=0o755)
    place.symlink_to(victim)
    with pytest.raises(Untrusted, match=rf"{place} is (a link to|no folder of ours).*remove"):
        make(kind).start()
    assert (list(victim.iterdir()), victim.stat().st_mode & 0o777) == ([], 0o755)
    place.unlink()
    place.write_text("a file")
    with pytest.raises(Untrusted, match=rf"{place} is no folder of ours.*remove it"):
        make(kind).start()
    assert place.read_text() == "a file"
    place.unlink()


@as_root
@both
def test_a_folder_of_another_user_is_refused_with_the_remedy(kind: type[Server], folder: Path, make: Make) -> None:
    place = folder / kind.name
    place.mkdir()
    os.chown(place, 12_345, 12_345)
    with pytest.raises(Untrusted, match=rf"{place} belongs to uid 12345, not to uid {SERVERS.uid}; .*chown -R"):
        make(kind).start()
    os.chown(folder, 12_345, 12_345)
    with pytest.raises(Untrusted, match=rf"{folder} belongs to uid 12345, .*SCHEDULER_DATA_DIR"):
        make(kind).start()


@both
def test_a_folder_with_other_data_is_refused_and_left_as_it_is(kind: type[Server], folder: Path, make: Make) -> None:
    place = folder / kind.name
    (place / "data").mkdir(parents=True)
    place.chmod(0o755)
    (place / "data" / "base").write_text("another server's")
    with pytest.raises(Untrusted, match=rf"{place} holds no data of this server, but data; move it away, or choose"):
        make(kind).start()
    assert (place / "data" / "base").read_text() == "another server's"
    assert (place.stat().st_mode & 0o777, place.stat().st_uid) == (0o755, os.geteuid())


def test_a_data_folder_in_which_everybody_may_write_is_refused(folder: Path, make: Make) -> None:
    folder.chmod(0o1777)
    with pytest.raises(Untrusted, match=rf"every user may write in {folder}.*chmod o-w"):
        make(Redis).start()


def test_what_may_be_planted_ends_up_with_words_and_two(folder: Path) -> None:
    folder.chmod(0o1777)
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SCHEDULER_")}
    settings = {"SCHEDULER_DATA_DIR": str(folder), "SCHEDULER_PORT": "0", "PYTHONPATH": str(ROOT)}
    up = [sys.executable, "-m", "scheduler", "up"]
    ended = subprocess.run(up, env=clean | settings, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert f"scheduler: every user may write in {folder}" in ended.stderr
    assert "Traceback" not in ended.stderr


@as_root
def test_a_hard_link_among_data_that_are_handed_over_is_refused(folder: Path, make: Make) -> None:
    (folder / "redis").mkdir()
    (folder / "victim").write_text("")
    os.link(folder / "victim", folder / "redis" / "password.default")
    with pytest.raises(Untrusted, match="has another name elsewhere"):
        make(Redis).start()
    assert (folder / "victim").stat().st_uid == 0


# -- what older releases left


def _given_to(folder: Path, uid: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, uid, uid, follow_symlinks=False)


@as_root
def test_data_of_a_redis_that_ran_as_root_without_a_password_are_taken_over(folder: Path, make: Make) -> None:
    with make(Redis) as server:
        write(server)
    _given_to(server.folder, 0)
    server.folder.chmod(0o755)
    for path in server.folder.glob("*.*"):
        path.unlink() if path.is_file() else None
    with make(Redis) as again:
        assert marks(again) == 1
        assert {stat.S_IMODE(again.folder.stat().st_mode), again.folder.stat().st_uid} == {0o700, SERVERS.uid}


@pytest.fixture
def older(folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The link to a cluster as an older release has left it, and the cluster."""
    outside, home = folder / "outside", folder / "data" / "postgres"
    outside.mkdir()
    monkeypatch.setattr(postgres_module, "FORMERLY", outside)
    with make(Postgres, folder / "data") as server:
        write(server)
    _given_to(home, pwd.getpwnam("nobody").pw_uid)
    old = outside / "scheduler-postgres-0123456789ab"
    home.rename(old)
    home.symlink_to(old)
    return home, old


@as_root
def test_a_cluster_that_an_older_release_kept_outside_is_brought_home_however_often_that_is_interrupted(
    older: tuple[Path, Path], folder: Path, make: Make
) -> None:
    home, old = older
    aside = home.with_name("postgres.link")
    home.rename(aside)  # interrupted before the move of the data
    with make(Postgres, folder / "data") as server:
        assert marks(server) == 1
        assert server.folder.stat().st_uid == SERVERS.uid
    aside.symlink_to(old)  # and after it
    with make(Postgres, folder / "data") as server:
        assert marks(server) == 1
    assert not any(path.is_symlink() or path == old for path in (home, aside, *old.parent.iterdir()))


@as_root
def test_what_another_may_have_planted_behind_the_link_is_refused(
    older: tuple[Path, Path], folder: Path, make: Make
) -> None:
    home, old = older
    made = home.lstat().st_mtime

    def start() -> None:
        with pytest.raises(Untrusted, match=rf"{home} is a link to {old}, .*mv {old} {home}.*remove the link"):
            make(Postgres, folder / "data").start()
        assert home.is_symlink()

    os.utime(home, (made, made - 1_000), follow_symlinks=False)  # the link is older than the data behind it
    start()
    os.utime(home, (made, made), follow_symlinks=False)
    os.chown(old, 12_345, 12_345)
    start()
    shutil.rmtree(old)
    start()
    home.unlink()


# -- accounts


@as_root
def test_no_account_called_nobody_is_needed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.embedded.private.UNPRIVILEGED", ("no_such_account",))
    with make(Postgres) as server:
        write(server)


@as_root
def test_where_there_is_no_account_but_root_redis_runs_and_postgres_says_what_it_lacks(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.embedded.private.UNPRIVILEGED", ())
    monkeypatch.setattr(pwd, "getpwall", lambda: [pwd.getpwuid(0)])
    with make(Redis) as server:
        write(server)
    with pytest.raises(ServerFailed, match=r"initdb refuses root.*no other account; add one"):
        make(Postgres).start()
