"""The built-in EMAIL against a real SMTP server."""

from __future__ import annotations

from email import message_from_bytes

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from scheduler import Client
from scheduler.embedded import free_port
from tests.cluster import Cluster

pytestmark = pytest.mark.e2e


class Inbox(Message):
    def __init__(self) -> None:
        super().__init__()
        self.raw: list[bytes] = []

    def handle_message(self, message: object) -> None:
        self.raw.append(bytes(message))  # type: ignore[call-overload]


async def test_an_email_job_reaches_the_smtp_server_named_by_the_url(cluster: Cluster) -> None:
    inbox = Inbox()
    server = Controller(inbox, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        async with Client(await cluster.api()) as client:
            await cluster.worker(smtp_url=f"smtp://127.0.0.1:{server.port}")
            mail = {"to": "a@example.com", "subject": "Grüße", "body": "hello"}
            job = await client.submit("EMAIL", mail)
            final = await client.get(job["id"], wait=20)
        assert (final["status"], final["result"]["delivery"]) == ("COMPLETED", "sent")
        received = message_from_bytes(inbox.raw[0])
        assert (received["To"], job["id"] in received["Message-ID"]) == ("a@example.com", True)
    finally:
        server.stop()
