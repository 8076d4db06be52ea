"""Locust's web page answers to its own pages only: not to those of other sites that a browser may show beside it.

Locust itself allows every origin. Whoever may open the page may use it: it is to listen on loopback.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from flask import Response, request
from locust.env import Environment

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def guard(environment: Environment) -> None:
    """Refuse what other sites send, and hosts that are neither loopback's nor in LOCUST_HOSTS."""
    page: Any = environment.web_ui
    if page is not None:
        page.app.before_request(_refusal)


def _refusal() -> Response | None:
    named = {name.strip().lower() for name in os.environ.get("LOCUST_HOSTS", "").split(",")}
    host, origin = request.headers.get("Host", "").lower(), request.headers.get("Origin")
    is_link = request.method == "GET" and request.headers.get("Sec-Fetch-Dest") == "document"
    if urlsplit(f"//{host}").hostname not in LOOPBACK | named:
        return Response(f"Host {host[:100]!r} is not known; ask for localhost, or name it in LOCUST_HOSTS\n", 421)
    if origin is not None and origin.lower().partition("://")[2] != host:
        return Response("only pages of this host may ask\n", 403)
    if request.headers.get("Sec-Fetch-Site", "").lower() == "cross-site" and not is_link:
        return Response("only pages of this host may ask\n", 403)
    return None
