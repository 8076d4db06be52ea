"""Generated requests for every documented operation, against a live process: no 5xx, no undocumented answer."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings

from tests.cluster import Cluster

pytestmark = [pytest.mark.properties, pytest.mark.e2e]
EXAMPLES = 300 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 12
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


def probe(operation: Any, mode: schemathesis.GenerationMode) -> None:
    """Requests of one kind for one operation. A `wait` is shortened: long polls are tested elsewhere."""

    @settings(max_examples=EXAMPLES)
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers(case: schemathesis.Case[Any]) -> None:
        if case.query and "wait" in case.query:
            case.query["wait"] = 0
        case.call_and_validate(checks=CHECKS, timeout=20)

    answers()


def test_no_generated_request_gets_a_5xx_or_an_undocumented_answer(cluster: Cluster) -> None:
    url = asyncio.run(cluster.api())
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) == 12
    for operation in operations:
        probe(operation, schemathesis.GenerationMode.POSITIVE)
        if operation.body or operation.query:
            probe(operation, schemathesis.GenerationMode.NEGATIVE)
    assert "request_failed" not in cluster.log()
    assert "tick_failed" not in cluster.log()
