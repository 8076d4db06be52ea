"""Real servers for the harness's own tests: one Toxiproxy and one Valkey a session, stopped and erased at its end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from chaos.faults.toxiproxy import Toxiproxy
from chaos.rack.toxiproxy_server import ToxiproxyServer
from scheduler.embedded import Redis, free_port

__all__ = ["free_port", "start", "stop"]
ROOT = Path(__file__).parents[2]


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(10)


@pytest.fixture(scope="session")
def toxiproxy_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with ToxiproxyServer(tmp_path_factory.mktemp("toxiproxy"), cache=ROOT / ".cache") as server:
        yield "127.0.0.1", server.port


@pytest.fixture
def toxiproxy(toxiproxy_address: tuple[str, int]) -> Iterator[Toxiproxy]:
    """A client of a server without proxies."""
    client = Toxiproxy(*toxiproxy_address)
    yield client
    for name in client.proxies():
        client.delete(name)


@pytest.fixture(scope="session")
def valkey_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with Redis(tmp_path_factory.mktemp("valkey")) as server:
        with redis.Redis.from_url(server.url, socket_timeout=5) as owner:
            owner.acl_setuser("default", enabled=True, nopass=True)
        yield server.port


@pytest.fixture
def valkey(valkey_port: int) -> Iterator[redis.Redis]:
    """A direct connection, past every proxy, to an empty server."""
    with redis.Redis(port=valkey_port, socket_timeout=5) as client:
        client.flushall()
        yield client
