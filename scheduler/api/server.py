"""The HTTP server: uvicorn with our socket, our signal handling and our log."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from scheduler.api.hot import App
from scheduler.errors import ConfigurationError
from scheduler.facts.facts import API_LISTENING, tell
from scheduler.settings import Settings


class Server(uvicorn.Server):
    """Serves until `should_exit` is set; the process's signals are the runtime's affair."""

    def __init__(self, app: App, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=max(1, int(settings.grace_seconds)),
                backlog=4096,
            )
        )
        self._host, self._port = settings.host, settings.port

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield

    async def run_here(self) -> None:
        """Listen and serve. Raises ConfigurationError when the address is taken."""
        listener = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
        except OSError as error:
            listener.close()
            remedy = "stop what uses it, or set SCHEDULER_PORT"
            raise ConfigurationError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror}; {remedy}"
            ) from error
        listener.listen()  # from here on nobody is turned away; who comes before `serve` waits
        tell(API_LISTENING, url=f"http://{self._host}:{listener.getsockname()[1]}")
        await self.serve([listener])
