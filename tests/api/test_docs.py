"""The documentation's page: all of it comes from the API itself, and opens where keys are set."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.cluster import Cluster

pytestmark = pytest.mark.e2e
INLINE = re.compile(r"<script>|<style|\son\w+=|\sstyle=|javascript:")


async def test_the_page_opens_without_a_key_and_needs_nothing_from_elsewhere(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(api_keys="k"), timeout=60, trust_env=False) as http:
        page = await http.get("/docs")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        parts = re.findall(r'(?:src|href)="(.*?)"', page.text)
        assert parts == ["data:,", "docs/ui.css", "docs/ui.js", "docs/start.js"]
        assert not INLINE.search(page.text), "its policy forbids what stands inline"
        types = {}
        for path in ("/docs", *(f"/{part}" for part in parts[1:])):
            found = await http.get(path)
            assert found.status_code == 200, path
            assert found.headers["x-content-type-options"] == "nosniff", path
            assert found.headers["x-frame-options"] == "DENY", path
            policy = found.headers["content-security-policy"]
            assert policy.startswith("default-src 'self'; "), path
            assert "frame-ancestors 'none'" in policy, path
            assert "//" not in policy, path
            assert "unsafe" not in policy, path
            types[path] = found.headers["content-type"].partition(";")[0]
            if path == "/docs/ui.css":
                assert re.findall(r"@import|url\((?![\"']?data:)", found.text) == []
        assert list(types.values()) == ["text/html", "text/css", "text/javascript", "text/javascript"]
        document = (await http.get("/openapi.json")).json()
        assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
        assert {path for path in document["paths"] if path.startswith("/docs")} == set()
        for path in ("/redoc", "/docs/oauth2-redirect", "/docs/../jobs", "/docs/ui.js/../../stats", "/jobs", "/stats"):
            assert (await http.get(path)).status_code == 401, path
