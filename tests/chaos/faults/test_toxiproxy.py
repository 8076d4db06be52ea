"""The wrapper against a real server, and each flaw of the library that it hides."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from chaos.errors import ToxiproxyHung, ToxiproxyRefused, ToxiproxyUnreachable
from chaos.faults.toxiproxy import Toxic, Toxiproxy
from tests.chaos.conftest import free_port

LATENCY = Toxic("latency", "downstream", {"latency": 5, "jitter": 0})
UPSTREAM = "127.0.0.1:1"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_a_created_proxy_is_typed_and_listens_on_a_free_port(toxiproxy: Toxiproxy) -> None:
    proxy = toxiproxy.create("a-b", UPSTREAM)
    assert proxy.port > 0
    assert proxy.is_healthy
    assert toxiproxy.proxies() == {"a-b": proxy}
    assert toxiproxy.version()


def test_two_clients_keep_their_own_addresses(toxiproxy: Toxiproxy) -> None:
    elsewhere = Toxiproxy("127.0.0.1", free_port())
    with pytest.raises(ToxiproxyUnreachable, match="no Toxiproxy answers"):
        elsewhere.proxies()
    assert toxiproxy.proxies() == {}


def test_a_server_that_hangs_raises_within_the_deadline(silent_port: int) -> None:
    client = Toxiproxy("127.0.0.1", silent_port, deadline_seconds=0.2)
    with pytest.raises(ToxiproxyHung, match=r"GET /proxies for 0\.2 s") as hung:
        client.proxies()
    assert hung.value.seconds == 0.2


def test_a_server_that_breaks_off_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closer = threading.Thread(target=lambda: server.accept()[0].close())  # noqa: PLW0108
        closer.start()
        with pytest.raises(ToxiproxyUnreachable):
            Toxiproxy("127.0.0.1", int(server.getsockname()[1])).proxies()
        closer.join(5)


def test_an_answer_that_is_no_json_is_refused_not_returned() -> None:
    def answer() -> None:
        connection, _ = server.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{,")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(ToxiproxyRefused, match="unreadable answer"):
            Toxiproxy("127.0.0.1", int(server.getsockname()[1])).proxies()
        answering.join(5)


def test_an_environment_proxy_is_not_used(toxiproxy: Toxiproxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert toxiproxy.proxies() == {}


def test_a_port_in_use_is_an_error_with_its_status(toxiproxy: Toxiproxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ToxiproxyRefused, match="address already in use") as refused:
            toxiproxy.create("clash", UPSTREAM, listen)
    assert refused.value.status == 500


def test_an_unknown_toxic_a_repeated_toxic_and_an_unknown_proxy_are_told_apart(toxiproxy: Toxiproxy) -> None:
    toxiproxy.create("a-b", UPSTREAM)
    toxiproxy.add_toxic("a-b", LATENCY)
    for toxic, proxy, status in (
        (Toxic("lag", "upstream"), "a-b", 400),
        (LATENCY, "a-b", 409),
        (LATENCY, "c", 404),
    ):
        with pytest.raises(ToxiproxyRefused) as refused:
            toxiproxy.add_toxic(proxy, toxic)
        assert refused.value.status == status


def test_creating_a_proxy_again_replaces_it_with_its_toxics(toxiproxy: Toxiproxy) -> None:
    toxiproxy.create("a-b", UPSTREAM)
    toxiproxy.add_toxic("a-b", LATENCY)
    assert toxiproxy.create("a-b", UPSTREAM).toxics == ()
    assert toxiproxy.proxy("a-b").is_healthy


def test_a_live_toxic_can_be_updated_and_read_back(toxiproxy: Toxiproxy) -> None:
    toxiproxy.create("a-b", UPSTREAM)
    added = toxiproxy.add_toxic("a-b", LATENCY)
    assert added == Toxic("latency", "downstream", {"latency": 5, "jitter": 0}, "latency_downstream")
    toxiproxy.update_toxic("a-b", Toxic("latency", "downstream", {"latency": 9, "jitter": 0}))
    assert toxiproxy.toxic("a-b", added.label).attributes["latency"] == 9


def test_names_with_reserved_characters_reach_the_right_proxy(toxiproxy: Toxiproxy) -> None:
    toxiproxy.create("a b?c#d", UPSTREAM)
    toxiproxy.add_toxic("a b?c#d", LATENCY)
    assert [toxic.label for toxic in toxiproxy.proxy("a b?c#d").toxics] == ["latency_downstream"]


def test_toxics_are_removed_even_when_the_block_raises(toxiproxy: Toxiproxy) -> None:
    toxiproxy.create("a-b", UPSTREAM)
    with pytest.raises(ToxiproxyRefused), toxiproxy.poisoned("a-b", LATENCY):
        toxiproxy.proxy("gone")
    assert toxiproxy.proxy("a-b").is_healthy


def test_the_first_toxic_is_removed_when_the_second_is_refused(toxiproxy: Toxiproxy) -> None:
    toxiproxy.create("a-b", UPSTREAM)
    with pytest.raises(ToxiproxyRefused), toxiproxy.poisoned("a-b", LATENCY, Toxic("lag", "upstream")):
        pass
    assert toxiproxy.proxy("a-b").is_healthy


def test_a_link_that_was_down_before_stays_down(toxiproxy: Toxiproxy) -> None:
    toxiproxy.create("a-b", UPSTREAM)
    with toxiproxy.down("a-b"):
        with toxiproxy.down("a-b"):
            pass
        assert not toxiproxy.proxy("a-b").enabled
    assert toxiproxy.proxy("a-b").enabled


def test_removing_a_toxic_twice_is_no_error(toxiproxy: Toxiproxy) -> None:
    toxiproxy.create("a-b", UPSTREAM)
    toxiproxy.add_toxic("a-b", LATENCY)
    toxiproxy.remove_toxic("a-b", LATENCY.label)
    toxiproxy.remove_toxic("a-b", LATENCY.label)


def test_a_sweep_heals_toxics_refusals_and_repointed_links_and_names_them(toxiproxy: Toxiproxy) -> None:
    for name in ("toxic", "down", "moved", "well"):
        toxiproxy.create(name, UPSTREAM)
    toxiproxy.add_toxic("toxic", LATENCY)
    toxiproxy.patch("down", enabled=False)
    toxiproxy.patch("moved", upstream="127.0.0.1:2")
    assert toxiproxy.sweep() == ("down", "moved", "toxic")
    assert all(proxy.is_healthy and proxy.upstream == UPSTREAM for proxy in toxiproxy.proxies().values())
    assert toxiproxy.sweep() == ()
