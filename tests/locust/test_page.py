"""Locust's page as other pages in the same browser can reach it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.locust.conftest import child, unused_port
from tests.locust.test_profiles import eventually

FORM = {"user_count": "1", "spawn_rate": "1", "host": "http://127.0.0.1:1"}


@pytest.fixture
def page() -> Iterator[httpx.Client]:
    port = unused_port()
    command = ("-m", "locust", "-f", "locustfiles/burst.py", "--web-host", "127.0.0.1", "--web-port", str(port))
    with (
        child(*command, env={"LOCUST_HOSTS": "lab.example.com"}),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as http,
    ):
        eventually(lambda: _answers(http))
        yield http


def _answers(http: httpx.Client) -> bool:
    try:
        return bool(http.get("/stats/requests").json()["state"] == "ready")
    except httpx.TransportError:
        return False


def test_pages_of_other_sites_cannot_start_a_swarm_and_the_own_one_can(page: httpx.Client) -> None:
    own = str(page.base_url).rstrip("/")
    for headers, status in (
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": own.replace("127.0.0.1", "localhost")}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example", "origin": "http://evil.example"}, 421),
    ):
        assert page.post("/swarm", data=FORM, headers=headers).status_code == status, headers
        assert page.get("/stats/requests", headers=headers).status_code == status, headers
        assert page.options("/swarm", headers=headers).status_code == status, headers
    assert page.get("/stats/requests").json()["state"] == "ready", "no swarm was started"
    link = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    assert page.get("/", headers=link).status_code == 200
    assert page.get("/", headers={"host": "LAB.example.com:80"}).status_code == 200
    assert page.post("/swarm", data=FORM, headers={"origin": own, "sec-fetch-site": "same-origin"}).is_success
