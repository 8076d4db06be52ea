"""The HTTP server: uvicorn with our socket, our signal handling and our log."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from scheduler.errors import ConfigurationError
from scheduler.facts.facts import API_LISTENING, tell
from scheduler.settings import Settings

PROTOCOL: dict[str, Any] = {"loop": "none", "http": "httptools", "ws": "none", "lifespan": "off", "backlog": 4096}
QUIET: dict[str, Any] = {"access_log": False, "log_config": None, "server_header": False}


class Server(uvicorn.Server):
    """Serves until `should_exit` is set; the process's signals are the runtime's affair."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        grace = max(1, int(settings.grace_seconds))
        super().__init__(uvicorn.Config(app, **PROTOCOL, **QUIET, timeout_graceful_shutdown=grace))
        self._host, self._port = settings.host, settings.port

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield

    async def run_here(self) -> None:
        """Listen and serve. Raises ConfigurationError when the address is taken."""
        is_v6 = ":" in self._host
        family = socket.AF_INET6 if is_v6 else socket.AF_INET
        try:  # from here on nobody is turned away; who comes before `serve` waits
            listener = socket.create_server((self._host, self._port), family=family, dualstack_ipv6=is_v6)
        except OSError as error:
            reason = f"cannot listen on {self._host}:{self._port}: {error.strerror}"
            raise ConfigurationError(f"{reason}; stop what uses it, or set SCHEDULER_PORT") from error
        tell(API_LISTENING, url=f"http://{self._host}:{listener.getsockname()[1]}")
        await self.serve([listener])
